import pytest
import torch

from acclimate.data import LabelledImages
from acclimate.evaluate.task import Grid, tasks_of
from acclimate.evaluate.workplace import Workplace

CLASSES = ("ant", "bee", "cat", "dog")


@pytest.fixture(scope="session")
def data(images):
    """24 images whose classes are not in order."""
    return LabelledImages(images[:24], torch.arange(24) * 7 % 4, CLASSES, "tiny")


@pytest.fixture(scope="session")
def tasks(saved, data):
    """Three tasks of no gradient step: two under one shift, one under two."""
    shuffled = Grid(("none", "contrast"), methods=("source",), batch=10)
    continual = Grid(("contrast", "fog"), orders=("continual",), methods=("ptbn",), batch=10)
    return [task for grid in (shuffled, continual) for task in tasks_of(grid, {"b": saved}, data)]


@pytest.fixture(scope="session")
def place(saved, data, tasks):
    return Workplace({"b": saved}, {tasks[0].images: Given(data)})


class Given:
    """Gives the same data whenever it is called; processes can be sent it."""

    def __init__(self, data):
        self.data = data

    def __call__(self):
        return self.data
