"""Where the tasks of a grid are worked on: in this process, or in several."""

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import parent_process, resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import multiprocessing

from acclimate.bundle import Bundle
from acclimate.data import LabelledImages
from acclimate.errors import InputError
from acclimate.evaluate.cell import Cell
from acclimate.evaluate.measure import measure
from acclimate.evaluate.speed import Speed, measure_speed
from acclimate.evaluate.task import Task, checksum_of
from acclimate.runtime.determinism import repeat_bits
from acclimate.runtime.memory import keep_freed_memory

Result = TypeVar("Result", covariant=True)


@dataclass(frozen=True)
class Workplace:
    """What tasks are worked on with. It can be sent to other processes."""

    bundles: Mapping[str, Path]
    """Folders by their labels."""
    data: Mapping[str, Callable[[], LabelledImages]]
    """What gives the data set of each `Task.images`; images that are a memory map stay one."""

    def bundle(self, task: Task) -> Bundle:
        """The bundle of a task.

        Raises:
            InputError: another one is there by now.
        """
        return _load(self.bundles[task.bundle], task.checksum)

    def images(self, task: Task) -> LabelledImages:
        """The data set of a task."""
        return _images(self.data[task.images], task.images)


@dataclass(frozen=True)
class Failure:
    """Why a task has no result."""

    reason: str


Job = Callable[[Task, Workplace], Result]


class Engine(Protocol):
    """Works on tasks, and gives each one's result or failure as soon as there is one."""

    def __call__(
        self, job: "Job[Result]", tasks: Sequence[Task], place: Workplace
    ) -> Generator[tuple[Task, "Result | Failure"], None, None]:
        """In any order; closed early, it stops working."""
        ...


def measure_task(task: Task, place: Workplace) -> tuple[Cell, ...]:
    """The job of a grid: see `acclimate.evaluate.measure`."""
    return measure(
        place.bundle(task),
        task.method,
        place.images(task),
        task.shifts,
        order=task.order,
        seed=task.seed,
        batch=task.batch,
        curve=task.curve,
        settings=task.settings,
        label=task.bundle,
    )


def speed_task(task: Task, place: Workplace) -> Speed:
    """The job of a plan: see `acclimate.evaluate.speed`."""
    return measure_speed(task, place.bundle(task), place.images(task))


def here(
    job: Job[Result], tasks: Sequence[Task], place: Workplace
) -> Generator[tuple[Task, Result | Failure], None, None]:
    """One after another in this process, with all of torch's threads."""
    for task in tasks:
        yield task, _attempt(job, task, place)


def processes(workers: int, threads: int = 1) -> Engine:
    """Several at a time, each in a process of its own that the next task finds again.

    A process that dies takes one task with it. On a machine with several GPUs they take turns.
    (An executor of the standard library loses all of its tasks when one process dies.)

    Args:
        workers: How many.
        threads: Of torch, in each. Results do not depend on the number of workers, but rounding
            may on the number of threads.

    Raises:
        InputError: not a positive number.
    """
    for name, value in (("workers", workers), ("threads", threads)):
        if value < 1:
            raise InputError(f"{name} is {value}: give at least 1.")

    def engine(
        job: Job[Result], tasks: Sequence[Task], place: Workplace
    ) -> Generator[tuple[Task, Result | Failure], None, None]:
        waiting = deque(tasks)
        team: list[_Worker] = []
        try:
            for slot in range(min(workers, len(tasks))):
                team.append(_Worker(slot, threads, place))
                team[slot].give(job, waiting.popleft())
            while busy := {worker.connection: worker for worker in team if worker.task}:
                for ready in wait(list(busy)):
                    worker = busy[ready]  # type: ignore[index]
                    task, outcome = worker.take()
                    if waiting:
                        worker.give(job, waiting.popleft())
                    yield task, outcome
        finally:
            for worker in team:
                worker.process.kill()
            for worker in team:
                worker.end()

    return engine


def usual_workers(threads: int = 1) -> int:
    """One a GPU, or as many as the machine has cores for."""
    return torch.cuda.device_count() or max(1, (os.cpu_count() or 1) // max(1, threads))


class _Worker:
    """A process, and what it is busy with."""

    def __init__(self, slot: int, threads: int, place: Workplace):
        self.arguments = (slot, threads, place)
        self.task: Task | None = None
        self._start()

    def give(self, job: Job, task: Task) -> None:
        """Let it work on a task; a process that died is replaced."""
        self.task = task
        try:
            self.connection.send((job, task))
        except OSError:  # it died, with its last task or while it waited
            self.end()
            self._start()
            self.connection.send((job, task))

    def take(self) -> tuple[Task, Any]:
        """What became of its task."""
        task, self.task = self.task, None
        assert task is not None
        try:
            return task, self.connection.recv()
        except (EOFError, ConnectionResetError):
            code = self.end()
            return task, Failure(f"its process died with exit code {code}; is memory enough?")

    def end(self) -> int | None:
        """Wait until it has ended, and return its exit code."""
        self.process.join()
        self.connection.close()
        return self.process.exitcode

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=_work, args=(other, *self.arguments), daemon=True)
        # It inherits what is blocked: from its first moment on the parent is told, and ends it.
        # The tracker goes first, for starting it would unblock the signal again.
        resource_tracker.ensure_running()
        usual = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, usual)
        other.close()


def _work(connection: Connection, slot: int, threads: int, place: Workplace) -> None:
    """Do job after job until nobody gives any."""
    end_with_parent()
    torch.set_num_threads(threads)
    keep_freed_memory()
    repeat_bits()
    if torch.cuda.is_available():
        torch.cuda.set_device(slot % torch.cuda.device_count())
    while True:
        try:
            job, task = connection.recv()
            connection.send(_attempt(job, task, place))
        except (EOFError, OSError):
            return


def end_with_parent() -> None:
    """From now on this process ends as soon as the one that started it has, however it ended."""
    parent = parent_process()
    assert parent is not None

    def wait_for_it() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait_for_it, daemon=True).start()


def _attempt(job: Job[Result], task: Task, place: Workplace) -> Result | Failure:
    try:
        return job(task, place)
    except InputError as error:
        return Failure(str(error))
    except Exception as error:  # whatever it is, other tasks go on
        return Failure(f"{type(error).__name__}: {error}")


# What is loaded is kept for the next task, but not for tasks on what has replaced it since.


@lru_cache(maxsize=2)
def _load(path: Path, checksum: str) -> Bundle:
    if checksum_of(path) != checksum:
        raise InputError(f"{path} is another bundle than when the grid began; start it again.")
    return Bundle.load(path)


@lru_cache(maxsize=2)
def _images(load: Callable[[], LabelledImages], fingerprint: str) -> LabelledImages:
    return load()
