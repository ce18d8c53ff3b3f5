import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from acclimate.bundle import Bundle
from acclimate.errors import InputError
from acclimate.evaluate.cell import Answers, Cell
from acclimate.evaluate.engines import Failure, Workplace, here, measure_task, processes
from acclimate.evaluate.results import TIMINGS
from acclimate.evaluate.task import Grid, tasks_of

HERE = Path(__file__).parent


@pytest.fixture
def jobs(monkeypatch):
    monkeypatch.syspath_prepend(HERE)
    monkeypatch.setenv("PYTHONPATH", str(HERE), prepend=os.pathsep)
    import grid_jobs

    yield grid_jobs
    del sys.modules["grid_jobs"]


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


def plain(cell):
    """A cell without what differs from run to run; answers as bytes."""
    scalars = {
        field.name: repr(getattr(cell, field.name))
        for field in fields(Cell)
        if field.name not in (*TIMINGS, "answers")
    }
    return scalars | {f.name: getattr(cell.answers, f.name).tobytes() for f in fields(Answers)}


def test_here_and_processes_give_the_same_bits(saved, data, place):
    grid = Grid(("none", "gaussian_noise"), methods=("source", "cta"), batch=10)
    tasks = tasks_of(grid, place.bundles, data)
    found = [
        {
            task.key: [plain(cell) for cell in cells]
            for task, cells in engine(measure_task, tasks, place)
        }
        for engine in (here, processes(2, torch.get_num_threads()))
    ]
    assert found[0].keys() == {task.key for task in tasks}
    assert found[0] == found[1]


def test_what_fails_takes_nothing_with_it(jobs, tasks, place):
    todo = [replace(tasks[0], seed=seed) for seed in range(5)]
    outcomes = {task.seed: outcome for task, outcome in processes(2)(jobs.kinds, todo, place)}
    assert outcomes.pop(1) == Failure("RuntimeError: no luck")
    assert outcomes.pop(2) == Failure("its process died with exit code -9; is memory enough?")
    assert outcomes == {seed: f"{seed} was done" for seed in (0, 3, 4)}
    assert not multiprocessing.active_children()


def test_closed_early_it_leaves_no_process(jobs, tasks, place):
    todo = [replace(tasks[0], seed=seed) for seed in range(3)]
    outcomes = processes(2)(jobs.wait, todo, place)
    _, first = next(outcomes)
    children = {child.pid for child in multiprocessing.active_children()}
    assert first in children and len(children) == 2
    outcomes.close()
    assert not any(alive(child) for child in children)
    assert not multiprocessing.active_children()


BLOCKED = """
import signal
import grid_jobs
from acclimate.evaluate.engines import Workplace, processes

if __name__ == "__main__":
    found = list(processes(2)(grid_jobs.blocked, [1, 2], Workplace({}, {})))
    print([signal.SIGINT in signals for _, signals in found], grid_jobs.blocked(None, None))
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
from dataclasses import replace
import grid_jobs
from acclimate.evaluate.engines import Workplace, processes
from acclimate.evaluate.task import Task

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job in the background lacks
    rest = {name: None for name in Task.__dataclass_fields__}
    tasks = [Task(**rest | {"dataset": sys.argv[1], "seed": seed}) for seed in range(2)]
    list(processes(2)(grid_jobs.wait_for_ever, tasks, Workplace({}, {})))
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


def test_here_takes_failures_as_processes_do(jobs, tasks, place):
    def refuse(task, place):
        raise InputError("no.")

    assert list(here(refuse, tasks, place)) == [(task, Failure("no.")) for task in tasks]
    todo = [replace(tasks[0], seed=seed) for seed in (0, 1, 4)]
    outcomes = [outcome for _, outcome in here(jobs.kinds, todo, place)]
    assert outcomes == ["0 was done", Failure("RuntimeError: no luck"), "4 was done"]


def test_nothing_to_do_starts_nothing(place):
    assert list(processes(4)(measure_task, [], place)) == []
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("given", "expected"),
    [((0,), "workers is 0"), ((-1,), "workers is -1"), ((1, 0), "threads is 0")],
)
def test_no_workers_are_refused(given, expected):
    with pytest.raises(InputError, match=f"{expected}: give at least 1"):
        processes(*given)


def test_a_bundle_that_was_replaced_is_never_taken_for_the_old_one(saved, data, tmp_path):
    path = tmp_path / "bundle"
    shutil.copytree(saved, path)
    grid = Grid(("none",), methods=("source",), batch=10)
    place = Workplace({"b": path}, {})
    old = tasks_of(grid, place.bundles, data)
    place = replace(place, data={old[0].images: lambda: data})
    ((_, before),) = here(measure_task, old, place)
    other = Bundle.load(saved)
    other.classifier.head.bias.data += 1000 * data.labels.new_tensor([0, 1, 0, 0])
    shutil.rmtree(path)
    other.save(path)
    ((_, after),) = here(measure_task, tasks_of(grid, place.bundles, data), place)
    assert (after[0].answers.predictions == 1).all()
    assert not (before[0].answers.predictions == 1).all()
    place.bundle(old[0])  # what was loaded is kept
    fresh = Workplace({"b": tmp_path / "." / "bundle" / ".." / "bundle"}, place.data)
    ((_, refused),) = here(measure_task, old, fresh)
    assert "is another bundle than when the grid began" in refused.reason


def test_data_that_changed_is_loaded_anew(saved, data):
    sets = {"now": data}
    load = lambda: sets["now"]  # noqa: E731
    grid = Grid(("none",), methods=("source",), batch=10)

    def accuracy():
        tasks = tasks_of(grid, {"b": saved}, sets["now"])
        ((_, cells),) = here(measure_task, tasks, Workplace({"b": saved}, {tasks[0].images: load}))
        return cells[0].accuracy

    first = accuracy()
    sets["now"] = replace(data, labels=(data.labels + 1) % 4)
    assert accuracy() != first
