"""Methods that take long to learn, from a bank, gathered images or many candidates, made quick."""

from acclimate.methods import METHODS
from acclimate.parts.banks import Balanced, Reservoir
from acclimate.parts.memory import Gathered
from acclimate.parts.search import CovarianceAdaptation


def banked(name):
    """Whether a method learns from a bank, at intervals."""
    return isinstance(METHODS[name].settings.memory, Balanced | Reservoir)


def searches(name):
    """Whether a method seeks candidates instead of following gradients."""
    return isinstance(METHODS[name].settings.update, CovarianceAdaptation)


def soon(name, images):
    """Changes by which a method learns after every so many images, and a search tries few."""
    if isinstance(METHODS[name].settings.memory, Gathered):
        return {"memory.images": images}
    few = {"update.population": 6} if searches(name) else {}
    return few | ({"memory.every": images} if banked(name) else {})
