import pytest
from hypothesis import given
from hypothesis import strategies as st

from acclimate.errors import InputError
from acclimate.evaluate.variant import Variant
from acclimate.methods import METHODS

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
NAMES = st.from_regex(r"[a-z_]+(\.[a-z_]+)?", fullmatch=True)


@given(st.sampled_from(["cta", "ttt-mae"]), st.dictionaries(NAMES, SCALARS, max_size=4))
def test_a_variant_reads_back_from_its_text(method, changes):
    variant = Variant.of(method, changes)
    again = Variant.parse(str(variant))
    assert again == variant and hash(again) == hash(variant)
    assert str(again) == str(variant)
    assert [type(value) for _, value in again.changes] == [type(v) for _, v in variant.changes]
    assert dict(again.changes) == changes


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("cta", {}),
        ("cta:update.learning_rate=0", {"update.learning_rate": 0}),
        ("cta:steps=3,update.learning_rate=1e-05", {"update.learning_rate": 1e-5, "steps": 3}),
        ("cta:normalisation=batch,reset=never", {"reset": "never", "normalisation": "batch"}),
        ("cta:objective.temperature=null", {"objective.temperature": None}),
        ('cta:update.parameters="a,b"', {"update.parameters": "a,b"}),
        ('cta:update.parameters="1"', {"update.parameters": "1"}),
        ("cta:one_by_one=true", {"one_by_one": True}),
    ],
)
def test_texts_and_what_they_mean(text, changes):
    assert Variant.parse(text) == Variant.of("cta", changes)
    assert str(Variant.of("cta", changes)) == text


def test_numbers_have_one_form():
    assert str(Variant.parse("cta:steps=3.0,update.learning_rate=0.0")) == (
        "cta:steps=3,update.learning_rate=0"
    )


@pytest.mark.parametrize(
    "text",
    ["", ":steps=3", "cta:", "cta:steps", "cta:steps=", "cta:steps=3,", "cta:steps=3,,reset=never",
     "cta:steps=3,steps=4", 'cta:update.parameters="a', "cta:=3"],
)  # fmt: skip
def test_other_texts_are_refused(text):
    with pytest.raises(InputError, match="is no variant of a method; write METHOD"):
        Variant.parse(text)


def test_settings_are_the_method_s_with_the_changes():
    settings = Variant.parse("cta:steps=3,normalisation.prior=4").settings
    assert (settings.steps, settings.reset) == (3, METHODS["cta"].settings.reset)
    assert Variant("cta").settings == METHODS["cta"].settings
    assert settings != METHODS["cta"].settings


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ctaa", "unknown method 'ctaa': did you mean cta"),
        ("cta-lr0", "unknown method 'cta-lr0': did you mean cta"),
        ("cta:step=3", "unknown setting 'step': did you mean steps"),
        ("cta:learning_rate=0", "unknown setting 'learning_rate': did you mean update.learning"),
        ("cta:seed=3", "changes the seed; name the grid's seeds"),
    ],
)
def test_unknown_names_are_refused(text, expected):
    with pytest.raises(InputError, match=expected):
        _ = Variant.parse(text).settings


def test_without_steps():
    variant = Variant.parse("cta:steps=3")
    assert str(variant.without_steps) == "cta:steps=3,update.learning_rate=0"
    assert variant.without_steps.control
    assert not variant.control and not Variant("cta").control
    assert not Variant.parse("cta:update.learning_rate=1e-3").control
