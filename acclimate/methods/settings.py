"""How an adapter learns."""

from dataclasses import dataclass
from typing import Literal

from acclimate.runtime.precision import Precision


@dataclass(frozen=True)
class AdapterSettings:
    """How an adapter learns from each batch before it answers."""

    steps: int = 0
    """Gradient steps a batch."""
    learning_rate: float = 0.0
    """Of every step."""
    optimizer: Literal["adam", "sgd"] = "adam"
    """Adam, or SGD."""
    momentum: float = 0.0
    """Of SGD."""
    temperature: float | None = None
    """τ of a contrastive objective at deployment; None keeps the one that it was trained with."""
    parameters: str = "all"
    """What moves in the encoder, as far as the objective's gradient reaches: ``all``, ``norm``
    (normalisation layers' scales and shifts), or a regular expression that is searched for in the
    parameters' names."""
    auxiliary: bool = False
    """Whether the objective's own parts (a projector, a branch) move too."""
    normalisation: Literal["source", "batch", "running"] = "source"
    """Statistics of batch norm in the answer. ``source``: those of the source. ``batch``: the
    batch's own. ``running``: running averages over the views that the steps saw."""
    prior: float = 0.0
    """Under ``batch``: how many images' weight the source's statistics keep (Schneider et al. 2020,
    *Improving robustness against common corruptions by covariate shift adaptation*). Small batches
    and single images lean on them."""
    reset: Literal["batch", "never"] = "batch"
    """Whether each batch starts from the source weights, or from the last batch's."""
    one_by_one: bool = False
    """Learn from each image alone, as if it came in a batch of its own."""
    seed: int = 0
    """Of the views."""
    precision: Precision = "auto"
    """bf16 where the device multiplies it natively, or as told."""
