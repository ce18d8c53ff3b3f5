"""Methods whose student follows an average of itself."""

from acclimate.methods.method import Method
from acclimate.methods.settings import AdapterSettings
from acclimate.objectives import (
    AnchoredStudentOptions,
    AugmentedStudentOptions,
    AveragedTeacherOptions,
    ContrastedStudentOptions,
)
from acclimate.parts.aftermath import Restore, Teacher
from acclimate.parts.answer import Before, FromTeacher
from acclimate.parts.banks import Balanced
from acclimate.parts.divergence import SensingTeacher
from acclimate.parts.normalisation import BatchStatistics
from acclimate.parts.penalty import DivergencePenalty
from acclimate.parts.reset import Never
from acclimate.parts.robust import RobustStatistics
from acclimate.parts.update import Adam

COTTA = "Wang et al. 2022, Continual test-time domain adaptation"
ROTTA = "Yuan et al. 2023, Robust test-time adaptation in dynamic scenarios"
PETTA = "Hoang et al. 2024, Persistent test-time adaptation in recurring testing scenarios"
RMT = "Döbler et al. 2023, Robust mean teacher for continual and gradual test-time adaptation"

TEACHERS: dict[str, Method] = {
    "cotta": Method(
        "learn a teacher's mean answer to many views; some weights return to the source's",
        COTTA,
        "supervised",
        AdapterSettings(
            steps=1,
            objective=AveragedTeacherOptions(),
            update=Adam(1e-3, head=True),
            aftermath=(Teacher(0.999), Restore(0.01)),
            normalisation=BatchStatistics(),
            answer=Before(),
            reset=Never(),
        ),
    ),
    "rotta": Method(
        "learn a teacher's answers to a balanced bank of recent images, by robust statistics",
        ROTTA,
        "supervised",
        AdapterSettings(
            steps=1,
            objective=AugmentedStudentOptions(),
            memory=Balanced(),
            update=Adam(1e-3, parameters="norm"),
            aftermath=(Teacher(0.999),),
            normalisation=RobustStatistics(),
            answer=FromTeacher(),
            reset=Never(),
        ),
    ),
    "petta": Method(
        "as rotta, and hold on to the source the more, the further features have drifted",
        PETTA,
        "supervised",
        AdapterSettings(
            steps=1,
            objective=AnchoredStudentOptions(),
            memory=Balanced(weigh_by_age=False),
            penalty=DivergencePenalty(),
            update=Adam(1e-3, parameters="norm"),
            aftermath=(SensingTeacher(),),
            normalisation=RobustStatistics(),
            answer=FromTeacher(),
            reset=Never(),
        ),
    ),
    "rmt": Method(
        "learn a teacher's answers; features contrasted with class means of the source",
        RMT,
        "supervised",
        AdapterSettings(
            steps=1,
            objective=ContrastedStudentOptions(),
            update=Adam(1e-3, auxiliary=True, head=True),
            aftermath=(Teacher(0.999),),
            normalisation=BatchStatistics(),
            answer=Before(),
            reset=Never(),
        ),
    ),
}
