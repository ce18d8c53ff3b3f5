"""Self-supervised objectives, one a file: a pure loss, and the module that applies it."""

from acclimate.objectives.alignment import alignment_loss
from acclimate.objectives.clustering import Clustering
from acclimate.objectives.contrastive import Contrastive, contrastive_loss
from acclimate.objectives.entropy import Entropy, entropy_loss
from acclimate.objectives.flow import Flow
from acclimate.objectives.invariance import Invariance
from acclimate.objectives.masked import MaskedReconstruction
from acclimate.objectives.moments import ContrastiveMoments
from acclimate.objectives.noise_contrastive import NoiseContrastive
from acclimate.objectives.objective import Objective
from acclimate.objectives.reconstruction import Reconstruction
from acclimate.objectives.rotation import Rotation

__all__ = [
    "OBJECTIVES",
    "Clustering",
    "Contrastive",
    "ContrastiveMoments",
    "Entropy",
    "Flow",
    "Invariance",
    "MaskedReconstruction",
    "NoiseContrastive",
    "Objective",
    "Reconstruction",
    "Rotation",
    "alignment_loss",
    "contrastive_loss",
    "entropy_loss",
]

OBJECTIVES: dict[str, type[Objective]] = {
    "clustering": Clustering,
    "contrastive": Contrastive,
    "contrastive-moments": ContrastiveMoments,
    "flow": Flow,
    "masked-reconstruction": MaskedReconstruction,
    "noise-contrastive": NoiseContrastive,
    "reconstruction": Reconstruction,
    "rotation": Rotation,
}
"""Every objective that a bundle can hold, by its name there."""
