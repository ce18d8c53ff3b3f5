"""Self-supervised objectives, one a file: a pure loss, and the module that applies it."""

from acclimate.objectives.alignment import alignment_loss
from acclimate.objectives.contrastive import Contrastive, contrastive_loss
from acclimate.objectives.objective import Objective

__all__ = ["OBJECTIVES", "Contrastive", "Objective", "alignment_loss", "contrastive_loss"]

OBJECTIVES: dict[str, type[Objective]] = {"contrastive": Contrastive}
"""Every objective that a bundle can hold, by its name there."""
