"""Features in the plane: how classes lie before the shift, under it, and after adapting."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64
from sklearn.manifold import TSNE
from sklearn.metrics import davies_bouldin_score

from acclimate.bundle import Bundle
from acclimate.data import LabelledImages, Shift, streams
from acclimate.evaluate.analyses.semantics import Features, Look, features


@dataclass(frozen=True, eq=False)
class Panel:
    """One part of a model on one set (CTA, Figure 2)."""

    method: str
    part: str
    """``"encoder"`` or ``"projector"``."""
    state: str
    """``"clean"``, ``"before"`` or ``"after"`` adapting to the shift."""
    points: Float[np.ndarray, "n 2"]
    """t-SNE of the features (van der Maaten and Hinton 2008); scale and turn mean nothing."""
    labels: Int64[np.ndarray, " n"]
    davies_bouldin: float
    """Davies–Bouldin index of the features themselves."""


def panels(
    bundle: Bundle,
    name: str,
    data: LabelledImages,
    shift: Shift,
    look: Look,
) -> Iterator[Panel]:
    """Encoder and projector on clean images, under the shift, and after adapting to it.

    Raises:
        InputError: as `acclimate.evaluate.analyses.semantics.features`.
    """
    clean, _ = features(bundle, name, data, streams.CLEAN, look)
    before, after = features(bundle, name, data, shift, look)
    for state, found in (("clean", clean), ("before", before), ("after", after)):
        for part in ("encoder", "projector"):
            yield _panel(name, part, state, found, look.seed)


def _panel(name: str, part: str, state: str, found: Features, seed: int) -> Panel:
    values = getattr(found, part)
    perplexity = min(30.0, (len(values) - 1) / 3)
    points = TSNE(init="pca", perplexity=perplexity, random_state=seed).fit_transform(values)
    index = float(davies_bouldin_score(values, found.labels))
    return Panel(name, part, state, np.asarray(points), found.labels, index)
