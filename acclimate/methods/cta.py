"""Cross-Task Alignment: methods that adapt the aligned twin of a frozen classifier."""

from acclimate.methods.method import Method
from acclimate.methods.settings import AdapterSettings
from acclimate.objectives import ContrastiveOptions, RotationOptions
from acclimate.parts.memory import Recent
from acclimate.parts.normalisation import BatchStatistics, RunningStatistics
from acclimate.parts.update import Adam

CTA = "Barbeau et al., CTA: Cross-Task Alignment for better test time training"

TWIN: dict[str, Method] = {
    "aligned": Method("the aligned twin, frozen", CTA, "cta", AdapterSettings(), "twin"),
    "aligned-bn": Method(
        "the aligned twin with the batch's batch-norm statistics: cta without its steps",
        CTA,
        "cta",
        AdapterSettings(normalisation=BatchStatistics(prior=None)),
        "twin",
        batch_norm=True,
    ),
    "cta": Method(
        "Cross-Task Alignment, our default settings",
        CTA,
        "cta",
        AdapterSettings(
            steps=1,
            objective=ContrastiveOptions(temperature=0.5),
            memory=Recent(8),
            update=Adam(1e-4),
            normalisation=BatchStatistics(prior=None),
        ),
        "twin",
    ),
    "cta-paper": Method(
        "Cross-Task Alignment, adapted with the published settings",
        CTA,
        "cta",
        AdapterSettings(
            steps=20,
            objective=ContrastiveOptions(temperature=0.01),
            memory=Recent(8),
            update=Adam(1e-6),
            normalisation=RunningStatistics(),
        ),
        "twin",
    ),
    "cta-rotation": Method(
        "Cross-Task Alignment with rotations in place of contrast",
        CTA,
        "cta-rotation",
        AdapterSettings(
            steps=1,
            objective=RotationOptions(),
            update=Adam(1e-4),
            normalisation=BatchStatistics(prior=None),
        ),
        "twin",
    ),
}
