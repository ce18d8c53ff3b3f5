"""Every method on other people's networks: finite answers that its steps change, or one sentence.

Nothing is trained: a bundle of no epochs has random weights, and enough of everything to adapt.
"""

import functools
import json
from dataclasses import replace

import pytest
import torch
from trials import few_trials

from acclimate.adapt import Adapter
from acclimate.bundle import Bundle
from acclimate.data import LabelledImages
from acclimate.errors import InputError
from acclimate.methods import METHODS, RECIPES
from acclimate.source.loop import Run
from acclimate.source.presets import PRESETS, with_epochs
from acclimate.source.train import train

SETTINGS = replace(with_epochs(PRESETS["small"], 0), cutout=0)
CONVOLUTIONAL = ("acclimate:preact8-w8", "torchvision:resnet18", "timm:resnet18")
TRANSFORMERS = ("acclimate:vit2-w32-p4",)
LEARNING = ("ttt", "clust3", "nc-ttt", "rec-ttt", "ttt-flow", "tent", "cta", "y")
OTHERS = ("tipi", "tttpp", "cta-c", "cta-paper", "cta-rotation", "ttt-online")


@functools.cache
def pictures(size):
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(24, 3, 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")
    return (smooth * 255).to(torch.uint8)


@pytest.fixture(scope="module")
def untrained(small_options):
    """The bundle of no epochs that a method takes; not to be changed."""

    @functools.lru_cache(maxsize=8)  # what is adapted in several ways is made once
    @few_trials()
    def make(method, model, size, options):
        options = json.loads(options)
        images = pictures(size)
        labels = torch.arange(len(images)) % 4
        files = tuple(map(str, range(len(images))))
        data = LabelledImages(images, labels, tuple("abcd"), "pictures", files)
        recipe = RECIPES[METHODS[method].recipe]
        chosen = small_options(METHODS[method].recipe) | options if recipe.objective else None
        run = Run(device="cpu", precision="fp32")
        return train(method, model, data, SETTINGS, run, options=chosen)

    def untrained(method, model, size=32, **options):
        return make(method, model, size, json.dumps(options))

    return untrained


def check(bundle, method, *, steps=1):
    """An adapter answers with finite logits, and its step changes them."""
    images = pictures(bundle.preprocessing.size)
    images = images[:2] if METHODS[method].settings.one_by_one else images[:12]
    settings = {"steps": steps, "update.learning_rate": 1e-2, "device": "cpu", "precision": "fp32"}
    adapter = Adapter(bundle, method, **settings)
    before, *_, after = adapter.trace(images)
    assert adapter.refused == 0
    assert before.shape == (len(images), 4)
    assert before.isfinite().all() and after.isfinite().all()
    assert not torch.equal(before, after)
    assert adapter(images[:1]).isfinite().all()  # one image may be too few to learn from


@pytest.mark.parametrize(
    ("method", "model"),
    [
        # timm's network has the same layers as torchvision's: with one method it is shown here.
        pytest.param(method, model, marks=[pytest.mark.slow] * (model[:4] == "timm" and i > 0))
        for i, method in enumerate(LEARNING)
        for model in CONVOLUTIONAL
    ],
)
def test_methods_on_residual_networks(untrained, method, model):
    check(untrained(method, model), method)


@pytest.mark.slow
@pytest.mark.parametrize("model", CONVOLUTIONAL)
@pytest.mark.parametrize("method", OTHERS)
def test_the_other_methods_on_residual_networks(untrained, method, model):
    check(untrained(method, model), method)


@pytest.mark.slow
@pytest.mark.parametrize("model", CONVOLUTIONAL[1:])
@pytest.mark.parametrize("method", LEARNING)
def test_methods_on_residual_networks_at_64_pixels(untrained, method, model):
    check(untrained(method, model, size=64), method)


@pytest.mark.parametrize("model", TRANSFORMERS)
@pytest.mark.parametrize(
    "method", [name for name in (*LEARNING, *OTHERS, "ttt-mae") if name != "rec-ttt"]
)
def test_methods_on_a_transformer(untrained, method, model):
    options = {"ttt": {"tap": 1}, "ttt-online": {"tap": 1}, "nc-ttt": {"tap": 1}}
    check(untrained(method, model, **options.get(method, {})), method)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ttt", "clust3", "ttt-flow", "tent", "cta", "y", "rec-ttt"])
def test_methods_on_a_convolutional_network_with_layer_norm(untrained, method):
    check(untrained(method, "timm:convnext_atto", size=64), method)


@pytest.mark.parametrize(
    ("method", "model", "options", "found"),
    [
        ("ttt", "torchvision:resnet18", {"tap": "layer3"}, lambda made: made.tap == "layer3"),
        ("ttt", "torchvision:resnet18", {"tap": 2}, lambda made: made.tap == "layer2"),
        pytest.param(
            *("ttt", "timm:resnet18", {"tap": "layer1"}, lambda made: made.tap == "layer1"),
            marks=pytest.mark.slow,
        ),
        (
            "clust3",
            "torchvision:resnet18",
            {"taps": ["layer1", "layer2.0"]},
            lambda made: made.names == ["layer1", "layer2.0"],
        ),
        ("nc-ttt", "timm:resnet18", {"tap": "layer3"}, lambda made: made.names == ["layer3"]),
        ("ttt-flow", "torchvision:resnet18", {"tap": "layer1"}, lambda m: m.names == ["layer1"]),
        (
            "rec-ttt",
            "torchvision:resnet18",
            {"taps": ["layer1", "layer2", "layer3"]},
            lambda made: made.taps == ["layer1", "layer2", "layer3"],
        ),
        (
            "cta-rotation",
            "torchvision:resnet18",
            {"tap": 3},
            lambda made: made.tap == "encoder.layer3",
        ),
    ],
)
def test_taps_by_name(untrained, tmp_path, method, model, options, found):
    bundle = untrained(method, model, **options)
    assert found(bundle.objective)
    check(bundle, method)
    bundle.save(tmp_path / "bundle")
    loaded = Bundle.load(tmp_path / "bundle")
    assert found(loaded.objective)
    images = pictures(32)[:2]
    ours, theirs = (
        Adapter(each, method, steps=1, device="cpu", precision="fp32")(images)
        for each in (bundle, loaded)
    )
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("method", "model", "options", "message"),
    [
        ("ttt-mae", "torchvision:resnet18", {}, "needs timm's VisionTransformer, not ResNet"),
        ("clust3", "torchvision:resnet18", {"taps": ["layer7"]}, "layer7"),
        ("clust3", "torchvision:resnet18", {"taps": [5]}, "no stage 5; choose one of 1"),
        ("nc-ttt", "torchvision:resnet18", {"tap": "avgpool.nothing"}, "avgpool"),
        ("nc-ttt", "acclimate:vit2-w32-p4", {"tap": "fc_norm"}, "no positions|never calls"),
        ("ttt", "torchvision:resnet18", {"tap": "layer1.0.conv1"}, "branched at"),
        ("rec-ttt", "acclimate:vit2-w32-p4", {}, "no stage 3"),
        ("rec-ttt", "acclimate:preact8-w8", {"taps": [3, 2, 1]}, "shrink by halves"),
    ],
)
def test_what_a_network_lacks_is_said_in_a_sentence(untrained, method, model, options, message):
    with pytest.raises(InputError, match=message) as caught:
        untrained(method, model, **options)
    assert "\n" not in str(caught.value) and str(caught.value).endswith((".", "?"))


@pytest.mark.parametrize(
    ("made", "model", "method", "message"),
    [
        ("source", "acclimate:preact8-w8", "ptbn", "this model has no batch norm"),
        ("cta", "acclimate:preact8-w8", "aligned-bn", "this model has no batch norm"),
        ("cta", "acclimate:resnet8-w8", "rec-ttt", "made for cta, not for rec-ttt"),
        ("rec-ttt", "acclimate:resnet8-w8", "cta", "no aligned twin"),
        ("ttt", "acclimate:resnet8-w8", "clust3", "made for ttt, not for clust3"),
        ("ttt", "acclimate:resnet8-w8", "uda-ss", "made for ttt, not for uda-ss"),
        ("y", "acclimate:resnet8-w8", "cta-c", "made for y, not for cta-c"),
        ("cta", "acclimate:resnet8-w8", "cta-rotation", "made for cta, not for cta-rotation"),
        ("source", "acclimate:resnet8-w8", "ttt", "made for supervised, not for ttt"),
    ],
)
def test_methods_that_do_not_fit_a_bundle(untrained, made, model, method, message):
    bundle = untrained(made, model)
    with pytest.raises(InputError, match=message) as caught:
        Adapter(bundle, method)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", ["source", "tent", "tipi"])
@pytest.mark.parametrize("made", ["ttt", "rec-ttt", "cta", "cta-c", "clust3"])
def test_what_needs_the_classifier_alone_takes_any_bundle(untrained, made, method):
    bundle = untrained(made, "acclimate:resnet8-w8")
    assert Adapter(bundle, method, device="cpu")(pictures(32)[:8]).isfinite().all()


@pytest.mark.parametrize("method", ["tent", "tipi", "clust3", "ttt-flow", "rec-ttt"])
def test_one_image_of_one_pixel_maps_is_answered_without_a_step(untrained, method):
    """Batch norm has no statistics of the single value that layer4 gives at 32 pixels."""
    options = {"clust3": {"taps": [4]}, "ttt-flow": {"tap": 4}}.get(method, {})
    bundle = untrained(method, "torchvision:resnet18", **options)
    adapter = Adapter(bundle, method, device="cpu", precision="fp32", update={"learning_rate": 0.1})
    before = [parameter.clone() for parameter in adapter.model.parameters()]
    assert adapter(pictures(32)[:1]).isfinite().all()
    moved = [not torch.equal(p, b) for p, b in zip(adapter.model.parameters(), before)]
    assert not any(moved)
    adapter(pictures(32)[:2])
    assert any(not torch.equal(p, b) for p, b in zip(adapter.model.parameters(), before))
