"""Methods that learn from a bank, made to learn from few images."""

from acclimate.methods import METHODS
from acclimate.parts.banks import Balanced, Reservoir


def banked(name):
    """Whether a method learns from a bank, at intervals."""
    return isinstance(METHODS[name].settings.memory, Balanced | Reservoir)


def soon(name, images):
    """Changes by which a method that learns from a bank does so after every so many images."""
    return {"memory.every": images} if banked(name) else {}
