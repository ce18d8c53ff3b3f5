"""Methods that learn from certain and diverse images, and average weights with the source's."""

from dataclasses import replace

from acclimate.methods.method import Method
from acclimate.methods.settings import AdapterSettings
from acclimate.objectives import InformationOptions, LikelihoodRatioOptions
from acclimate.parts.aftermath import PullToSource
from acclimate.parts.answer import Before
from acclimate.parts.correction import Prior
from acclimate.parts.diverse import CertainAndDiverse
from acclimate.parts.kalman import KalmanFilter
from acclimate.parts.normalisation import BatchStatistics, RunningStatistics
from acclimate.parts.reset import Never
from acclimate.parts.update import SGD, Adam

MARSDEN = (
    "Marsden et al. 2024, Universal test-time adaptation through weight ensembling, diversity "
    "weighting, and prior correction"
)
LEE = (
    "Lee and Chang 2024, Continual momentum filtering on parameter space for online test-time "
    "adaptation"
)
LIANG = (
    "Liang et al. 2020, Do we really need to access the source data? Source hypothesis transfer "
    "for unsupervised domain adaptation"
)

_ROID = AdapterSettings(
    steps=1,
    objective=LikelihoodRatioOptions(),
    selection=CertainAndDiverse(),
    update=Adam(1e-3, parameters="norm"),
    aftermath=(PullToSource(0.01),),
    normalisation=BatchStatistics(),
    answer=Before(),
    correction=Prior(),
    reset=Never(),
)

ENSEMBLES: dict[str, Method] = {
    "roid": Method(
        "self-training on certain, diverse images; weights pulled back to the source",
        MARSDEN,
        "supervised",
        _ROID,
    ),
    "cmf": Method(
        "ROID's self-training; weights averaged with the source's by a Kalman filter",
        LEE,
        "supervised",
        replace(_ROID, aftermath=(KalmanFilter(),)),
    ),
    "shot-im": Method(
        "each prediction certain, all together diverse; the encoder moves",
        LIANG,
        "supervised",
        AdapterSettings(
            steps=1,
            objective=InformationOptions(),
            update=SGD(1e-3, momentum=0.9),
            normalisation=RunningStatistics(),
            reset=Never(),
        ),
    ),
}
