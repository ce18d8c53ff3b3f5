"""Methods that learn from a bank, or from images that they gather, made to learn from few."""

from acclimate.methods import METHODS
from acclimate.parts.banks import Balanced, Reservoir
from acclimate.parts.memory import Gathered


def banked(name):
    """Whether a method learns from a bank, at intervals."""
    return isinstance(METHODS[name].settings.memory, Balanced | Reservoir)


def soon(name, images):
    """Changes by which a method that learns at intervals does so after every so many images."""
    if isinstance(METHODS[name].settings.memory, Gathered):
        return {"memory.images": images}
    return {"memory.every": images} if banked(name) else {}
