import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from acclimate.errors import InputError
from acclimate.runtime.workers import Failure, here, processes

HERE = Path(__file__).parent


@pytest.fixture
def jobs(monkeypatch):
    monkeypatch.syspath_prepend(HERE)
    monkeypatch.setenv("PYTHONPATH", str(HERE), prepend=os.pathsep)
    import worker_jobs

    yield worker_jobs
    del sys.modules["worker_jobs"]


def alive(process):
    """Whether a process is there and no zombie."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_until(happened, seconds=120):
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.05)


def test_what_fails_takes_nothing_with_it(jobs):
    outcomes = dict(processes(2)(jobs.kinds, range(5)))
    assert outcomes.pop(1) == Failure("RuntimeError: no luck")
    assert outcomes.pop(2) == Failure(
        "its process died with exit code -9, probably because memory ran out; take fewer workers "
        "or smaller batches"
    )
    assert outcomes == {seed: f"{seed} was done" for seed in (0, 3, 4)}
    assert not multiprocessing.active_children()


def test_closed_early_it_leaves_no_process(jobs):
    outcomes = processes(2)(jobs.wait, range(3))
    _, first = next(outcomes)
    children = {child.pid for child in multiprocessing.active_children()}
    assert first in children and len(children) == 2
    outcomes.close()
    assert not any(alive(child) for child in children)
    assert not multiprocessing.active_children()


BLOCKED = """
import signal
import worker_jobs
from acclimate.runtime.workers import processes

if __name__ == "__main__":
    found = list(processes(2)(worker_jobs.blocked, [1, 2]))
    print([signal.SIGINT in signals for _, signals in found], worker_jobs.blocked(None))
"""


def test_an_interrupt_is_for_the_driver_alone(jobs, tmp_path):
    """In a new interpreter, which starts the standard library's own helper process first."""
    script = tmp_path / "blocked.py"
    script.write_text(BLOCKED)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert done.stdout.split("\n")[0] == "[True, True] set()", done.stderr


DRIVER = """
import signal
import sys
import worker_jobs
from acclimate.runtime.workers import processes

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job in the background lacks
    list(processes(2)(worker_jobs.wait_for_ever, [sys.argv[1]] * 2))
"""


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT], ids=lambda end: end.name)
def test_a_driver_that_ends_leaves_no_process(end, jobs, tmp_path):
    script, told = tmp_path / "driver.py", tmp_path / "processes"
    script.write_text(DRIVER)
    told.mkdir()
    driver = subprocess.Popen([sys.executable, script, told], stderr=subprocess.PIPE, text=True)
    wait_until(lambda: len(list(told.iterdir())) == 2)
    workers = [int(path.name) for path in told.iterdir()]
    assert all(map(alive, workers))
    driver.send_signal(end)
    driver.communicate()
    wait_until(lambda: not any(map(alive, workers)), seconds=10)


def test_here_takes_failures_as_processes_do(jobs):
    def refuse(task):
        raise InputError("no.")

    assert list(here(refuse, [7, 8])) == [(task, Failure("no.")) for task in (7, 8)]
    outcomes = [outcome for _, outcome in here(jobs.kinds, (0, 1, 4))]
    assert outcomes == ["0 was done", Failure("RuntimeError: no luck"), "4 was done"]


def test_nothing_to_do_starts_nothing(jobs):
    assert list(processes(4)(jobs.kinds, [])) == []
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("given", "expected"),
    [((0,), "workers is 0"), ((-1,), "workers is -1"), ((1, 0), "threads is 0")],
)
def test_no_workers_are_refused(given, expected):
    with pytest.raises(InputError, match=f"{expected}: give at least 1"):
        processes(*given)
