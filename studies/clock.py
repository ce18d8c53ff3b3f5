"""A time budget: training stops after a checkpoint, and a grid after a task, when it is used up."""

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import TypeVar

from acclimate.evaluate.workplace import speed_task
from acclimate.runtime.progress import Progress
from acclimate.runtime.workers import Engine, Failure, here
from acclimate.source.presets import STAGES

Task, Result = TypeVar("Task"), TypeVar("Result")


class OutOfTime(Exception):  # noqa: N818  no error: the work goes on in the next run
    """The budget is used up, and what was finished is on disk."""


class Clock:
    """The time that is left.

    Every run makes some progress, however small its budget: it ends after a piece of work, an epoch
    or a task, and not before the first one.

    Args:
        seconds: The budget, from now on.
    """

    def __init__(self, seconds: float):
        self._end = time.monotonic() + seconds
        self._worked = False

    def check(self) -> None:
        """Stop if the budget is used up and a piece of work was finished.

        Raises:
            OutOfTime: that is so.
        """
        if self._worked and time.monotonic() >= self._end:
            raise OutOfTime

    def finished(self) -> None:
        """A piece of work is done and on disk."""
        self._worked = True

    def training(self, progress: Progress) -> Progress:
        """Progress that stops training at the first step after an epoch, which has a checkpoint."""
        now: tuple[str, str] | None = None

        def tell(task: str, done: int, total: int, remark: str) -> None:
            nonlocal now
            progress(task, done, total, remark)
            if task in STAGES:
                if now not in (None, (task, remark)):
                    self.finished()
                    self.check()
                now = task, remark

        return tell

    def engine(self, engine: Engine) -> Engine:
        """An engine that takes no further task when the budget is used up.

        Speeds are measured in this process: starting others would take longer.
        """

        def limited(
            job: Callable[[Task], Result], tasks: Sequence[Task]
        ) -> Generator[tuple[Task, Result | Failure], None, None]:
            if getattr(job, "func", None) is speed_task:
                yield from here(job, tasks)
                return
            with closing(engine(job, tasks)) as outcomes:
                for outcome in outcomes:
                    yield outcome
                    self.finished()
                    if time.monotonic() >= self._end:
                        return

        return limited
