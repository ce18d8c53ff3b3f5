import pytest
from small_guard import calibrate_on_few

from acclimate.advise import plan


@pytest.fixture
def less(monkeypatch):
    """Fewer images, and a small calibration of the guard."""
    calibrate_on_few(monkeypatch)
    monkeypatch.setattr(plan, "MOST", 64)
    monkeypatch.setattr(plan, "TARGET", 40)
