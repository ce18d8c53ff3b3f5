import json

import pytest
import torch
from torch import nn

from acclimate.backbones import build, projected, split
from acclimate.bundle import Bundle
from acclimate.cli import main
from acclimate.preprocessing import Preprocessing

NAME = "acclimate:resnet8-w4"


def network():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )


def save(path, model, twin, **fields):
    classes = ("ant", "a very long name of a class", "cat")
    preprocessing = Preprocessing(28, resize=32, interpolation="bicubic")
    Bundle(split(model), twin, preprocessing, classes, **fields).save(path)
    return path


@pytest.fixture
def custom(tmp_path):
    """A bundle of a network that is not registered."""
    return save(tmp_path / "custom", network(), None)


@pytest.fixture
def foreign(tmp_path):
    """A bundle of a registered network with a twin that is not."""
    classifier = split(build(NAME, classes=3))
    encoder = nn.Sequential(
        nn.Conv2d(3, classifier.feature_dim, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    twin = projected(type(classifier)(encoder, classifier.head))
    return save(tmp_path / "foreign", classifier, twin, architecture=NAME)


@pytest.fixture
def whole(tmp_path):
    """A bundle whose networks have names."""
    classifier = split(build(NAME, classes=3))
    provenance = {"source": "9 images", "seed": 3, "agreement": {"held out": 0.9375}}
    return save(
        tmp_path / "whole",
        classifier,
        projected(classifier),
        architecture=NAME,
        twin_architecture=NAME,
        provenance=provenance,
    )


def info(path, capsys, *options):
    main(["info", str(path), *options])
    return capsys.readouterr().out


@pytest.mark.parametrize("kind", ["custom", "foreign", "whole"])
def test_healthy_bundles_pass(kind, request, capsys):
    said = info(request.getfixturevalue(kind), capsys)
    assert "the weights' checksum" in said
    assert ("the weights fit the network" in said) == (kind == "whole")


@pytest.mark.parametrize("kind", ["custom", "foreign", "whole"])
@pytest.mark.parametrize("damage", ["changed", "short", "missing"])
def test_damaged_weights_are_noticed(kind, damage, request, capsys):
    path = request.getfixturevalue(kind) / "weights.safetensors"
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(data if damage == "changed" else data[:-1])
    with pytest.raises(SystemExit) as stop:
        info(path.parent, capsys)
    assert stop.value.code == 2
    assert "restore it from a good copy" in capsys.readouterr().err


def test_weights_that_are_no_tensors_are_noticed(custom, capsys):
    """A checksum that fits does not make a safetensors file."""
    from acclimate.bundle_record import read_record, sealed
    from acclimate.storage import atomic

    (custom / "weights.safetensors").write_bytes(b"no tensors")
    record = read_record(custom)
    record["weights_sha256"] = atomic.sha256(custom / "weights.safetensors")
    (custom / "bundle.json").write_text(sealed(record))
    with pytest.raises(SystemExit) as stop:
        info(custom, capsys)
    assert stop.value.code == 2


def test_what_people_read(whole, capsys):
    lines = dict(line.split(maxsplit=1) for line in info(whole, capsys).splitlines() if line)
    assert lines["architecture"] == NAME
    assert lines["classes"] == "3: ant, a very long name of…, cat"
    assert lines["preprocessing"].startswith("resize 32 bicubic, crop 28, mean 0.485")
    assert (lines["method"], lines["recipe"], lines["twin"]) == ("cta", "cta", NAME)
    assert lines["agreement"] == "held out 0.938"
    assert "9 images, seed 3" in lines["made"]
    assert lines["size"].endswith("MB")


def test_a_bundle_without_twin(custom, capsys):
    said = info(custom, capsys)
    assert "none" in said and "custom" in said and "classifier 127" in said


def test_json_has_all_of_it(whole, capsys):
    found = json.loads(info(whole, capsys, "--json"))
    classifier = Bundle.load(whole).classifier
    expected = sum(parameter.numel() for parameter in classifier.parameters())
    assert found["parameters"]["classifier"] == expected
    assert found["bytes"] == sum(file.stat().st_size for file in whole.iterdir())
    assert found["preprocessing"]["resize"] == 32
    assert torch.tensor(found["preprocessing"]["mean"]).shape == (3,)


def test_statistics_of_source_images_are_named(saved, custom, capsys):
    assert "fisher of the classifier" in info(saved, capsys)
    assert "statistics" not in info(custom, capsys)
