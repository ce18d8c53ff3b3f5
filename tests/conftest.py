"""Tiny bundles and images that many tests share; nothing is trained."""

import pytest
import torch
from torch import nn

from acclimate.backbones import build, split
from acclimate.bundle import Bundle, copied_twin
from acclimate.preprocessing import Preprocessing

SIZE = 16
CLASSES = ("ant", "bee", "cat", "dog")


@pytest.fixture(scope="session", autouse=True)
def own_environment(tmp_path_factory):
    """No cache of the user's, and the same pictures of frost whatever package is installed."""
    torch.set_num_threads(min(2, torch.get_num_threads()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCLIMATE_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("ACCLIMATE_FROST", "synthetic")
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
def bundle():
    return random_bundle("acclimate:resnet8-w8")


@pytest.fixture(scope="session")
def group_norm_bundle():
    return random_bundle("acclimate:resnet8-w8-gn")


@pytest.fixture(scope="session")
def saved(bundle, tmp_path_factory):
    """The bundle's folder; not to be changed."""
    path = tmp_path_factory.mktemp("saved") / "bundle"
    bundle.save(path)
    return path


def random_bundle(architecture):
    """A bundle as after training: no parameter or statistic has its initial value."""
    torch.manual_seed(0)
    classifier = split(build(architecture, classes=len(CLASSES)))
    for module in classifier.modules():
        if isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    twin = copied_twin(classifier.encoder, classifier.feature_dim, classifier.head)
    with torch.no_grad():
        for parameter in twin.encoder.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    for model in (classifier, twin):
        model.eval().requires_grad_(False)
    return Bundle(
        classifier=classifier,
        twin=twin,
        preprocessing=Preprocessing(SIZE, (0.5, 0.4, 0.3), (0.3, 0.2, 0.25)),
        classes=CLASSES,
        objective={"views": {"smallest_crop": 0.3}},
        architecture=architecture,
        twin_architecture=architecture,
        provenance={"settings": {}},
    )
