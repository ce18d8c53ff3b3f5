import json

import pytest

from acclimate.errors import InputError
from acclimate.storage.canonical import canonical, digest


def test_one_form():
    assert canonical({"b": [1, "ß"], "a": None}) == canonical({"a": None, "b": (1, "ß")})
    assert json.loads(canonical({"b": 1})) == {"b": 1}
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 1, "b": 3})


@pytest.mark.parametrize("value", [object(), {1: 2, "a": 3}])
def test_what_json_does_not_have(value):
    with pytest.raises(InputError, match="must be JSON values and text"):
        canonical({"a": value})


def test_text_that_utf_8_does_not_have_survives():
    """Names of folders may be any bytes."""
    assert json.loads(canonical({"a": "\udce9"}).encode()) == {"a": "\udce9"}
