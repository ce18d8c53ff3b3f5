"""Run the tasks of a grid that the store does not have yet. Killed, it resumes."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from math import nan
from types import MappingProxyType

from acclimate.evaluate.speed import Speed, speed_key
from acclimate.evaluate.store import Store
from acclimate.evaluate.task import Task
from acclimate.evaluate.variant import Variant
from acclimate.evaluate.workplace import Workplace, measure_task, speed_task
from acclimate.runtime import machine
from acclimate.runtime.progress import Progress, silent
from acclimate.runtime.workers import Engine, Failure, here


@dataclass(frozen=True)
class Estimate:
    """The work left for one variant with one bundle."""

    bundle: str
    variant: Variant
    tasks: int
    done: int
    images: int
    """Images still to be answered for."""
    seconds: float
    """Time that one process takes for these images; nan where the speed could not be measured."""


def run(
    tasks: Sequence[Task],
    store: Store,
    place: Workplace,
    *,
    engine: Engine = here,
    speeds: Mapping[str, Speed] = MappingProxyType({}),
    progress: Progress = silent,
) -> None:
    """Work on all tasks that the store has no cells of.

    Args:
        tasks: All tasks of a grid.
        store: Keeps the cells of each task as soon as they are measured.
        place: The bundles and images of the tasks.
        engine: Where the tasks are worked on.
        speeds: From `measure_speeds`; progress then counts seconds of one process, otherwise
            images.
        progress: Told of what is done, finished tasks of earlier runs included.
    """
    commit, finished = machine.commit(), store.done()
    amounts = {task.key: _amount(task, speeds) for task in tasks}
    todo = [task for task in tasks if task.key not in finished]
    total, done = sum(amounts.values()), sum(amounts[key] for key in finished & amounts.keys())
    failed = 0
    progress("adapt and answer", round(done), round(total), "")
    with closing(engine(partial(measure_task, place=place), todo)) as outcomes:
        for task, outcome in outcomes:
            if isinstance(outcome, Failure):
                failed += 1
                store.fail(task, outcome.reason, commit)
            else:
                known = speeds.get(speed_key(task))
                cost = known.forward_equivalents if known else nan
                cells = [replace(cell, forward_equivalents=cost) for cell in outcome]
                store.add(task, cells, commit)
            done += amounts[task.key]
            remark = f"{task}, {failed} failed" if failed else str(task)
            progress("adapt and answer", round(done), round(total), remark)


def measure_speeds(
    tasks: Iterable[Task],
    store: Store,
    place: Workplace,
    *,
    engine: Engine = here,
    progress: Progress = silent,
) -> dict[str, Speed]:
    """Speeds of each variant with each bundle, measured where the store does not know them yet.

    Returns:
        Speeds by `acclimate.evaluate.speed.speed_key`; variants that fail are left out.
    """
    examples = {speed_key(task): task for task in tasks}
    found = {key: speed for key in examples if (speed := store.speed(key))}
    missing = [task for key, task in examples.items() if key not in found]
    with closing(engine(partial(speed_task, place=place), missing)) as outcomes:
        for count, (task, outcome) in enumerate(outcomes, 1):
            if not isinstance(outcome, Failure):
                found[speed_key(task)] = outcome
                store.keep_speed(speed_key(task), outcome)
            progress("measure speeds", count, len(missing), f"{task.bundle} {task.variant}")
    return found


def estimate(tasks: Sequence[Task], store: Store, speeds: Mapping[str, Speed]) -> list[Estimate]:
    """The work left, a row for each variant with each bundle."""
    finished = store.done()
    rows = []
    for bundle, variant in dict.fromkeys((task.bundle, task.variant) for task in tasks):
        mine = [task for task in tasks if (task.bundle, task.variant) == (bundle, variant)]
        todo = [task for task in mine if task.key not in finished]
        seconds = sum(
            task.length * speeds[key].seconds_per_image
            if (key := speed_key(task)) in speeds
            else nan
            for task in todo
        )
        images = sum(task.length for task in todo)
        rows.append(Estimate(bundle, variant, len(mine), len(mine) - len(todo), images, seconds))
    return rows


def _amount(task: Task, speeds: Mapping[str, Speed]) -> float:
    """The share of a task in the progress bar."""
    if not speeds:
        return task.length
    known = speeds.get(speed_key(task))
    return task.length * known.seconds_per_image if known else 0.0
