"""A guard around an adapter: what it goes by, all without labels, and what it decides."""

from acclimate.guard.calibration import is_calibrated
from acclimate.guard.decide import Verdict
from acclimate.guard.guard import Guard
from acclimate.guard.measure import measure_guard
from acclimate.guard.rules import Rules

__all__ = ["Guard", "Rules", "Verdict", "is_calibrated", "measure_guard"]
