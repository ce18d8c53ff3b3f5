"""Tiny bundles and images that many tests share; nothing is trained."""

import functools
import os

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from toy_clip import clip_bundle
from trials import few_trials

from acclimate.backbones import FORMS, build, projected, split
from acclimate.backbones.group_norm import with_safe_group_norms
from acclimate.bundle import Bundle
from acclimate.methods import METHODS, RECIPES
from acclimate.methods.words import needs_transformer
from acclimate.preprocessing import Preprocessing
from acclimate.source.images import SourceImages
from acclimate.source.loop import Run
from acclimate.source.statistics import measure_statistics

SIZE = 16
CLASSES = ("ant", "bee", "cat", "dog")


def pytest_configure(config):
    """Show a GPU to its own tests alone: others compare with what a CPU computes."""
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(scope="session", autouse=True)
def own_environment(tmp_path_factory):
    """No cache of the user's, and the same pictures of frost whatever package is installed."""
    torch.set_num_threads(min(2, torch.get_num_threads()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCLIMATE_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("ACCLIMATE_FROST", "synthetic")
        yield


@pytest.fixture(scope="module", name="few_trials")
def _few_trials():
    """What trains in a test measures less, see `trials.few_trials`."""
    with few_trials():
        yield


@pytest.fixture(scope="session")
def images():
    """uint8 ``[160, 3, 16, 16]``: smooth random pictures with some noise."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(160, 3, 4, 4, generator=generator)
    smooth = nn.functional.interpolate(coarse, size=(SIZE, SIZE), mode="bilinear")
    noise = 0.1 * torch.randn(smooth.shape, generator=generator)
    return ((smooth + noise).clamp(0, 1) * 255).round().to(torch.uint8)


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """``train/class/image``: 40 pictures of 16 pixels, dark and light; not to be changed."""
    folder = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    for name, low in (("dark", 0), ("light", 128)):
        (folder / "train" / name).mkdir(parents=True)
        for number in range(20):
            pixels = generator.integers(low, low + 128, (SIZE, SIZE, 3), np.uint8)
            Image.fromarray(pixels).save(folder / "train" / name / f"{number}.png")
    return folder


@pytest.fixture(scope="session")
def bundle():
    return random_bundle("acclimate:resnet8-w8", views={"smallest_crop": 0.3})


@pytest.fixture(scope="session")
def group_norm_bundle():
    return random_bundle("acclimate:resnet8-w8-gn", views={"smallest_crop": 0.3})


@pytest.fixture(scope="session")
def saved(bundle, tmp_path_factory):
    """The bundle's folder; not to be changed."""
    path = tmp_path_factory.mktemp("saved") / "bundle"
    bundle.save(path)
    return path


@pytest.fixture(scope="session")
def bundle_of():
    """The bundle that a method takes; not to be changed."""
    return _bundle_of


def _bundle_of(name):
    row = METHODS[name]
    if row.zero_shot:
        return _zero_shot_bundle()
    return _bundle_of_recipe(row.recipe, needs_transformer(row))


@functools.cache
def _zero_shot_bundle():
    return clip_bundle(CLASSES, SIZE)


@functools.cache
def _bundle_of_recipe(recipe, transformer):
    architecture = "acclimate:vit2-w32-p4" if transformer else "acclimate:resnet8-w8"
    return random_bundle(architecture, recipe, **SMALL_OPTIONS.get(recipe, {}))


@pytest.fixture(scope="session")
def small_options():
    """Options of each recipe's objective, so that a test takes seconds."""
    return lambda recipe: SMALL_OPTIONS.get(recipe, {})


SMALL_OPTIONS = {
    "ttt": {"copies": 4},
    "tttpp": {"queue": 12, "projection": 8},
    "clust3": {"projectors": 2},
    "nc-ttt": {"projection": 4},
    "rec-ttt": {"blocks": 1},
    "ttt-mae": {"masks": 4, "decoder_width": 32, "decoder_depth": 1},
    "ttt-flow": {"couplings": 2, "blocks": 1},
    "y": {"projection": 8},
}


def random_bundle(architecture, recipe="cta", **options):
    """A bundle as after training: no parameter or statistic has its initial value."""
    torch.manual_seed(0)
    row = RECIPES[recipe]
    base = with_safe_group_norms(split(build(architecture, classes=len(CLASSES))))
    _randomise_norms(base)
    classifier = FORMS[row.form](base)
    twin = projected(classifier) if "align" in row.stages else None
    preprocessing = Preprocessing(SIZE, (0.5, 0.4, 0.3), (0.3, 0.2, 0.25))
    objective = None
    options = {**row.options, **options}
    if row.objective is not None:
        objective = row.objective(twin or classifier, preprocessing, **options)
        _randomise_norms(objective)
    for moved in (twin.encoder if twin else classifier.encoder, objective):
        for parameter in moved.parameters() if moved is not None else ():
            parameter.data += 0.05 * torch.randn_like(parameter)
    for model in filter(None, (classifier, twin, objective)):
        model.eval().requires_grad_(False)
    if objective is not None:
        with torch.no_grad():
            batches = torch.randn(2, 12, 3, SIZE, SIZE)
            objective.observe(twin or classifier, batches)
    models = {"classifier": classifier} | ({"twin": twin} if twin else {})
    pixels = torch.randint(256, (8, 3, SIZE, SIZE), dtype=torch.uint8)
    source = SourceImages(pixels, preprocessing)
    return Bundle(
        statistics=measure_statistics(models, source, Run(device="cpu", precision="fp32")),
        classifier=classifier,
        twin=twin,
        preprocessing=preprocessing,
        classes=CLASSES,
        method=recipe if recipe in METHODS else "source",
        recipe=recipe,
        objective=objective,
        options=options,
        form=row.form,
        architecture=architecture,
        twin_architecture=architecture,
        provenance={"settings": {}},
    )


def _randomise_norms(network):
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
