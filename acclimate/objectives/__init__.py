"""Objectives without labels, one per file: a loss function, and the module that applies it."""

from acclimate.objectives.alignment import alignment_loss
from acclimate.objectives.anchored import AnchoredStudent, AnchoredStudentOptions
from acclimate.objectives.clustering import Clustering, ClusteringOptions
from acclimate.objectives.confident_views import ConfidentViews, ConfidentViewsOptions
from acclimate.objectives.contrasted import (
    ContrastedStudent,
    ContrastedStudentOptions,
    group_contrast,
)
from acclimate.objectives.contrastive import Contrastive, ContrastiveOptions, contrastive_loss
from acclimate.objectives.destroyed import Destroyed, DestroyedOptions, shuffled_patches
from acclimate.objectives.discrepancy import Discrepancy, DiscrepancyOptions, discrepancy
from acclimate.objectives.entropy import Entropy, EntropyOptions, entropy_loss
from acclimate.objectives.flow import Flow, FlowOptions
from acclimate.objectives.information import Information, InformationOptions
from acclimate.objectives.invariance import Invariance, InvarianceOptions
from acclimate.objectives.likelihood_ratio import LikelihoodRatio, LikelihoodRatioOptions
from acclimate.objectives.marginal import (
    MarginalEntropy,
    MarginalEntropyOptions,
    marginal_entropies,
)
from acclimate.objectives.masked import MaskedReconstruction, MaskedReconstructionOptions
from acclimate.objectives.moments import ContrastiveMoments, ContrastiveMomentsOptions
from acclimate.objectives.noise_contrastive import NoiseContrastive, NoiseContrastiveOptions
from acclimate.objectives.objective import Objective, ObjectiveOptions, Outcome, as_outcome
from acclimate.objectives.reconstruction import Reconstruction, ReconstructionOptions
from acclimate.objectives.rotation import Rotation, RotationOptions
from acclimate.objectives.similar_prompts import (
    LikelyClasses,
    LikelyClassesOptions,
    TemplateTurns,
    TemplateTurnsOptions,
)
from acclimate.objectives.taught import (
    AugmentedStudent,
    AugmentedStudentOptions,
    AveragedTeacher,
    AveragedTeacherOptions,
    Taught,
    cross_entropy,
    symmetric_cross_entropy,
)

__all__ = [
    "OBJECTIVES",
    "AnchoredStudent",
    "AnchoredStudentOptions",
    "AugmentedStudent",
    "AugmentedStudentOptions",
    "AveragedTeacher",
    "AveragedTeacherOptions",
    "Clustering",
    "ClusteringOptions",
    "ConfidentViews",
    "ConfidentViewsOptions",
    "ContrastedStudent",
    "ContrastedStudentOptions",
    "Contrastive",
    "ContrastiveMoments",
    "ContrastiveMomentsOptions",
    "ContrastiveOptions",
    "Destroyed",
    "DestroyedOptions",
    "Discrepancy",
    "DiscrepancyOptions",
    "Entropy",
    "EntropyOptions",
    "Flow",
    "FlowOptions",
    "Information",
    "InformationOptions",
    "Invariance",
    "InvarianceOptions",
    "LikelihoodRatio",
    "LikelihoodRatioOptions",
    "LikelyClasses",
    "LikelyClassesOptions",
    "MarginalEntropy",
    "MarginalEntropyOptions",
    "MaskedReconstruction",
    "MaskedReconstructionOptions",
    "NoiseContrastive",
    "NoiseContrastiveOptions",
    "Objective",
    "ObjectiveOptions",
    "Outcome",
    "Reconstruction",
    "ReconstructionOptions",
    "Rotation",
    "RotationOptions",
    "Taught",
    "TemplateTurns",
    "TemplateTurnsOptions",
    "alignment_loss",
    "as_outcome",
    "contrastive_loss",
    "cross_entropy",
    "discrepancy",
    "entropy_loss",
    "group_contrast",
    "marginal_entropies",
    "shuffled_patches",
    "symmetric_cross_entropy",
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
"""Objectives that a bundle can hold, by the name that the bundle records."""
