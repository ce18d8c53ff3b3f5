"""Methods that lower the entropy of images that can be trusted."""

from acclimate.methods.method import Method
from acclimate.methods.settings import AdapterSettings
from acclimate.objectives import DestroyedOptions, EntropyOptions
from acclimate.parts.answer import Before
from acclimate.parts.normalisation import BatchStatistics
from acclimate.parts.penalty import FisherPenalty
from acclimate.parts.reliable import Reliable, ReliableAndNew, ReliableByShape
from acclimate.parts.reset import AtLowLoss, Never
from acclimate.parts.update import SAM, SGD, Adam

EATA = "Niu et al. 2022, Efficient test-time model adaptation without forgetting"
SAR = "Niu et al. 2023, Towards stable test-time adaptation in dynamic wild world"
DEYO = (
    "Lee et al. 2024, Entropy is not enough for test-time adaptation: from the perspective of "
    "disentangled factors"
)

RELIABLE: dict[str, Method] = {
    "eta": Method(
        "lower the entropy of certain images that are unlike the mean prediction",
        EATA,
        "supervised",
        AdapterSettings(
            steps=1,
            objective=EntropyOptions(),
            selection=ReliableAndNew(),
            update=Adam(1e-3, parameters="norm"),
            normalisation=BatchStatistics(),
            answer=Before(),
            reset=Never(),
        ),
    ),
    "eata": Method(
        "as eta, and keep the weights that matter to source images near the source",
        EATA,
        "supervised",
        AdapterSettings(
            steps=1,
            objective=EntropyOptions(),
            selection=ReliableAndNew(),
            penalty=FisherPenalty(weight=1.0),
            update=Adam(1e-3, parameters="norm"),
            normalisation=BatchStatistics(),
            answer=Before(),
            reset=Never(),
        ),
    ),
    "sar": Method(
        "lower the entropy of certain images around the weights, too; start anew when it collapses",
        SAR,
        "supervised",
        AdapterSettings(
            steps=1,
            objective=EntropyOptions(),
            selection=Reliable(),
            update=SAM(2.5e-4, momentum=0.9, parameters="norm", radius=0.05),
            normalisation=BatchStatistics(),
            answer=Before(),
            reset=AtLowLoss(),
        ),
    ),
    "deyo": Method(
        "lower the entropy of certain images that are known by their shape, not their texture",
        DEYO,
        "supervised",
        AdapterSettings(
            steps=1,
            objective=DestroyedOptions(),
            selection=ReliableByShape(drop=0.3),
            update=SGD(2.5e-4, momentum=0.9, parameters="norm"),
            normalisation=BatchStatistics(),
            answer=Before(),
            reset=Never(),
        ),
    ),
}
