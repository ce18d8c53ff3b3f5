"""Run a grid: whatever is not in the store yet. Killed, it resumes."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from math import nan
from types import MappingProxyType

from acclimate.evaluate.engines import Engine, Failure, Workplace, here, measure_task, speed_task
from acclimate.evaluate.speed import Speed, speed_key
from acclimate.evaluate.store import Store
from acclimate.evaluate.task import Task
from acclimate.runtime import machine
from acclimate.runtime.progress import Progress, silent


@dataclass(frozen=True)
class Estimate:
    """What is to be done of one method of one bundle."""

    bundle: str
    method: str
    tasks: int
    done: int
    images: int
    """Still to be answered for."""
    seconds: float
    """Of one process, for these; nan where it failed."""


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
        tasks: All of a grid's.
        store: Where cells are kept, each as soon as there is one.
        place: What the tasks are worked on with.
        engine: Where they are worked on.
        speeds: From `measure_speeds`; progress is then told in seconds of one process, otherwise in
            images.
        progress: Told of what is done, finished tasks of earlier runs included.
    """
    commit, finished = machine.commit(), store.done()
    amounts = {task.key: _amount(task, speeds) for task in tasks}
    todo = [task for task in tasks if task.key not in finished]
    total, done = sum(amounts.values()), sum(amounts[key] for key in finished & amounts.keys())
    failed = 0
    progress("adapt and answer", round(done), round(total), "")
    with closing(engine(measure_task, todo, place)) as outcomes:
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
    """How fast each method of each bundle is, measured where the store does not know it yet.

    Returns:
        By `acclimate.evaluate.speed.speed_key`; those that fail are left out.
    """
    examples = {speed_key(task): task for task in tasks}
    found = {key: speed for key in examples if (speed := store.speed(key))}
    missing = [task for key, task in examples.items() if key not in found]
    with closing(engine(speed_task, missing, place)) as outcomes:
        for count, (task, outcome) in enumerate(outcomes, 1):
            if not isinstance(outcome, Failure):
                found[speed_key(task)] = outcome
                store.keep_speed(speed_key(task), outcome)
            progress("measure speeds", count, len(missing), f"{task.bundle} {task.method}")
    return found


def estimate(tasks: Sequence[Task], store: Store, speeds: Mapping[str, Speed]) -> list[Estimate]:
    """What is still to be done, a row for each method of each bundle."""
    finished = store.done()
    rows = []
    for bundle, method in dict.fromkeys((task.bundle, task.method) for task in tasks):
        mine = [task for task in tasks if (task.bundle, task.method) == (bundle, method)]
        todo = [task for task in mine if task.key not in finished]
        seconds = sum(
            task.length * speeds[key].seconds_per_image
            if (key := speed_key(task)) in speeds
            else nan
            for task in todo
        )
        images = sum(task.length for task in todo)
        rows.append(Estimate(bundle, method, len(mine), len(mine) - len(todo), images, seconds))
    return rows


def _amount(task: Task, speeds: Mapping[str, Speed]) -> float:
    """What a task weighs in the progress bar."""
    if not speeds:
        return task.length
    known = speeds.get(speed_key(task))
    return task.length * known.seconds_per_image if known else 0.0
