import os
import re
import socket

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from acclimate.backbones import Classifier, build
from acclimate.backbones.resnet import GroupNorm
from acclimate.errors import InputError

OWN = {
    "acclimate:resnet14-w32": (128, nn.BatchNorm2d),
    "acclimate:resnet26": (64, nn.BatchNorm2d),
    "acclimate:resnet26-w16-gn": (64, GroupNorm),
    "acclimate:preact26": (64, GroupNorm),
    "acclimate:preact26-w32": (128, GroupNorm),
    "acclimate:preact26-bn": (64, nn.BatchNorm2d),
    "acclimate:resnet50-cifar": (2048, nn.BatchNorm2d),
    "acclimate:resnet50-imagenet": (2048, nn.BatchNorm2d),
}
SMALL = "acclimate:resnet8-w8"


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("a download was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def saved(tmp_path):
    """Save a state dict, by default that of a small model of 5 classes."""

    def save(tensors=None, name="weights.safetensors"):
        tensors = build(SMALL, classes=5).state_dict() if tensors is None else tensors
        save_file({key: value.contiguous() for key, value in tensors.items()}, tmp_path / name)
        return tmp_path / name

    return save


def same(model, tensors):
    own = model.state_dict()
    return own.keys() == tensors.keys() and all(torch.equal(own[k], tensors[k]) for k in own)


@pytest.mark.parametrize("name", OWN)
def test_own_names(name):
    model = build(name, classes=4)
    dim, norm = OWN[name]
    assert isinstance(model, Classifier)
    assert (model.feature_dim, model.num_classes) == (dim, 4)
    norms = (nn.BatchNorm2d, GroupNorm)
    assert {type(m) for m in model.modules() if isinstance(m, norms)} == {norm}


@pytest.mark.parametrize(
    "name",
    ["torchvision:resnet18", "timm:resnet18", "timm:convnext_atto", "timm:resnet18.a1_in1k"],
)
def test_other_sources(name):
    images = torch.randn(1, 3, 32, 32)
    assert build(name, classes=4).eval()(images).shape == (1, 4)
    assert build(name, classes=None).eval()(images).shape == (1, 1000)


def test_random_weights_follow_torchs_seed():
    torch.manual_seed(3)
    first = build(SMALL, classes=5).state_dict()
    torch.manual_seed(3)
    assert same(build(SMALL, classes=5), first)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("acclimate:resnet26-w16-gm", "acclimate:resnet26-w16-gn"),
        ("acclimate:", "acclimate:"),
        ("torchvision:resnet17", "torchvision:resnet18"),
        ("torchvision:fasterrcnn_resnet50_fpn", "resnet50"),
        ("timm:convnext_ato", "timm:convnext_atto"),
        ("timm:hf-hub:timm/resnet18", "models are not downloaded"),
        ("timm:resnet18.no_such_tag", "timm:resnet18"),
        ("densenet121", "timm:densenet121 or torchvision:densenet121"),
        ("", "choose one of"),
    ],
)
def test_unknown_names(name, hint):
    with pytest.raises(InputError, match=re.escape(hint)) as caught:
        build(name, classes=3)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("acclimate:resnet27", "depth 6n + 2"),
        ("acclimate:preact999999998", "depth 6n + 2"),
        ("acclimate:resnet26-w2", "4 to 512"),
        ("acclimate:resnet26-w1024", "4 to 512"),
        ("acclimate:resnet26-w12-gn", "multiple of 8"),
        ("acclimate:preact26-w12", "multiple of 8"),
        ("acclimate:resnet50", "ambiguous"),
    ],
)
def test_impossible_shapes(name, message):
    with pytest.raises(InputError, match=re.escape(message)):
        build(name, classes=3)


def test_number_of_classes_is_checked():
    with pytest.raises(InputError, match="at least 2 classes, not 1"):
        build(SMALL, classes=1)
    with pytest.raises(InputError, match="needs a number of classes"):
        build(SMALL, classes=None)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("classes", [5, None])
def test_weights_are_loaded(saved, prefix, classes):
    tensors = build(SMALL, classes=5).state_dict()
    path = saved({prefix + name: tensor for name, tensor in tensors.items()})
    assert same(build(SMALL, classes=classes, weights=path), tensors)


@pytest.mark.parametrize("name", ["torchvision:mobilenet_v3_small", "timm:resnet18"])
@pytest.mark.parametrize("classes", [6, 1000])
def test_classes_come_from_the_weights(saved, name, classes):
    tensors = build(name, classes=classes).state_dict()
    assert same(build(name, classes=None, weights=saved(tensors)), tensors)


def test_weights_for_another_number_of_classes(saved):
    with pytest.raises(InputError, match="is of a classifier of 5 classes, not of 3"):
        build(SMALL, classes=3, weights=saved())


def test_weights_of_another_width(saved):
    with pytest.raises(InputError, match="other shapes for") as caught:
        build("acclimate:resnet8-w16", classes=5, weights=saved())
    assert "encoder.stem.0.weight (file [8, 3, 3, 3], model [16, 3, 3, 3])" in str(caught.value)
    assert str(caught.value).count("(file") == 3


def test_missing_and_unexpected_weights(saved):
    tensors = build(SMALL, classes=5).state_dict()
    gone = list(tensors)[:4]
    tensors = {name: tensor for name, tensor in tensors.items() if name not in gone}
    path = saved(tensors | {"projector.weight": torch.zeros(2)})
    with pytest.raises(InputError) as caught:
        build(SMALL, classes=5, weights=path)
    assert f"missing 4 ({', '.join(gone[:3])}, ...)" in str(caught.value)
    assert "unexpected 1 (projector.weight)" in str(caught.value)
    with pytest.raises(InputError, match="missing"):
        build(SMALL, classes=None, weights=saved({}))


def test_files_that_are_no_weights(saved, tmp_path):
    whole = saved()
    damaged = tmp_path / "damaged.safetensors"
    for content in (b"", b"not weights at all", whole.read_bytes()[:-7]):
        damaged.write_bytes(content)
        with pytest.raises(InputError, match=r"damaged.safetensors cannot be read"):
            build(SMALL, classes=5, weights=damaged)
    for absent in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(InputError, match="there is no file"):
            build(SMALL, classes=5, weights=absent)


def test_a_file_of_more_than_eight_gib_is_refused(tmp_path):
    path = tmp_path / "huge.safetensors"
    path.touch()
    os.truncate(path, 8 * 2**30 + 1)  # sparse
    with pytest.raises(InputError, match="larger than 8 GiB"):
        build(SMALL, classes=5, weights=path)
