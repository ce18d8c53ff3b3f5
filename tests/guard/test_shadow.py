"""In the shadow, whatever comes: the frozen classifier's answers, to the bit, with every method."""

import pytest
import torch

from acclimate.adapt import Adapter
from acclimate.guard.guard import Guard
from acclimate.methods import METHODS


def streams(images):
    """Batches that adapting has trouble with, by name."""
    by_brightness = images.float().mean((1, 2, 3)).argsort()
    noise = torch.randint(0, 256, images[:6].shape, generator=torch.Generator().manual_seed(0))
    half = images[:6].clone()
    half[:, :, :8] = 0
    return {
        "shuffled": images[:16].split(8),
        "sorted": images[by_brightness[:12]].split(6),
        "single": images[20:23].split(1),
        "constant frame": images[3:4].expand(10, -1, -1, -1).split(5),
        "frames repeated": images[[0, 0, 0, 1, 1, 1]].split(6),
        "noise": noise.byte().split(6),
        "black and white": torch.cat([images[:4] * 0, images[:3], images[:2] * 0 + 255]).split(9),
        "half occluded": half.split(6),
        "floats": (images[:6].float() / 255).split(6),
    }


def check(bundle, name, chosen, images, batches=None):
    guard = Guard(Adapter(bundle, name), bundle, "shadow")
    for kind, stream in streams(images).items():
        if chosen is not None and kind not in chosen:
            continue
        frozen = Adapter(bundle, "source")  # what it answers does not depend on what it saw
        for batch in stream[:batches]:
            given = guard(batch)
            assert torch.equal(given, frozen(batch)), kind
            assert torch.equal(given, guard.both[0]), kind
    assert {line["answer"] for line in guard.decisions} == {"frozen"}


@pytest.mark.parametrize("name", ["source", "ptbn", "tent", "roid", "cta", "acclimate"])
def test_answers_are_the_frozen_ones_to_the_bit(guarded, images, name):
    check(guarded(name), name, None, images)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_answers_are_the_frozen_ones_to_the_bit_with_every_method(guarded, images, name):
    check(guarded(name), name, None, images, batches=1)
