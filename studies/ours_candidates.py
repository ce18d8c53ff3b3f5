"""Candidates of the study of our default, each as a change of the row ``acclimate``."""

from collections.abc import Iterable

from acclimate.evaluate.variant import Scalar, Variant

ROW = "acclimate"
REFERENCES = ("source", "aligned", "aligned-bn")
_RATE = "update.learning_rate"
_BATCH: dict[str, Scalar] = {"normalisation": "batch"}
CHANGES: dict[str, dict[str, Scalar]] = {
    ROW: {},
    "no steps": {_RATE: 0},
    "entropy": {"objective": "entropy"},
    "with consistency": {"objective.consistency": 1},
    "contrastive": {"objective": "contrastive", "selection": "all"},
    "all images alike": {"selection": "all"},
    "reliable images": {"selection": "reliable-new"},
    "rate 1e-3": {_RATE: 1e-3},
    "rate 1e-2": {_RATE: 1e-2},
    "all weights, rate 3e-4": {_RATE: 3e-4, "update.parameters": "all"},
    "two steps": {"steps": 2},
    "pulled to the source": {"aftermath": "pull"},
    "pulled by 0.003": {"aftermath": "pull", "aftermath.0.rate": 0.003},
    "pulled by 0.03": {"aftermath": "pull", "aftermath.0.rate": 0.03},
    "reset at each batch": {"reset": "batch"},
    "answered before the step": {"answer": "before"},
    "no mirrored image": {"answer.flip": False},
    "prior correction": {"correction": "prior"},
    "batch statistics, prior 16": _BATCH | {"normalisation.limit": 1},
    "batch statistics, as measured": _BATCH | {"normalisation.prior": None},
    "class statistics, limit 1": {"normalisation.limit": 1},
    "class statistics, limit 0.85": {"normalisation.limit": 0.85},
    "class statistics, limit 0.5": {"normalisation.limit": 0.5},
    "class statistics, horizon 128": {"normalisation.horizon": 128},
    "class statistics, horizon 512": {"normalisation.horizon": 512},
    "the others assumed as in the source": {"normalisation.leeway": 1e6},
    "leeway 0": {"normalisation.leeway": 0},
    "leeway 1": {"normalisation.leeway": 1},
    "leeway 4": {"normalisation.leeway": 4},
    "named once": {"normalisation.again": 0},
    "memory of the batch alone": {"memory": "batch"},
}
"""Changes of the row, by what they are called."""
CORRELATED = (
    ROW,
    "no steps",
    "entropy",
    "all images alike",
    "answered before the step",
    "prior correction",
    *(name for name in CHANGES if "statistics" in name),
    *(name for name in CHANGES if "leeway" in name),
    "the others assumed as in the source",
    "named once",
)
"""Candidates that are measured where images of a class come close together."""
SMALL = (ROW, "no steps", "memory of the batch alone", "batch statistics, as measured")
"""Candidates that are measured in small batches."""
FINALISTS = (
    ROW,
    "no steps",
    "entropy",
    "all images alike",
    "rate 1e-2",
    "no mirrored image",
    "pulled to the source",
)
"""Candidates that are measured on 500 and on 10,000 images."""
FORGETTING = (
    ROW,
    "no steps",
    "rate 1e-3",
    "pulled by 0.003",
    "pulled to the source",
    "pulled by 0.03",
)
"""Candidates that are measured where shifts come back, so that what was learned may harm."""
FIFTEEN = ("source", "ptbn", "tent", "roid", "aligned-bn", "cta", ROW)
"""Methods that are measured on the reported corruptions."""


def variants(names: Iterable[str]) -> tuple[str, ...]:
    """Candidates as a grid takes them."""
    return tuple(str(Variant.of(ROW, CHANGES[name])) for name in names)


def name_of(variant: Variant) -> str:
    """What a candidate is called; another method by its name."""
    for name, changes in CHANGES.items():
        if variant == Variant.of(ROW, changes):
            return name
    return str(variant)
