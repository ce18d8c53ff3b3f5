"""Images to look at: before and after corruption, with the answers to them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor

from acclimate.data import LabelledImages, corrupt
from acclimate.data.classes import match_classes
from acclimate.evaluate.cell import Cell
from acclimate.evaluate.variant import Variant

BEFORE, AFTER = Variant("source"), Variant("cta")
"""The variants whose answers a sample shows: one that does not adapt, and one that does."""


@dataclass(frozen=True)
class Sample:
    """One image before and after corruption, and the answers to the corrupted one."""

    clean: UInt8[Tensor, "3 height width"]
    corrupted: UInt8[Tensor, "3 height width"]
    corruption: str
    truth: str
    """The right class."""
    before: str
    """Answer of the frozen classifier."""
    before_confidence: float
    """0..1."""
    after: str
    """Answer of the adapted model."""
    after_confidence: float


def samples_of(
    classes: Sequence[str],
    corruptions: Sequence[str],
    test: LabelledImages,
    cells: Sequence[Cell],
) -> list[Sample]:
    """One image for each corruption: where there is one, an image whose answer changed.

    Args:
        classes: The name of each output of the bundle.
        corruptions: Names of corruptions to show an image of.
        test: The images that were answered for.
        cells: Cells with answers of `BEFORE` and `AFTER` under each corruption.
    """
    match = match_classes(classes, test.classes, whose="the bundle", data=test.name)
    found = {(cell.variant, cell.corruption): cell for cell in cells}
    samples = []
    for position, name in enumerate(corruptions):
        frozen, adapted = (_by_image(found[variant, name]) for variant in (BEFORE, AFTER))
        changed = np.flatnonzero(frozen[0] != adapted[0])
        # Spread over the set, not picked for being right.
        chosen = int(changed[position * 7 % len(changed)]) if len(changed) else position
        clean = test.images[chosen : chosen + 1]
        cell = found[AFTER, name]
        seen = corrupt(clean, name, int(cell.severity), seed=cell.seed, first_index=chosen)
        samples.append(
            Sample(
                clean=clean[0],
                corrupted=seen[0],
                corruption=name,
                truth=classes[int(match.outputs[test.labels[chosen]])],
                before=classes[int(frozen[0][chosen])],
                before_confidence=float(frozen[1][chosen]),
                after=classes[int(adapted[0][chosen])],
                after_confidence=float(adapted[1][chosen]),
            )
        )
    return samples


def _by_image(cell: Cell) -> tuple[Int64[np.ndarray, " n"], Float32[np.ndarray, " n"]]:
    """Prediction and confidence for each image of the data set."""
    assert cell.answers is not None
    rows = cell.answers.of(np.arange(cell.n_images))
    return cell.answers.predictions[rows], cell.answers.confidences[rows]
