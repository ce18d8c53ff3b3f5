"""Progress reports of long computations."""

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich import progress as rich_progress
from rich.console import Console

Progress = Callable[[str, int, int, str], None]
"""Callback ``(task, steps done, total steps, remark)``."""


def silent(task: str, done: int, total: int, remark: str) -> None:
    """A progress callback that prints nothing."""


@contextmanager
def live(console: Console | None = None) -> Iterator[Progress]:
    """Show progress bars on standard error, or lines every half minute if it is no terminal.

    ```python
    with live() as progress:
        for epoch in range(10):
            progress("train", epoch + 1, 10, "")
    ```
    """
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield _Lines()
        return
    columns = (
        rich_progress.TextColumn("{task.description:<28}"),
        rich_progress.BarColumn(bar_width=None),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TimeElapsedColumn(),
        rich_progress.TimeRemainingColumn(),
        rich_progress.TextColumn("{task.fields[remark]}"),
    )
    with rich_progress.Progress(*columns, console=console) as bars:
        tasks: dict[str, rich_progress.TaskID] = {}

        def show(task: str, done: int, total: int, remark: str) -> None:
            if task not in tasks:
                tasks[task] = bars.add_task(task, total=total, remark=remark)
            bars.update(tasks[task], completed=done, total=total, remark=remark)

        yield show


class _Lines:
    """Print a line at the start and the end of each task, and every half minute in between."""

    def __init__(self) -> None:
        self.last: dict[str, float] = {}

    def __call__(self, task: str, done: int, total: int, remark: str) -> None:
        now = time.monotonic()
        if done >= total or now - self.last.get(task, -math.inf) > 30:
            self.last[task] = now
            print(f"{task}: {done}/{total} {remark}", file=sys.stderr, flush=True)
