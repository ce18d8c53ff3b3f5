"""Methods that learn from a memory of the stream."""

from acclimate.methods.method import Method
from acclimate.methods.settings import AdapterSettings
from acclimate.objectives import EntropyOptions
from acclimate.parts.answer import Before
from acclimate.parts.banks import Reservoir
from acclimate.parts.normalisation import RunningStatistics
from acclimate.parts.reset import Never
from acclimate.parts.update import Adam

NOTE = "Gong et al. 2022, NOTE: Robust continual test-time adaptation against temporal correlation"

MEMORIES: dict[str, Method] = {
    "note": Method(
        "lower the entropy on a balanced sample of the stream, by the norms' scales and shifts",
        NOTE,
        "supervised",
        AdapterSettings(
            steps=1,
            objective=EntropyOptions(),
            memory=Reservoir(),
            update=Adam(1e-4, parameters="norm"),
            normalisation=RunningStatistics(momentum=0.01),
            answer=Before(),
            reset=Never(),
        ),
    ),
}
