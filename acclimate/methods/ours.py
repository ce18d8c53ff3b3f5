"""Our own default for an aligned twin: online steps, class-balanced statistics, mirrored views."""

from acclimate.methods.method import Method
from acclimate.methods.settings import AdapterSettings
from acclimate.objectives import LikelihoodRatioOptions
from acclimate.parts.answer import After
from acclimate.parts.class_balanced import ClassBalanced
from acclimate.parts.diverse import CertainAndDiverse
from acclimate.parts.memory import Gathered
from acclimate.parts.reset import Never
from acclimate.parts.update import Adam

SETTINGS = AdapterSettings(
    steps=1,
    objective=LikelihoodRatioOptions(consistency=0.0),
    memory=Gathered(64),
    selection=CertainAndDiverse(),
    update=Adam(3e-3, parameters="norm"),
    normalisation=ClassBalanced(prior=16.0),
    answer=After(flip=True),
    reset=Never(),
)
"""Chosen by ``studies/ours.py`` on source images under corruptions that no table reports."""

OURS: dict[str, Method] = {
    "acclimate": Method(
        "the aligned twin learns online from certain, diverse images; statistics of each class",
        "this library",
        "cta",
        SETTINGS,
        "twin",
    ),
}
