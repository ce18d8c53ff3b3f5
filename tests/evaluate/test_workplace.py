import shutil
from dataclasses import fields, replace
from functools import partial

import torch

from acclimate.bundle import Bundle
from acclimate.evaluate.cell import Answers, Cell
from acclimate.evaluate.results import TIMINGS
from acclimate.evaluate.task import Grid, tasks_of
from acclimate.evaluate.workplace import Workplace, measure_task
from acclimate.runtime.workers import here, processes


def plain(cell):
    """A cell without what differs from run to run; answers as bytes."""
    scalars = {
        field.name: repr(getattr(cell, field.name))
        for field in fields(Cell)
        if field.name not in (*TIMINGS, "answers")
    }
    return scalars | {f.name: getattr(cell.answers, f.name).tobytes() for f in fields(Answers)}


def test_here_and_processes_give_the_same_bits(saved, data, place):
    grid = Grid(("none", "gaussian_noise"), methods=("source", "cta"), batch=10)
    tasks = tasks_of(grid, place.bundles, data)
    found = [
        {
            task.key: [plain(cell) for cell in cells]
            for task, cells in engine(partial(measure_task, place=place), tasks)
        }
        for engine in (here, processes(2, torch.get_num_threads()))
    ]
    assert found[0].keys() == {task.key for task in tasks}
    assert found[0] == found[1]


def test_a_bundle_that_was_replaced_is_never_taken_for_the_old_one(saved, data, tmp_path):
    path = tmp_path / "bundle"
    shutil.copytree(saved, path)
    grid = Grid(("none",), methods=("source",), batch=10)
    place = Workplace({"b": path}, {})
    old = tasks_of(grid, place.bundles, data)
    place = replace(place, data={old[0].images: lambda: data})
    ((_, before),) = here(partial(measure_task, place=place), old)
    other = Bundle.load(saved)
    other.classifier.head.bias.data += 1000 * data.labels.new_tensor([0, 1, 0, 0])
    shutil.rmtree(path)
    other.save(path)
    job = partial(measure_task, place=place)
    ((_, after),) = here(job, tasks_of(grid, place.bundles, data))
    assert (after[0].answers.predictions == 1).all()
    assert not (before[0].answers.predictions == 1).all()
    place.bundle(old[0])  # what was loaded is kept
    fresh = Workplace({"b": tmp_path / "." / "bundle" / ".." / "bundle"}, place.data)
    ((_, refused),) = here(partial(measure_task, place=fresh), old)
    assert "is another bundle than when the grid began" in refused.reason


def test_data_that_changed_is_loaded_anew(saved, data):
    sets = {"now": data}
    load = lambda: sets["now"]  # noqa: E731
    grid = Grid(("none",), methods=("source",), batch=10)

    def accuracy():
        tasks = tasks_of(grid, {"b": saved}, sets["now"])
        place = Workplace({"b": saved}, {tasks[0].images: load})
        ((_, cells),) = here(partial(measure_task, place=place), tasks)
        return cells[0].accuracy

    first = accuracy()
    sets["now"] = replace(data, labels=(data.labels + 1) % 4)
    assert accuracy() != first
