"""Methods that learn from the classifier's own predictions."""

from acclimate.methods.method import Method
from acclimate.methods.settings import AdapterSettings
from acclimate.objectives import EntropyOptions, InvarianceOptions
from acclimate.parts.normalisation import BatchStatistics
from acclimate.parts.reset import Never
from acclimate.parts.update import SGD, Adam

TENT = "Wang et al. 2021, Tent: Fully test-time adaptation by entropy minimization"
TIPI = "Nguyen et al. 2023, TIPI: Test time adaptation with transformation invariance"

ENTROPY: dict[str, Method] = {
    "tent": Method(
        "lower the entropy of the predictions, by the norms' scales and shifts",
        TENT,
        "supervised",
        AdapterSettings(
            steps=1,
            objective=EntropyOptions(),
            update=Adam(1e-3, parameters="norm"),
            normalisation=BatchStatistics(),
            reset=Never(),
        ),
    ),
    "tipi": Method(
        "the same predictions under the worst small shift, by the norms' scales and shifts",
        TIPI,
        "supervised",
        AdapterSettings(
            steps=1,
            objective=InvarianceOptions(),
            update=SGD(2.5e-4 / 64, momentum=0.9, parameters="norm"),
            normalisation=BatchStatistics(),
            reset=Never(),
        ),
    ),
}
