import math
from dataclasses import replace

import pytest

from acclimate.errors import InputError
from acclimate.evaluate import workplace
from acclimate.evaluate.grid import estimate, measure_speeds, run
from acclimate.evaluate.speed import Speed, speed_key
from acclimate.evaluate.store import Store
from acclimate.evaluate.variant import Variant
from acclimate.runtime import workers


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "cells.sqlite") as store:
        yield store


@pytest.fixture
def measured(monkeypatch):
    """The tasks that were measured, as their names and orders."""
    seen, original = [], workplace.measure

    def spy(bundle, variant, data, shifts, **named):
        seen.append((str(variant), shifts))
        return original(bundle, variant, data, shifts, **named)

    monkeypatch.setattr(workplace, "measure", spy)
    return seen


def what(tasks):
    return [(str(task.variant), task.shifts) for task in tasks]


def test_nothing_is_measured_twice(store, tasks, place, measured):
    run(tasks[:1], store, place)
    run(tasks, store, place)
    run(tasks, store, place)
    assert measured == what(tasks)
    cells = store.cells(tasks)
    assert [cell.corruption for cell in cells] == ["none", "contrast", "contrast", "fog"]
    assert [cell.order for cell in cells] == ["shuffled"] * 2 + ["continual"] * 2


def test_a_grid_that_is_interrupted_goes_on(store, tasks, place, measured, monkeypatch):
    counting = workplace.measure

    def only_two(*arguments, **named):
        if len(measured) == 2:
            raise KeyboardInterrupt
        return counting(*arguments, **named)

    monkeypatch.setattr(workplace, "measure", only_two)
    with pytest.raises(KeyboardInterrupt):
        run(tasks, store, place)
    assert store.done() == {task.key for task in tasks[:2]}
    monkeypatch.setattr(workplace, "measure", counting)
    run(tasks, store, place)
    assert measured == what(tasks)


def test_what_failed_is_tried_again_and_the_rest_is_done(store, tasks, place, monkeypatch):
    works = workplace.measure

    def fails(bundle, variant, *arguments, **named):
        if variant == Variant("source"):
            raise (RuntimeError if named["batch"] == 10 else InputError)("no luck")
        return works(bundle, variant, *arguments, **named)

    monkeypatch.setattr(workplace, "measure", fails)
    remarks = []
    run(tasks, store, place, progress=lambda *event: remarks.append(event[3]))
    assert store.done() == {tasks[2].key}
    assert [reason for _, reason in store.errors()] == ["RuntimeError: no luck"] * 2
    assert remarks[-1].endswith(", 2 failed")
    monkeypatch.setattr(workplace, "measure", works)
    run(tasks, store, place)
    assert store.errors() == []
    assert store.done() == {task.key for task in tasks}


def test_an_engine_is_closed_when_something_else_fails(store, tasks, place):
    closed = []

    def engine(job, tasks):
        try:
            yield from workers.here(job, tasks)
        finally:
            closed.append(True)

    def stop(what, done, *rest):
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        run(tasks, store, place, engine=engine, progress=stop)
    assert closed and caught  # while the error still holds the frames
    assert len(store.done()) == 1


def test_progress_is_in_images_or_in_seconds_and_counts_what_was_there(store, tasks, place):
    told = []
    run(tasks[:1], store, place)
    run(tasks, store, place, progress=lambda *event: told.append(event[1:3]))
    assert told == [(24, 96), (48, 96), (96, 96)]
    told.clear()
    speeds = {speed_key(task): Speed(2.0, 1.0, 0, 0, 0) for task in tasks}
    run(tasks, store, place, speeds=speeds, progress=lambda *event: told.append(event[1:3]))
    assert told == [(192, 192)]


def test_speeds_are_measured_once_and_give_the_cost(store, tasks, place):
    probed = []

    def engine(job, tasks):
        probed.extend(str(task.variant) for task in tasks)
        yield from workers.here(job, tasks)

    speeds = measure_speeds(tasks, store, place, engine=engine)
    assert measure_speeds(tasks, store, place, engine=engine) == speeds
    assert probed == ["source", "ptbn"]
    assert speeds.keys() == {speed_key(task) for task in tasks}
    run(tasks[:1], store, place)
    run(tasks, store, place, speeds=speeds)
    costs = [cell.forward_equivalents for cell in store.cells(tasks)]
    assert math.isnan(costs[0])
    assert costs[1:] == [1.0, 1.0, 1.0]


def test_an_estimate_is_what_is_left(store, tasks, place):
    run(tasks[:1], store, place)
    speeds = {speed_key(tasks[0]): Speed(0.5, 1.0, 0, 0, 0)}
    source, ptbn = estimate(tasks, store, speeds)
    assert (str(source.variant), source.tasks, source.done, source.images) == ("source", 2, 1, 24)
    assert source.seconds == 12.0
    assert (ptbn.bundle, ptbn.tasks, ptbn.done, ptbn.images) == ("b", 1, 0, 48)
    assert math.isnan(ptbn.seconds)
    run(tasks, store, place)
    assert [row.seconds for row in estimate(tasks, store, {})] == [0, 0]


def test_a_probe_that_fails_leaves_the_method_without_a_speed(store, tasks, place):
    broken = replace(tasks[0], variant=Variant("ctaa"))
    assert measure_speeds([broken], store, place) == {}
    run([broken], store, place)
    assert "unknown method 'ctaa'" in store.errors()[0][1]
