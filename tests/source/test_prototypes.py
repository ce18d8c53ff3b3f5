"""Class means and variances of source features against a plain loop."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import acclimate
from acclimate.adapt import Adapter
from acclimate.backbones import Classifier, build, split
from acclimate.bundle import Bundle
from acclimate.errors import InputError
from acclimate.preprocessing import Preprocessing
from acclimate.source import prototypes as module
from acclimate.source.images import SourceImages
from acclimate.source.loop import Run
from acclimate.source.prototypes import prototypes

RUN = Run(device="cpu", precision="fp32")


@pytest.mark.parametrize("architecture", ["acclimate:resnet8-w8", "acclimate:vit2-w32-p4"])
def test_prototypes_are_a_plain_loop_s(architecture, images):
    """Of each class by the classifier's answers, with the source's statistics; none is trained."""
    torch.manual_seed(0)
    model = split(build(architecture, classes=4)).eval().requires_grad_(False)
    preprocessing = Preprocessing(16, (0.5, 0.4, 0.3), (0.3, 0.2, 0.25))
    with torch.no_grad():
        features = model.encoder(preprocessing(images))
        model.head.bias += 1 - model.head(features).mean(0)  # no class has all images
        labels = model(preprocessing(images)).argmax(1)
    assert len(labels.unique()) > 1
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = prototypes(model, SourceImages(images, preprocessing), RUN)
    assert found["images"].tolist() == labels.bincount(minlength=4).tolist()
    for label in range(4):
        own = features[labels == label].double()
        mean = own.mean(0) if len(own) else torch.zeros(model.feature_dim).double()
        variance = own.var(0) if len(own) > 1 else torch.zeros_like(mean)
        torch.testing.assert_close(found["mean"][label].double(), mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            found["variance"][label].double(), variance, rtol=1e-4, atol=1e-5
        )
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


def test_how_many_images_come_at_once_does_not_matter(monkeypatch, images):
    model = split(build("acclimate:resnet8-w8", classes=4)).eval()
    source = SourceImages(images, Preprocessing(16))
    whole = prototypes(model, source, RUN)
    monkeypatch.setattr(SourceImages, "at_once", 7)
    for name, value in prototypes(model, source, RUN).items():
        torch.testing.assert_close(value, whole[name], rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(module, "PROTOTYPE_IMAGES", 40)
    assert prototypes(model, source, RUN)["images"].sum() == 40


class Sum(nn.Module):
    """A head on maps."""

    out_features = 4

    def forward(self, maps):
        return maps.mean((2, 3))[:, :4]


def test_what_has_no_class_means_says_so(images):
    preprocessing = Preprocessing(16)
    maps = Classifier(nn.Conv2d(3, 4, 3), Sum()).eval()
    assert prototypes(maps, SourceImages(images, preprocessing), RUN) == {}
    bundle = Bundle(maps, None, preprocessing, tuple("abcd"), method="source")
    with pytest.raises(InputError, match="head takes maps"):
        Adapter(acclimate.measure(bundle, images[:4], RUN), "rmt", device="cpu")
    odd = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(768, 4)), nn.Linear(4, 3))
    odd.encoder[1].bias.data[0] = torch.inf
    assert prototypes(odd, SourceImages(images, preprocessing), RUN) == {}


def test_a_bundle_without_them_says_how_to_get_them(bundle_of, images):
    bundle = replace(bundle_of("rmt"), statistics={})
    with pytest.raises(InputError, match=r"rmt needs .*acclimate measure BUNDLE IMAGES"):
        Adapter(bundle, "rmt", device="cpu")
    Adapter(acclimate.measure(bundle, images[:20], RUN), "rmt", device="cpu")
