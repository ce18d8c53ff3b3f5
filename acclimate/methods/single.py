"""Methods that learn from each image alone and need no training of their own."""

from acclimate.methods.method import Method
from acclimate.methods.settings import AdapterSettings
from acclimate.objectives import MarginalEntropyOptions
from acclimate.parts.blended import BlendedStatistics
from acclimate.parts.update import SGD

MEMO = "Zhang et al. 2022, MEMO: Test time robustness via adaptation and augmentation"

SINGLE: dict[str, Method] = {
    "memo": Method(
        "make the mean prediction over many views of each image certain, then forget",
        MEMO,
        "supervised",
        AdapterSettings(
            steps=1,
            objective=MarginalEntropyOptions(),
            update=SGD(5e-3, head=True),
            normalisation=BlendedStatistics(),
            one_by_one=True,
        ),
    ),
}
