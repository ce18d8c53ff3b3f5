"""Self-supervised objectives, one a file: a pure loss, and the module that applies it."""

from acclimate.objectives.alignment import alignment_loss
from acclimate.objectives.contrastive import Contrastive, contrastive_loss
from acclimate.objectives.entropy import Entropy, entropy_loss
from acclimate.objectives.invariance import Invariance
from acclimate.objectives.objective import Objective
from acclimate.objectives.rotation import Rotation

__all__ = [
    "OBJECTIVES",
    "Contrastive",
    "Entropy",
    "Invariance",
    "Objective",
    "Rotation",
    "alignment_loss",
    "contrastive_loss",
    "entropy_loss",
]

OBJECTIVES: dict[str, type[Objective]] = {
    "contrastive": Contrastive,
    "rotation": Rotation,
}
"""Every objective that a bundle can hold, by its name there."""
