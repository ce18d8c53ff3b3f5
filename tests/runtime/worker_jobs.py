"""Jobs of the workers' tests: a module of its own, for processes to find them."""

import os
import signal
import time
from pathlib import Path


def kinds(task):
    """The outcome depends on the task's number."""
    if task == 1:
        raise RuntimeError("no luck")
    if task == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return f"{task} was done"


def wait(task):
    """The first job ends at once and tells its process; the others never end."""
    if task:
        time.sleep(1000)
    return os.getpid()


def blocked(task):
    """The signals that do not reach this process."""
    return signal.pthread_sigmask(signal.SIG_BLOCK, ())


def wait_for_ever(folder):
    """Say which process this is, in a folder, and never end."""
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(1000)
