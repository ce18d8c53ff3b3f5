import json
from dataclasses import replace

import pytest
import torch

from acclimate.advise.settings_file import GUARDS, SettingsFile, load, save
from acclimate.bundle_record import read_record
from acclimate.errors import InputError
from acclimate.evaluate.variant import Variant
from acclimate.guard.guard import MODES
from acclimate.source.statistics import measure


@pytest.fixture
def file(saved):
    weights = read_record(saved)["weights_sha256"]
    variant = Variant.of("tent", {"reset": "batch", "update.learning_rate": 1e-4})
    return SettingsFile(variant, 16, "off", weights)


def test_it_is_read_as_it_was_written(file, saved, tmp_path):
    save(tmp_path / "a.json", file, {"why": ["it gains"]})
    found = load(tmp_path / "a.json")
    assert found == file
    found.check(saved)
    assert found.variant.settings.update.learning_rate == 1e-4
    assert set(GUARDS) == {"off", *MODES}


def test_statistics_that_were_added_do_not_matter_and_weights_do(file, bundle, images, tmp_path):
    measure(bundle, images[:8]).save(tmp_path / "measured")
    file.check(tmp_path / "measured")
    classifier = bundle.classifier
    before = classifier.head.bias.data.clone()
    classifier.head.bias.data += 1
    replace(bundle).save(tmp_path / "other")
    classifier.head.bias.data = before
    with pytest.raises(InputError, match="is for a bundle with other weights than"):
        file.check(tmp_path / "other")
    assert torch.equal(bundle.classifier.head.bias, before)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"acclimate_settings": 2}, "is of version 2"),
        ({"acclimate_settings": "1"}, "is no settings file"),
        ({"bundle": {}}, "has no bundle that can be meant"),
        ({"method": None}, "has no method that can be meant"),
        ({"method": "tend"}, "cannot be used: .*did you mean"),
        ({"changes": {"nothing": 1}}, "cannot be used: .*unknown setting 'nothing'"),
        ({"changes": {"steps": "x"}}, "cannot be used: steps must be a whole number"),
        ({"changes": {"update.learning_rate": -1}}, "cannot be used: learning_rate must be"),
        ({"changes": {"seed": 1}}, "cannot be used: .*changes the seed"),
        ({"changes": {"reset": ["batch"]}}, "has no changes that can be meant"),
        ({"batch": 0}, "has no batch that can be meant"),
        ({"batch": True}, "has no batch that can be meant"),
        ({"guard": "strict"}, "cannot be used: unknown guard 'strict'"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_a_sentence(file, tmp_path, change, said):
    path = tmp_path / "a.json"
    save(path, file)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=said) as refusal:
        load(path)
    assert "\n" not in str(refusal.value) and str(path) in str(refusal.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"method": "tent"}', "\udcff"])
def test_another_file_is_no_settings_file(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match="is no settings file"):
        load(path)


@pytest.mark.parametrize("name", ["nowhere.json", "."])
def test_a_file_that_cannot_be_read(tmp_path, name):
    with pytest.raises(InputError, match="cannot read"):
        load(tmp_path / name)
