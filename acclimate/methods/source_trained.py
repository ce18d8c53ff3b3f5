"""Methods whose objective is trained with the classifier before deployment."""

from acclimate.methods.cta import CTA
from acclimate.methods.method import Method
from acclimate.methods.settings import AdapterSettings
from acclimate.objectives import (
    ClusteringOptions,
    ContrastiveMomentsOptions,
    ContrastiveOptions,
    FlowOptions,
    MaskedReconstructionOptions,
    NoiseContrastiveOptions,
    ReconstructionOptions,
    RotationOptions,
)
from acclimate.parts.memory import Recent
from acclimate.parts.normalisation import RunningStatistics
from acclimate.parts.reset import Never
from acclimate.parts.update import SGD, Adam

TTT = "Sun et al. 2020, Test-time training with self-supervision for generalization under shifts"
UDA_SS = "Sun et al. 2019, Unsupervised domain adaptation through self-supervision"
TTTPP = "Liu et al. 2021, TTT++: When does self-supervised test-time training fail or thrive?"
CLUST3 = "Hakim et al. 2023, ClusT3: Information invariant test-time training"
NC_TTT = "Osowiechi et al. 2024, NC-TTT: A noise contrastive approach for test-time training"
REC_TTT = "Colussi et al. 2024, ReC-TTT: Contrastive feature reconstruction for test-time training"
TTT_MAE = "Gandelsman et al. 2022, Test-time training with masked autoencoders"
TTT_FLOW = "Osowiechi et al. 2023, TTTFlow: Unsupervised test-time training with normalizing flow"

SOURCE_TRAINED: dict[str, Method] = {
    "joint": Method("trained with the rotation task, then frozen", TTT, "ttt", AdapterSettings()),
    "ttt": Method(
        "learn from each image alone by how much its copies are rotated, then forget",
        TTT,
        "ttt",
        AdapterSettings(
            steps=10,
            objective=RotationOptions(),
            update=SGD(1e-3, auxiliary=True),
            one_by_one=True,
        ),
    ),
    "ttt-online": Method(
        "as ttt, one step an image, and never forget",
        TTT,
        "ttt",
        AdapterSettings(
            steps=1,
            objective=RotationOptions(),
            update=SGD(1e-3, auxiliary=True),
            reset=Never(),
            one_by_one=True,
        ),
    ),
    "uda-ss": Method(
        "an oracle: the rotation task was trained on all target images beforehand",
        UDA_SS,
        "uda-ss",
        AdapterSettings(),
        oracle=True,
    ),
    "tttpp": Method(
        "contrast views, and keep the source's mean and covariance of the features",
        TTTPP,
        "tttpp",
        AdapterSettings(
            steps=1,
            objective=ContrastiveMomentsOptions(),
            memory=Recent(8),
            update=SGD(0.01, momentum=0.9),
            normalisation=RunningStatistics(),
            reset=Never(),
        ),
    ),
    "clust3": Method(
        "keep the mutual information of features and their clusters high",
        CLUST3,
        "clust3",
        AdapterSettings(
            steps=20,
            objective=ClusteringOptions(),
            update=Adam(1e-5),
            normalisation=RunningStatistics(),
        ),
    ),
    "nc-ttt": Method(
        "features that a discriminator of noise takes for the source's",
        NC_TTT,
        "nc-ttt",
        AdapterSettings(
            steps=20,
            objective=NoiseContrastiveOptions(),
            memory=Recent(8),
            update=Adam(1e-5),
            normalisation=RunningStatistics(),
        ),
    ),
    "rec-ttt": Method(
        "features from which a frozen encoder's can be reconstructed",
        REC_TTT,
        "rec-ttt",
        AdapterSettings(
            steps=10,
            objective=ReconstructionOptions(),
            update=Adam(1e-3),
            normalisation=RunningStatistics(),
        ),
    ),
    "ttt-mae": Method(
        "reconstruct the hidden patches of each image alone, then forget; vision transformers",
        TTT_MAE,
        "ttt-mae",
        AdapterSettings(
            steps=20,
            objective=MaskedReconstructionOptions(),
            update=SGD(5e-3, momentum=0.9),
            one_by_one=True,
        ),
    ),
    "ttt-flow": Method(
        "features that are likely under a normalising flow of the source's",
        TTT_FLOW,
        "ttt-flow",
        AdapterSettings(
            steps=10,
            objective=FlowOptions(),
            update=SGD(1e-3, momentum=0.9),
            normalisation=RunningStatistics(),
        ),
    ),
    "y": Method(
        "one encoder for classes and contrast: CTA without its alignment",
        CTA,
        "y",
        AdapterSettings(
            steps=20,
            objective=ContrastiveOptions(temperature=0.01),
            memory=Recent(8),
            update=Adam(1e-6, auxiliary=True),
            normalisation=RunningStatistics(),
        ),
    ),
    "cta-c": Method(
        "a classifier on frozen contrastive features",
        CTA,
        "cta-c",
        AdapterSettings(
            steps=20,
            objective=ContrastiveOptions(temperature=0.01),
            memory=Recent(8),
            update=Adam(1e-6),
            normalisation=RunningStatistics(),
        ),
    ),
}
