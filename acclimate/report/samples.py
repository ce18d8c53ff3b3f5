"""Images to look at: before and after corruption, with the answers to them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor

from acclimate.data import LabelledImages, corrupt
from acclimate.evaluate.cell import Cell


@dataclass(frozen=True)
class Sample:
    """One image before and after corruption, and the answers to the corrupted one."""

    clean: UInt8[Tensor, "3 height width"]
    corrupted: UInt8[Tensor, "3 height width"]
    corruption: str
    truth: str
    """The right class."""
    before: str
    """What the frozen classifier answers."""
    before_confidence: float
    """0..1."""
    after: str
    """What the adapted one answers."""
    after_confidence: float


def samples_of(
    classes: Sequence[str],
    corruptions: Sequence[str],
    test: LabelledImages,
    cells: Sequence[Cell],
    *,
    before: str = "source",
    after: str = "cta",
) -> list[Sample]:
    """One image a corruption: where there is one, an answer that adaptation changed.

    Args:
        classes: The names of the classes.
        corruptions: Of which to show an image each.
        test: The images that were answered for.
        cells: With answers of both methods on each corruption.
        before: The method that does not adapt.
        after: The method that does.
    """
    found = {(cell.method, cell.corruption): cell for cell in cells}
    samples = []
    for position, name in enumerate(corruptions):
        frozen, adapted = (_by_image(found[method, name]) for method in (before, after))
        changed = np.flatnonzero(frozen[0] != adapted[0])
        # Spread over the set, not picked for being right.
        chosen = int(changed[position * 7 % len(changed)]) if len(changed) else position
        clean = test.images[chosen : chosen + 1]
        cell = found[after, name]
        seen = corrupt(clean, name, int(cell.severity), seed=cell.seed, first_index=chosen)
        samples.append(
            Sample(
                clean=clean[0],
                corrupted=seen[0],
                corruption=name,
                truth=classes[int(test.labels[chosen])],
                before=classes[int(frozen[0][chosen])],
                before_confidence=float(frozen[1][chosen]),
                after=classes[int(adapted[0][chosen])],
                after_confidence=float(adapted[1][chosen]),
            )
        )
    return samples


def _by_image(cell: Cell) -> tuple[Int64[np.ndarray, " n"], Float32[np.ndarray, " n"]]:
    """What was answered for each image of the data set, and how sure it was."""
    assert cell.answers is not None
    rows = cell.answers.of(np.arange(cell.n_images))
    return cell.answers.predictions[rows], cell.answers.confidences[rows]
