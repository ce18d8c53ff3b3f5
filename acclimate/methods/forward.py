"""Methods that adapt by forward passes alone."""

from acclimate.methods.method import Method
from acclimate.methods.settings import AdapterSettings
from acclimate.objectives import DiscrepancyOptions
from acclimate.parts.reset import Never
from acclimate.parts.search import CovarianceAdaptation
from acclimate.parts.shifted import Shifted

FOA = "Niu et al. 2024, Test-time model adaptation with only forward passes"

FORWARD: dict[str, Method] = {
    "foa": Method(
        "prompts by which a transformer is certain and its activations are the source's; no "
        "gradients",
        FOA,
        "supervised",
        AdapterSettings(
            steps=1,
            objective=DiscrepancyOptions(),
            update=CovarianceAdaptation(),
            correction=Shifted(),
            reset=Never(),
        ),
        transformer=True,
    ),
}
