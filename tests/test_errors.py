import pytest

from acclimate.errors import InputError, unknown_name

NAMES = ["fog", "frost", "gaussian_noise", "impulse_noise"]


def test_input_error_is_a_value_error():
    with pytest.raises(ValueError, match="no such"):
        raise InputError("no such thing.")


def test_unknown_name_offers_the_nearest():
    error = unknown_name("corruption", "gausian_noise", NAMES)
    assert isinstance(error, InputError)
    assert str(error).startswith("unknown corruption 'gausian_noise': did you mean gaussian_noise")


def test_unknown_name_lists_all_where_none_is_near():
    message = str(unknown_name("corruption", "zzz", iter(reversed(NAMES))))
    assert message == (
        "unknown corruption 'zzz': choose one of fog, frost, gaussian_noise, impulse_noise."
    )


def test_unknown_name_takes_what_is_no_text():
    assert "choose one of a, b" in str(unknown_name("method", 3, ["b", "a"]))
