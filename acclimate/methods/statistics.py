"""Methods without gradient steps: the frozen classifier, and the statistics of the batch."""

from acclimate.methods.method import Method
from acclimate.methods.settings import AdapterSettings
from acclimate.parts.normalisation import BatchStatistics

PTBN = "Nado et al. 2020, Evaluating prediction-time batch normalization under covariate shift"
SCHNEIDER = (
    "Schneider et al. 2020, Improving robustness against common corruptions by covariate shift "
    "adaptation"
)

STATISTICS: dict[str, Method] = {
    "source": Method("the frozen classifier", "-", "supervised", AdapterSettings()),
    "ptbn": Method(
        "the classifier with the batch's own batch-norm statistics",
        PTBN,
        "supervised",
        AdapterSettings(normalisation=BatchStatistics()),
        batch_norm=True,
    ),
    "bn-adapt": Method(
        "the classifier with batch statistics, trusted as far as was measured on source images",
        SCHNEIDER,
        "supervised",
        AdapterSettings(normalisation=BatchStatistics(prior=None)),
        batch_norm=True,
    ),
}
