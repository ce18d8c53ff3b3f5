import json
from dataclasses import replace

import pytest

from acclimate.errors import InputError
from acclimate.methods import METHODS
from acclimate.methods.changes import NAMES, changed, settings_of_record, settings_record

VALUES = {
    "steps": 7, "update.learning_rate": 0.25, "update.momentum": 0.5, "update.parameters": "norm",
    "normalisation": "running", "normalisation.prior": 3.0, "objective.temperature": 0.7,
    "reset": "never", "one_by_one": True, "precision": "bf16",
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_named_setting_changes_and_nothing_else(name):
    settings = METHODS["cta"].settings
    there = changed(settings, {name: VALUES[name]})
    assert there != settings
    one, other = settings_record(settings), settings_record(there)
    assert sum(one[key] != other[key] for key in one) == 1
    back = {key: one[key] for key in one if one[key] != other[key]}
    assert settings_of_record(other | back) == settings


def test_several_changes_and_none():
    settings = METHODS["cta"].settings
    both = changed(settings, {"steps": 3, "reset": "never"})
    assert (both.steps, both.reset) == (3, "never")
    assert changed(settings, {}) == settings


@pytest.mark.parametrize("name", ["learning_rate", "update", "prior", "stepss", "seed"])
def test_unknown_names_are_refused(name):
    with pytest.raises(InputError, match=f"unknown setting {name!r}"):
        changed(METHODS["cta"].settings, {name: 1})


@pytest.mark.parametrize("name", METHODS)
def test_records_are_json_and_read_back(name):
    settings = replace(METHODS[name].settings, seed=9)
    assert settings_of_record(json.loads(json.dumps(settings_record(settings)))) == settings
