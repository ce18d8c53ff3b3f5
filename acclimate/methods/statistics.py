"""Methods without gradient steps: the frozen classifier, and the statistics of the batch."""

from acclimate.methods.method import Method
from acclimate.methods.settings import AdapterSettings
from acclimate.parts.normalisation import BatchStatistics

PTBN = "Nado et al. 2020, Evaluating prediction-time batch normalization under covariate shift"

STATISTICS: dict[str, Method] = {
    "source": Method("the frozen classifier", "-", "supervised", AdapterSettings()),
    "ptbn": Method(
        "the classifier with the batch's own batch-norm statistics",
        PTBN,
        "supervised",
        AdapterSettings(normalisation=BatchStatistics()),
        batch_norm=True,
    ),
}
