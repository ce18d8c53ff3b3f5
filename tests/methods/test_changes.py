"""Settings changed by name, and as records."""

import json

import pytest

from acclimate.errors import InputError
from acclimate.methods import (
    METHODS,
    AdapterSettings,
    changed,
    check_settings,
    settings_of_record,
    settings_record,
)
from acclimate.methods.kinds import KINDS
from acclimate.objectives import OBJECTIVES
from acclimate.parts.aftermath import PullToSource, Teacher
from acclimate.parts.normalisation import BatchStatistics, RunningStatistics
from acclimate.parts.reset import Never
from acclimate.parts.update import SAM, SGD, Adam

CTA = METHODS["cta"].settings


def test_single_settings_and_whole_parts():
    found = changed(
        CTA, {"steps": 3, "update.learning_rate": 0.5, "reset": "never", "update": "sgd"}
    )
    assert (found.steps, found.reset) == (3, Never())
    assert found.update == SGD(0.5)
    assert found.objective == CTA.objective
    assert changed(CTA, {"update": {"learning_rate": 0.5}}).update == Adam(0.5)
    assert changed(CTA, {"update": SAM(0.1)}).update == SAM(0.1)
    assert changed(CTA, {}) == CTA


def test_another_kind_does_not_keep_a_none_that_it_does_not_know():
    ours = METHODS["acclimate"].settings
    assert ours.normalisation.limit is None
    assert changed(ours, {"normalisation": "batch"}).normalisation == BatchStatistics(16.0, 1.0)
    none = changed(METHODS["bn-adapt"].settings, {"normalisation": "class-balanced"})
    assert none.normalisation.prior is None


def test_another_kind_keeps_the_settings_that_both_have():
    found = changed(METHODS["tent"].settings, {"update": "sgd"}).update
    assert found == SGD(1e-3, parameters="norm")
    assert changed(CTA, {"normalisation": "running"}).normalisation == RunningStatistics()
    again = changed(CTA, {"normalisation": "batch", "normalisation.prior": 3})
    assert again.normalisation == BatchStatistics(3)


def test_what_follows_a_step_has_numbers():
    found = changed(CTA, {"aftermath": (Teacher(), PullToSource()), "aftermath.1.rate": 0.5})
    assert found.aftermath == (Teacher(), PullToSource(0.5))
    assert changed(CTA, {"aftermath": "pull"}).aftermath == (PullToSource(),)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"stepps": 1}, "did you mean steps"),
        ({"update.learning_rat": 1}, "did you mean update.learning_rate"),
        ({"learning_rate": 1}, "did you mean update.learning_rate"),
        ({"reset": "sometimes"}, "unknown reset 'sometimes': choose one of batch, never"),
        ({"update": "adams"}, "did you mean adam"),
        ({"update": 3}, "unknown update '?3"),
        ({"aftermath.0.rate": 1}, "the method has no aftermath; choose aftermath pull"),
        ({"aftermath.0.ratte": 1}, "has 0 of this part"),
        ({"update.momentum": 1}, "of the method is adam, which has no momentum; choose update sgd"),
        ({"selection.threshold": 1}, "'selection.threshold': All has none"),
        ({"steps.more": 1}, "does not have that part"),
    ],
)
def test_what_cannot_be_meant_is_refused(changes, match):
    with pytest.raises(InputError, match=match):
        changed(CTA, changes)


def test_a_part_that_a_method_lacks_has_no_settings():
    with pytest.raises(InputError, match="takes no gradient steps; choose a method that does"):
        changed(METHODS["source"].settings, {"update.learning_rate": 1.0})


@pytest.mark.parametrize("name", METHODS)
def test_records_bring_settings_back(name):
    settings = METHODS[name].settings
    record = json.loads(json.dumps(settings_record(settings)))
    assert settings_of_record(record) == settings


def test_records_of_parts_that_come_in_numbers():
    settings = changed(CTA, {"aftermath": (Teacher(0.5), PullToSource(0.25)), "update": "sam"})
    assert settings_of_record(json.loads(json.dumps(settings_record(settings)))) == settings


@pytest.mark.parametrize(
    "record",
    [
        {"update": {"kind": "lion"}},
        {"update": {"kind": "adam", "momentum": 0.5}},
        {"reset": {}},
        {"learning_rate": 0.1},
        {"aftermath": [{"kind": "gravity"}]},
    ],
)
def test_records_of_something_else_are_refused(record):
    with pytest.raises(InputError, match="unknown"):
        settings_of_record(settings_record(AdapterSettings()) | record)


def test_every_kind_has_a_name():
    rows = [row.settings for row in METHODS.values()]
    for part, kinds in KINDS.items():
        for settings in rows:
            value = getattr(settings, part)
            for each in value if isinstance(value, tuple) else [value]:
                assert each is None or type(each) in kinds.values()
    trained = {kind.kind for kind in KINDS["objective"].values()}
    assert set(OBJECTIVES.values()) <= trained


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"update.learning_rate": "x"}, "update.learning_rate must be a number, not 'x'"),
        ({"update.parameters": 3}, "update.parameters must be a text"),
        ({"update.auxiliary": "no"}, "update.auxiliary must be true or false"),
        ({"objective.temperature": "a"}, "objective.temperature must be a number"),
        ({"normalisation.prior": "much"}, "normalisation.prior must be a number"),
        ({"normalisation.limit": 1.5}, "limit must lie between 0 and 1"),
        ({"memory.images": 1.5}, "memory.images must be a whole number"),
        ({"memory.images": 10**13}, "images must be 1 to 10000"),
        ({"answer.flip": "no"}, "answer.flip must be true or false"),
        ({"steps": True}, "steps must be a whole number"),
        ({"seed": 1.5}, "seed must be a whole number"),
        ({"one_by_one": "no"}, "one_by_one must be true or false"),
        ({"normalisation": None}, r"normalisation must be a part such as SourceStatistics\(\)"),
        ({"reset": None}, "reset must be a part"),
        ({"update": Teacher()}, "Teacher is no update"),
        ({"update": SAM}, "update must be a part"),
        ({"update": None}, "give an objective and an update"),
        ({"aftermath": None}, "aftermath must be a part"),
    ],
    ids=str,
)
def test_values_of_another_type_are_refused_in_a_sentence(changes, match):
    with pytest.raises(InputError, match=match):
        check_settings(changed(CTA, changes))


def test_one_part_after_a_step_or_a_list_of_them():
    assert changed(CTA, {"aftermath": Teacher()}).aftermath == (Teacher(),)
    assert changed(CTA, {"aftermath": ["teacher", PullToSource()]}).aftermath == (
        Teacher(),
        PullToSource(),
    )
    with pytest.raises(InputError, match="names a part; name one of its settings"):
        changed(CTA, {"aftermath": "teacher", "aftermath.0": 3})


def test_a_record_without_a_penalty_is_that_of_before_there_was_one():
    """Saved states and stored results go by it."""
    assert "penalty" not in settings_record(METHODS["tent"].settings)
    record = settings_record(METHODS["eata"].settings)
    assert record["penalty"] == {"kind": "fisher", "weight": 1.0}
    assert settings_of_record(record) == METHODS["eata"].settings
