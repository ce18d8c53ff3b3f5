"""Methods that take long to learn: from a bank, or by many candidates; made to be quick."""

from acclimate.methods import METHODS
from acclimate.parts.banks import Balanced, Reservoir
from acclimate.parts.search import CovarianceAdaptation


def banked(name):
    """Whether a method learns from a bank, at intervals."""
    return isinstance(METHODS[name].settings.memory, Balanced | Reservoir)


def searches(name):
    """Whether a method seeks candidates instead of following gradients."""
    return isinstance(METHODS[name].settings.update, CovarianceAdaptation)


def soon(name, images):
    """Changes by which a bank is learned from after so many images, and a search tries few."""
    few = {"update.population": 6} if searches(name) else {}
    return few | ({"memory.every": images} if banked(name) else {})
