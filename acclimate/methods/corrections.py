"""Methods that move no parameter and correct the classifier's answers."""

from acclimate.methods.method import Method
from acclimate.methods.settings import AdapterSettings
from acclimate.parts.laplacian import Laplacian
from acclimate.parts.reset import Never
from acclimate.parts.supports import Supports

IWASAWA = (
    "Iwasawa and Matsuo 2021, Test-time classifier adjustment module for model-agnostic domain "
    "generalization"
)
BOUDIAF = "Boudiaf et al. 2022, Parameter-free online test-time adaptation"

CORRECTIONS: dict[str, Method] = {
    "t3a": Method(
        "a classifier of the most certain features so far",
        IWASAWA,
        "supervised",
        AdapterSettings(correction=Supports(), reset=Never()),
    ),
    "lame": Method(
        "similar images of a batch agree on their classes",
        BOUDIAF,
        "supervised",
        AdapterSettings(correction=Laplacian()),
    ),
}
