import multiprocessing
import random
import signal
import time
from pathlib import Path

import pytest

STAGES = ("supervised", "contrastive", "align")


@pytest.fixture
def start(monkeypatch):
    """Start training in a process of its own; the imports are paid once, in the fork server."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    import training_worker

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["acclimate.source.train"])

    def begin(folder):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=training_worker.train, args=(folder, sender))
        process.start()
        sender.close()
        return process, receiver

    begin.steps = training_worker.STEPS
    return begin


def finish(start, folder):
    """Train to the end; the weights' bytes and the number of steps that it took."""
    process, receiver = start(folder)
    steps = 0
    try:
        while True:
            receiver.recv()
            steps += 1
    except EOFError:
        process.join()
    assert process.exitcode == 0
    return (folder / "bundle" / "weights.safetensors").read_bytes(), steps


def kill(start, folder, stage, step, delay):
    """Train until a stage's step is done and a moment has passed, then SIGKILL."""
    process, receiver = start(folder)
    while True:
        where, done = receiver.recv()
        if where == stage and done >= step:
            break
        assert STAGES.index(where) <= STAGES.index(stage), "the stage was over already"
    time.sleep(delay)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (folder / "bundle").exists()


def test_killed_in_each_stage_and_resumed_it_ends_in_the_same_bits(start, tmp_path):
    expected, steps = finish(start, tmp_path / "whole")
    assert steps == sum(start.steps.values())
    for stage in STAGES:
        kill(start, tmp_path / "killed", stage, step=14, delay=0.005)
    found, steps = finish(start, tmp_path / "killed")
    assert found == expected
    assert 0 < steps <= start.steps["align"] - 12  # from the last stage's checkpoint on


@pytest.mark.slow
def test_ten_kills_at_random_moments_in_each_stage(start, tmp_path):
    expected, _ = finish(start, tmp_path / "whole")
    moments = random.Random(0)
    for attempt in range(10):
        folder = tmp_path / str(attempt)
        for stage in STAGES:
            # Every third kill falls behind an epoch's last step, where the checkpoint is written.
            step = 4 * moments.randint(1, 4) if attempt % 3 == 0 else moments.randint(1, 19)
            kill(start, folder, stage, step, delay=moments.uniform(0, 0.03))
        assert finish(start, folder)[0] == expected
