"""The stages of an encoder: their modules' names, and a tap by name or by number."""

import re

from jaxtyping import Float
from torch import Tensor, nn

from acclimate.errors import InputError, unknown_name


def stage_names(encoder: nn.Module, size: int) -> list[str]:
    """Names of the modules that end the encoder's stages, first to last."""
    names = [name for name, _ in encoder.named_modules()]
    return [name for name in names if re.fullmatch(r"stages\.\d+|layer\d+|blocks\.\d+", name)]


def resolve_tap(encoder: nn.Module, tap: str | int, size: int) -> str:
    """A module's name, given that name or a stage's number from 1."""
    names = stage_names(encoder, size)
    if isinstance(tap, int):
        if not 1 <= tap <= len(names):
            raise InputError(f"there is no stage {tap}: the encoder has {len(names)}.")
        return names[tap - 1]
    if tap not in dict(encoder.named_modules()):
        raise unknown_name("layer", tap, names)
    return tap


def as_map(features: Tensor) -> Float[Tensor, "batch channels h w"]:
    """Tokens ``[batch, tokens, channels]`` as a map of width one; a map as it is."""
    return features.transpose(1, 2).unsqueeze(3) if features.ndim == 3 else features
