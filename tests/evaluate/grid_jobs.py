"""Jobs of engines' tests: a module of its own, for processes to find them."""

import os
import signal
import time


def kinds(task, place):
    """What becomes of a job depends on the task's seed."""
    if task.seed == 1:
        raise RuntimeError("no luck")
    if task.seed == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return f"{task.seed} was done"


def wait(task, place):
    """The first job ends at once and tells its process; the others never end."""
    if task.seed:
        time.sleep(1000)
    return os.getpid()


def blocked(task, place):
    """The signals that do not reach this process."""
    return signal.pthread_sigmask(signal.SIG_BLOCK, ())


def wait_for_ever(task, place):
    """Say which process this is, in a folder that the task names, and never end."""
    from pathlib import Path

    (Path(task.dataset) / str(os.getpid())).touch()
    time.sleep(1000)
