"""A few source images, and every recipe's bundle of them in seconds."""

from dataclasses import replace

import pytest
import torch
from trials import few_trials

from acclimate.data import load
from acclimate.methods import METHODS, RECIPES
from acclimate.source.loop import Run, Training
from acclimate.source.presets import STAGES, SourceSettings
from acclimate.source.train import train

LABELLED = Training(1, 32, "sgd", learning_rate=0.05, warm_up=0.5)
UNLABELLED = Training(1, 32, learning_rate=3e-3, warm_up=0.5)
SETTINGS = SourceSettings(
    **{name: LABELLED if name in ("supervised", "joint") else UNLABELLED for name in STAGES},
    contrastive_temperature=0.5,
    start="copy",
)


@pytest.fixture(scope="session")
def data():
    """128 of the embedded pictures, of ten classes."""
    whole = load("fashion-mnist-mini", "train")
    return replace(whole, images=whole.images[:128].clone(), labels=whole.labels[:128])


@pytest.fixture(scope="session")
def target():
    """Other pictures: 48 of a target domain."""
    return load("fashion-mnist-mini", "train").images[500:548].clone()


@pytest.fixture(scope="session")
def method_of():
    """A method for which a recipe makes the bundle."""
    return lambda recipe: next(name for name, row in METHODS.items() if row.recipe == recipe)


@pytest.fixture(scope="session")
def make(data, target, small_options, method_of):
    """Train a recipe's bundle: ``make("ttt", epochs=2, folder=path, weight=0.5)``."""

    @few_trials()
    def make(recipe, *, epochs=1, options=None, settings=SETTINGS, run=None, **given):
        named = {name for name in given if hasattr(settings, name)}
        stages = {name: replace(getattr(settings, name), epochs=epochs) for name in STAGES}
        changes = {name: given.pop(name) for name in named}
        where = {name: given.pop(name) for name in ("seed", "folder", "progress") if name in given}
        method = method_of(recipe)
        oracle = METHODS[method].oracle
        needed = {"data": data} | ({"target": target} if oracle else {})
        trains = RECIPES[recipe].objective is not None
        return train(
            method,
            "acclimate:vit2-w32-p4" if recipe == "ttt-mae" else "acclimate:resnet8-w8",
            settings=replace(settings, **{**stages, **changes}),
            run=run or Run(precision="fp32", device="cpu", **where),
            options=small_options(recipe) | (options or {}) if trains else None,
            **needed | given,
        )

    return make


@pytest.fixture(scope="session")
def assert_same():
    """All weights and statistics of two bundles are equal, bit for bit."""

    def compare(one, other):
        one, other = one.modules.state_dict(), other.modules.state_dict()
        assert one.keys() == other.keys()
        differing = [name for name in one if not torch.equal(one[name], other[name])]
        assert not differing

    return compare
