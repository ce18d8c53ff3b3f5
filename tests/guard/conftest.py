from dataclasses import replace

import pytest
import torch

from acclimate.guard.calibration import Answered, calibrated
from acclimate.guard.looks import LOOKS
from acclimate.methods import METHODS

CLASSES = 5


def answers(labels, share, strength, seed):
    """Logits that are right for a share of the images, and then more certain."""
    generator = torch.Generator().manual_seed(seed)
    right = torch.rand(len(labels), generator=generator) < share
    others = (labels + torch.randint(1, CLASSES, labels.shape, generator=generator)) % CLASSES
    logits = 0.5 * torch.randn(len(labels), CLASSES, generator=generator)
    own = torch.where(right, labels, others)
    size = torch.where(right, strength, 0.6 * strength)
    logits[torch.arange(len(labels)), own] += size
    return logits


def answered(shift, frozen, adapted, grouped=False, count=400, seed=0):
    """A set in which the two models are right for these shares of the images."""
    labels = torch.arange(count) % CLASSES
    if grouped:
        labels = labels.sort().values
    truth = 0.02 + 0.9 * torch.nn.functional.one_hot(labels, CLASSES)
    first = answers(labels, frozen, 2 + 3 * frozen, seed)
    second = answers(labels, adapted, 2 + 3 * adapted, seed + 1)
    sizes = [40] * (count // 40)
    return Answered(shift, grouped, False, looked(shift, count), first, second, sizes, truth)


def looked(shift, count):
    """How images look: clean ones near 0, others each at a place of their own."""
    draw = torch.Generator().manual_seed(sum(shift.encode()))
    place = 0 if shift == "none" else 4 * torch.rand(len(LOOKS), generator=draw) + 1
    return place + torch.randn(count, len(LOOKS), generator=draw)


@pytest.fixture(scope="package")
def sets():
    """Sets of which some are better adapted, and those sorted by class are not."""
    found = [answered("none", 0.9, 0.88)]
    for number, shift in enumerate(("noise", "blur", "spatter")):
        seed = 10 * number
        found.append(answered(shift, 0.3 + 0.1 * number, 0.75, seed=seed))
        found.append(answered(shift, 0.6, 0.7 + 0.05 * number, seed=seed + 3))
        found.append(answered(shift, 0.6, 0.2, grouped=True, seed=seed + 6))
    return found


@pytest.fixture(scope="package")
def calibration(sets):
    """The calibration of these sets."""
    return calibrated(sets)


def calibration_of(classes, seed=0):
    """Curves of made-up answers: what they say does not matter to the class."""
    draw = torch.Generator().manual_seed(seed)
    sets = []
    for shift in ("clean", "noise"):
        frozen, adapted = torch.randn(2, 64, classes, generator=draw)
        truth = torch.randn(64, classes, generator=draw).softmax(1)
        sets.append(
            Answered(shift, False, False, torch.zeros(64, 5), frozen, adapted, [16] * 4, truth)
        )
    return calibrated(sets)


@pytest.fixture(scope="package")
def guarded(bundle_of):
    def make(name):
        bundle = bundle_of(name)
        calibration = calibration_of(len(bundle.classes))
        model = METHODS[name].model
        return replace(
            bundle, statistics=bundle.statistics | calibration.tensors(f"{model}.guard.")
        )

    return make
