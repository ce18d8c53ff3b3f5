"""Networks of one and four channels, and of inputs that are not square."""

from dataclasses import replace

import pytest
import torch
from fewer import few_steps
from torch import nn

from acclimate.adapt import Adapter
from acclimate.bundle import Bundle
from acclimate.errors import InputError
from acclimate.methods import METHODS, RECIPES
from acclimate.methods.words import needs_transformer
from acclimate.objectives import Rotation
from acclimate.preprocessing import Preprocessing
from acclimate.source.aligned import align
from acclimate.source.presets import PRESETS, with_epochs
from acclimate.source.train import untrained

SETTINGS = with_epochs(PRESETS["small"], 1)
SHAPES = {"grey": (1, 16, 16), "four channels": (4, 16, 16), "not square": (3, 24, 12)}


def network(channels):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, stride=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    )


def images(shape, count=16, size=None):
    generator = torch.Generator().manual_seed(1)
    shape = (shape[0], *(size or shape[1:]))
    return torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator)


@pytest.fixture(scope="module", params=SHAPES)
def case(request):
    shape = SHAPES[request.param]
    return align(network(shape[0]), images(shape), settings=SETTINGS), shape


def test_alignment_takes_the_images_shape(case, tmp_path):
    bundle, (channels, height, width) = case
    assert bundle.preprocessing.shape == (height, width, channels)
    bundle.save(tmp_path / "bundle")
    loaded = Bundle.load(tmp_path / "bundle", model=network(channels), twin=network(channels))
    assert loaded.preprocessing == bundle.preprocessing


@pytest.mark.parametrize("method", ["source", "ptbn", "tent", "tipi", "aligned-bn", "cta"])
def test_methods_answer(case, method):
    bundle, shape = case
    adapter = Adapter(bundle, method, device="cpu")
    found = adapter(images(shape, 8))
    assert found.shape == (8, 3) and found.isfinite().all()
    assert adapter(images(shape, 2, size=(31, 40))).isfinite().all()
    assert adapter.cost(4).forward_equivalents >= 1


def test_one_by_one_and_with_a_memory(case):
    bundle, shape = case
    adapter = Adapter(bundle, "cta", device="cpu", memory="recent")
    for image in images(shape, 3).split(1):
        assert adapter(image).isfinite().all()


def test_other_channels_are_refused(case):
    bundle, (channels, height, width) = case
    wrong = torch.rand(2, channels + 1, height, width)
    with pytest.raises(InputError, match=rf"\[batch, {channels}, height, width\]"):
        Adapter(bundle, "source", device="cpu")(wrong)
    with pytest.raises(InputError, match=rf"\[batch, {channels}, height, width\]"):
        align(network(channels), images((channels + 1, height, width)), settings=SETTINGS)


def test_rotation_needs_squares(case):
    bundle, _ = case
    preprocessing = replace(bundle.preprocessing, size=(24, 12))
    with pytest.raises(InputError, match="square images, not 24 x 12"):
        Rotation(bundle.classifier, preprocessing, tap=None)


@pytest.mark.parametrize("name", METHODS)
def test_methods_on_images_that_are_not_square(name):
    """Rotations by 90 degrees need squares; all other methods answer."""
    transformer = needs_transformer(METHODS[name])
    model = "acclimate:vit2-w64-p4" if transformer else "acclimate:resnet8-w4"
    if name == "cta-rotation" or RECIPES[METHODS[name].recipe].objective is Rotation:
        with pytest.raises(InputError, match="square images, not 24 x 16"):
            Adapter(untrained(name, model, (24, 16)), name, device="cpu")
        return
    changes = few_steps(name, 1) if METHODS[name].settings.steps else {}
    adapter = Adapter(untrained(name, model, (24, 16)), name, device="cpu", **changes)
    assert adapter(images((3, 24, 16), 8)).isfinite().all()


def test_images_of_another_size_than_the_networks_are_resized():
    """256-pixel images for a network of 224 pixels are cropped, not shrunk again."""
    preprocessing = Preprocessing(14, resize=16)
    bundle = align(network(3), images((3, 16, 16)), preprocessing=preprocessing, settings=SETTINGS)
    adapter = Adapter(bundle, "source", device="cpu", precision="fp32")
    given = images((3, 16, 16), 4)
    torch.testing.assert_close(adapter(given), adapter(given[..., 1:15, 1:15]))
