"""The trained network of a user: by name, or as it is."""

from pathlib import Path

from torch import nn

from acclimate.backbones import build
from acclimate.errors import InputError


def network_of(model: nn.Module | str, weights: Path | None) -> nn.Module:
    """The network of a name, with its weights; or the one that is given.

    Raises:
        InputError: weights for a network that is given; or as `acclimate.build`.
    """
    if isinstance(model, str):
        return build(model, classes=None, weights=weights)
    if weights is not None:
        raise InputError(
            "weights are for a model given by name; load them into a network with "
            "acclimate.backbones.weights.load_weights(network, path)."
        )
    return model
