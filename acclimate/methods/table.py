"""How a model adapts at deployment: plain data, a row a method."""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from acclimate.backbones import Classifier
from acclimate.errors import InputError, unknown_name
from acclimate.methods.settings import AdapterSettings
from acclimate.objectives import (
    Clustering,
    Contrastive,
    ContrastiveMoments,
    Entropy,
    Flow,
    Invariance,
    MaskedReconstruction,
    NoiseContrastive,
    Objective,
    Reconstruction,
    Rotation,
)


@dataclass(frozen=True)
class Method:
    """How a model adapts."""

    summary: str
    """One line for people."""
    citation: str
    recipe: str
    """The row of `RECIPES` that the bundle must have been made by; ``supervised`` is satisfied by
    the classifier of any."""
    settings: AdapterSettings
    model: Literal["classifier", "twin"] = "classifier"
    """Which of the bundle's models adapts and answers."""
    objective: type[Objective] | None = None
    """What the steps minimise: the bundle's, or one that is made on the spot because it has no
    parts to train."""
    batch_norm: bool = False
    """Whether nothing is left of it without batch norm."""
    oracle: bool = False
    """Whether it was shown, before deployment, what it is measured on: no fair competitor."""


_PTBN = "Nado et al. 2020, Evaluating prediction-time batch normalization under covariate shift"
_TENT = "Wang et al. 2021, Tent: Fully test-time adaptation by entropy minimization"
_TIPI = "Nguyen et al. 2023, TIPI: Test time adaptation with transformation invariance"
_TTT = "Sun et al. 2020, Test-time training with self-supervision for generalization under shifts"
_UDA_SS = "Sun et al. 2019, Unsupervised domain adaptation through self-supervision"
_TTTPP = "Liu et al. 2021, TTT++: When does self-supervised test-time training fail or thrive?"
_CLUST3 = "Hakim et al. 2023, ClusT3: Information invariant test-time training"
_NC_TTT = "Osowiechi et al. 2024, NC-TTT: A noise contrastive approach for test-time training"
_REC_TTT = "Colussi et al. 2024, ReC-TTT: Contrastive feature reconstruction for test-time training"
_TTT_MAE = "Gandelsman et al. 2022, Test-time training with masked autoencoders"
_TTT_FLOW = "Osowiechi et al. 2023, TTTFlow: Unsupervised test-time training with normalizing flow"
_CTA = "Barbeau et al., CTA: Cross-Task Alignment for better test time training"

_FROZEN = AdapterSettings()
_EPISODES = AdapterSettings(steps=20, learning_rate=1e-5, normalisation="running")
"""ClusT3's, which NC-TTT, ReC-TTT and CTA take over but for the learning rate."""

METHODS: dict[str, Method] = {
    "source": Method("the frozen classifier", "-", "supervised", _FROZEN),
    "ptbn": Method(
        "the classifier with the batch's own batch-norm statistics",
        _PTBN,
        "supervised",
        AdapterSettings(normalisation="batch"),
        batch_norm=True,
    ),
    "tent": Method(
        "lower the entropy of the answers, by the norms' scales and shifts",
        _TENT,
        "supervised",
        AdapterSettings(
            steps=1,
            learning_rate=1e-3,
            parameters="norm",
            normalisation="batch",
            reset="never",
        ),
        objective=Entropy,
    ),
    "tipi": Method(
        "the same answers under the worst small shift, by the norms' scales and shifts",
        _TIPI,
        "supervised",
        AdapterSettings(
            steps=1,
            learning_rate=2.5e-4 / 64,
            optimizer="sgd",
            momentum=0.9,
            parameters="norm",
            normalisation="batch",
            reset="never",
        ),
        objective=Invariance,
    ),
    "joint": Method("trained with the rotation task, then frozen", _TTT, "ttt", _FROZEN),
    "ttt": Method(
        "learn from each image alone which way up its copies are, then forget",
        _TTT,
        "ttt",
        AdapterSettings(
            steps=10, learning_rate=1e-3, optimizer="sgd", auxiliary=True, one_by_one=True
        ),
        objective=Rotation,
    ),
    "ttt-online": Method(
        "as ttt, one step an image, and never forget",
        _TTT,
        "ttt",
        AdapterSettings(
            steps=1,
            learning_rate=1e-3,
            optimizer="sgd",
            auxiliary=True,
            one_by_one=True,
            reset="never",
        ),
        objective=Rotation,
    ),
    "uda-ss": Method(
        "an oracle: the rotation task was trained on all target images beforehand",
        _UDA_SS,
        "uda-ss",
        _FROZEN,
        oracle=True,
    ),
    "tttpp": Method(
        "contrast, and features whose mean and covariance stay the source's",
        _TTTPP,
        "tttpp",
        AdapterSettings(
            steps=1,
            learning_rate=0.01,
            optimizer="sgd",
            momentum=0.9,
            normalisation="running",
            reset="never",
        ),
        objective=ContrastiveMoments,
    ),
    "clust3": Method(
        "clusters of features keep telling as much about the images as before",
        _CLUST3,
        "clust3",
        _EPISODES,
        objective=Clustering,
    ),
    "nc-ttt": Method(
        "features that a discriminator of noise takes for the source's",
        _NC_TTT,
        "nc-ttt",
        _EPISODES,
        objective=NoiseContrastive,
    ),
    "rec-ttt": Method(
        "features from which a frozen encoder's can be reconstructed",
        _REC_TTT,
        "rec-ttt",
        AdapterSettings(steps=10, learning_rate=1e-3, normalisation="running"),
        objective=Reconstruction,
    ),
    "ttt-mae": Method(
        "paint the hidden patches of each image alone, then forget; vision transformers",
        _TTT_MAE,
        "ttt-mae",
        AdapterSettings(
            steps=20, learning_rate=5e-3, optimizer="sgd", momentum=0.9, one_by_one=True
        ),
        objective=MaskedReconstruction,
    ),
    "ttt-flow": Method(
        "features that are likely under a normalising flow of the source's",
        _TTT_FLOW,
        "ttt-flow",
        AdapterSettings(
            steps=10,
            learning_rate=1e-3,
            optimizer="sgd",
            momentum=0.9,
            normalisation="running",
        ),
        objective=Flow,
    ),
    "y": Method(
        "one encoder for classes and contrast: CTA without its alignment",
        _CTA,
        "y",
        AdapterSettings(
            steps=20, learning_rate=1e-6, temperature=0.01, normalisation="running", auxiliary=True
        ),
        objective=Contrastive,
    ),
    "cta-c": Method(
        "a classifier on frozen contrastive features",
        _CTA,
        "cta-c",
        AdapterSettings(steps=20, learning_rate=1e-6, temperature=0.01, normalisation="running"),
        objective=Contrastive,
    ),
    "aligned": Method("the aligned twin, frozen", _CTA, "cta", _FROZEN, "twin"),
    "aligned-bn": Method(
        "the aligned twin with the batch's batch-norm statistics: cta without its steps",
        _CTA,
        "cta",
        AdapterSettings(normalisation="batch", prior=16),
        "twin",
        batch_norm=True,
    ),
    "cta": Method(
        "Cross-Task Alignment, our default settings",
        _CTA,
        "cta",
        AdapterSettings(
            steps=1, learning_rate=1e-4, temperature=0.5, normalisation="batch", prior=16
        ),
        "twin",
        Contrastive,
    ),
    "cta-paper": Method(
        "Cross-Task Alignment, adapted with the published settings",
        _CTA,
        "cta",
        AdapterSettings(steps=20, learning_rate=1e-6, temperature=0.01, normalisation="running"),
        "twin",
        Contrastive,
    ),
    "cta-rotation": Method(
        "Cross-Task Alignment with rotations in place of contrast",
        _CTA,
        "cta-rotation",
        AdapterSettings(steps=1, learning_rate=1e-4, normalisation="batch", prior=16),
        "twin",
        Rotation,
    ),
}
"""Every method by its name."""


def check_model(name: str, model: Classifier) -> None:
    """Refuse a model that a method can do nothing with.

    Raises:
        InputError: the method is about batch norm, and the model has none.
    """
    norms = [m for m in model.encoder.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if METHODS[name].batch_norm and not norms:
        raise InputError(
            f"{name} is about batch norm's statistics, and this model has no batch norm; choose "
            f"another method or model."
        )


def method(name: str) -> Method:
    """The row of a name.

    Raises:
        InputError: there is none; with the nearest names.
    """
    if name not in METHODS:
        raise unknown_name("method", name, METHODS)
    return METHODS[name]
