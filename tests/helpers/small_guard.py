"""A guard's calibration on few images, under few changes."""

import pytest

from acclimate.guard import measure
from acclimate.source import held_out
from acclimate.source.stand_ins import STAND_INS

CHANGES = ("invert", "zoom out")


def calibrate_on_few(monkeypatch: pytest.MonkeyPatch, images: int = 40) -> None:
    """Let calibrations take so many images, one severity, and two changes by sight."""
    made = {name: STAND_INS[name] for name in CHANGES}
    monkeypatch.setattr(held_out, "MOST", images)
    wanted = {"SEVERITIES": (5,), "HARD": (5,), "ALONE": 3, "STAND_INS": made}
    for name, value in wanted.items():
        monkeypatch.setattr(measure, name, value)
