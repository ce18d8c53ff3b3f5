"""Checks that settings of parts share."""

import math

from acclimate.errors import InputError


def not_negative(name: str, value: float) -> None:
    """Refuse a number that is negative, infinite or NaN.

    Raises:
        InputError: with the name.
    """
    if not (math.isfinite(value) and value >= 0):
        raise InputError(f"{name} must be a finite number, 0 or more, not {value}.")


def share(name: str, value: float) -> None:
    """Refuse a number outside 0..1.

    Raises:
        InputError: with the name.
    """
    if not 0 <= value <= 1:
        raise InputError(f"{name} must lie between 0 and 1, not {value}.")
