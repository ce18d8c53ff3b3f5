"""Stand-in: what comes after a stage of acclimate's own CIFAR ResNets."""

import copy

from torch import nn


def rest_after(encoder: nn.Module, tap: str, size: int) -> nn.Sequential:
    """A copy of the encoder after ``stages.<n>``."""
    done = int(tap.removeprefix("stages.")) + 1
    stages = encoder.get_submodule("stages")
    assert isinstance(stages, nn.Sequential)
    return copy.deepcopy(nn.Sequential(*stages[done:], encoder.get_submodule("tail")))
