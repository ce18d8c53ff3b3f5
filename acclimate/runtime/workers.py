"""Work on tasks in this process, or in several that survive the death of one."""

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from multiprocessing import parent_process, resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol, TypeVar

import torch
from torch import multiprocessing

from acclimate.errors import InputError
from acclimate.runtime.budget import out_of_memory, share_with
from acclimate.runtime.determinism import repeat_bits
from acclimate.runtime.memory import keep_freed_memory

Task = TypeVar("Task")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Failure:
    """Why a task has no result."""

    reason: str


class Engine(Protocol):
    """Works on tasks, and gives each task's result or failure as soon as it is there.

    ```python
    for task, outcome in processes(4)(job, tasks):
        ...
    ```
    """

    def __call__(
        self, job: Callable[[Task], Result], tasks: Sequence[Task]
    ) -> Generator[tuple[Task, "Result | Failure"], None, None]:
        """Results in any order; work stops when the generator is closed."""
        ...


def here(
    job: Callable[[Task], Result], tasks: Sequence[Task]
) -> Generator[tuple[Task, Result | Failure], None, None]:
    """One task after another in this process, with all of torch's threads."""
    for task in tasks:
        yield task, attempt(job, task)


def processes(workers: int, threads: int = 1) -> Engine:
    """Several tasks at a time, each in a process that then takes the next task.

    A process that dies takes one task with it: an executor of the standard library would lose all
    tasks. On a machine with several GPUs the processes take turns. The job and the tasks are
    pickled; the job is sent once to each process.

    Args:
        workers: Number of processes.
        threads: Torch threads of each process. Results do not depend on the number of workers;
            rounding may depend on the number of threads.

    Raises:
        InputError: a number below 1.
    """
    check_positive(workers=workers, threads=threads)

    def engine(
        job: Callable[[Task], Result], tasks: Sequence[Task]
    ) -> Generator[tuple[Task, Result | Failure], None, None]:
        waiting = deque(tasks)
        team: list[_Worker] = []
        try:
            for slot in range(min(workers, len(tasks))):
                team.append(_Worker(slot, threads, job, min(workers, len(tasks))))
                team[slot].give(waiting.popleft())
            while busy := {worker.connection: worker for worker in team if worker.busy}:
                for ready in wait(list(busy)):
                    worker = busy[ready]  # type: ignore[index]
                    task, outcome = worker.take()
                    if waiting:
                        worker.give(waiting.popleft())
                    yield task, outcome
        finally:
            for worker in team:
                worker.process.kill()
            for worker in team:
                worker.end()

    return engine


def check_positive(**numbers: int) -> None:
    """Refuse numbers below 1, by their names.

    Raises:
        InputError: one is below 1.
    """
    for name, value in numbers.items():
        if value < 1:
            raise InputError(f"{name} is {value}: give at least 1.")


def usual_workers(threads: int = 1) -> int:
    """One worker for each GPU, or as many as the CPU has cores for."""
    return torch.cuda.device_count() or max(1, (os.cpu_count() or 1) // max(1, threads))


class _Worker:
    """A process and the task that it works on."""

    def __init__(self, slot: int, threads: int, job: Callable, workers: int):
        self.arguments = (slot, threads, job, workers)
        self.busy = False
        self._start()

    def give(self, task: Any) -> None:
        """Let the process work on a task; a process that died is replaced."""
        self.task, self.busy = task, True
        try:
            self.connection.send(task)
        except OSError:  # it died, with its last task or while it waited
            self.end()
            self._start()
            self.connection.send(task)

    def take(self) -> tuple[Any, Any]:
        """The task and its outcome."""
        self.busy = False
        try:
            return self.task, self.connection.recv()
        except (EOFError, ConnectionResetError):
            code = self.end()
            reason = f"its process died with exit code {code}"
            if code == -signal.SIGKILL:  # as the system does where memory runs out
                reason += ", probably because memory ran out; take fewer workers or smaller batches"
            return self.task, Failure(reason)

    def end(self) -> int | None:
        """Wait until the process has ended, and return its exit code."""
        self.process.join()
        self.connection.close()
        return self.process.exitcode

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=_work, args=(other, *self.arguments), daemon=True)
        # The process inherits blocked signals: from its first moment on an interrupt reaches the
        # parent alone, which then ends it. The tracker starts first, for starting it would unblock
        # the signal again.
        resource_tracker.ensure_running()
        usual = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, usual)
        other.close()


def prepare(threads: int, workers: int) -> None:
    """Make this process ready for tasks.

    Args:
        threads: Its torch threads.
        workers: Processes like it that share the machine's memory, with it.
    """
    torch.set_num_threads(threads)
    keep_freed_memory()
    share_with(workers)
    repeat_bits()


def _work(connection: Connection, slot: int, threads: int, job: Callable, workers: int) -> None:
    """Work on task after task until none is given."""
    _end_with_parent()
    prepare(threads, workers)
    if torch.cuda.is_available():
        torch.cuda.set_device(slot % torch.cuda.device_count())
    while True:
        try:
            connection.send(attempt(job, connection.recv()))
        except (EOFError, OSError):
            return


def _end_with_parent() -> None:
    """End this process as soon as its parent has ended, however the parent ended."""
    parent = parent_process()
    assert parent is not None

    def wait_for_it() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait_for_it, daemon=True).start()


def attempt(job: Callable[[Task], Result], task: Task) -> Result | Failure:
    """The result of a task, or why it has none: other tasks go on."""
    try:
        return job(task)
    except InputError as error:
        return Failure(str(error))
    except Exception as error:  # whatever it is
        if out_of_memory(error):
            return Failure("memory ran out; take fewer workers, or smaller batches or images")
        return Failure(f"{type(error).__name__}: {error}")
