"""Stand-in: the stages of acclimate's own CIFAR ResNets."""

from torch import nn


def resolve_tap(encoder: nn.Module, tap: str | int, size: int) -> str:
    """The name of a module, or of a stage given by its number from 1."""
    return f"stages.{tap - 1}" if isinstance(tap, int) else tap
