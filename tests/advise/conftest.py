import pytest

from acclimate.advise import plan
from acclimate.guard import measure as guard


@pytest.fixture
def less(monkeypatch):
    """Fewer images, and a small calibration of the guard."""
    for name, value in (("IMAGES", 40), ("SEVERITIES", (5,)), ("HARD", (5,)), ("ALONE", 3)):
        monkeypatch.setattr(guard, name, value)
    monkeypatch.setattr(plan, "MOST", 64)
    monkeypatch.setattr(plan, "TARGET", 40)
