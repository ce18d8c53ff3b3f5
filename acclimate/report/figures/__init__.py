"""The interactive figures, one idea a file: from what was measured to a plotly figure, or None."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from acclimate.evaluate.store import Measured
from acclimate.report.figures.accuracy import accuracy
from acclimate.report.figures.along import along, growing_noise
from acclimate.report.figures.cost import cost
from acclimate.report.figures.iterations import iterations, iterations_of
from acclimate.report.figures.reliability import reliability
from acclimate.report.figures.varied import batch_size, order

__all__ = ["ACROSS", "WITHIN", "Kind", "iterations_of"]


@dataclass(frozen=True)
class Kind:
    """A figure of the page."""

    name: str
    """Name of the file that its button saves."""
    title: str
    caption: str
    draw: Callable[[Sequence[Measured], Collection[str]], go.Figure | None]
    """Draws cells, given the held-out corruptions; None without data for it."""


WITHIN = (
    Kind(
        "accuracy",
        "Accuracy under each corruption",
        "A dot for each method. Click a name to hide it, double-click to see it alone.",
        accuracy,
    ),
    Kind(
        "cost",
        "What accuracy costs",
        "Multiplications in units of one plain answer, counted, on a logarithmic scale. Hollow: "
        "measured on other images than most.",
        cost,
    ),
    Kind(
        "iterations",
        "Accuracy over the gradient steps",
        "Mean over the corruptions after each step of a batch; 0 is the answer before learning. "
        "The number of steps is fixed beforehand: the best of a curve is known only with labels.",
        iterations,
    ),
    Kind(
        "along",
        "Accuracy along the stream",
        "In ten equal stretches of each stream, all streams together. A method that never forgets "
        "may rise or fall; others only fluctuate.",
        along,
    ),
    Kind(
        "reliability",
        "Reliability",
        "Confidence against accuracy of the answers to corrupted images, in ten bins. On the "
        "dotted line confidence is deserved, below it is too high. Bins with few answers are left "
        "out.",
        reliability,
    ),
)
"""Figures of cells that share a protocol."""

ACROSS = (
    Kind(
        "batch-size",
        "Batch size",
        "Mean accuracy over the corruptions that were measured with every size.",
        batch_size,
    ),
    Kind(
        "order",
        "Order of arrival",
        "Mean accuracy over the corruptions that were measured in every order.",
        order,
    ),
    Kind(
        "growing-noise",
        "Under growing noise",
        "Error in ten equal stretches of streams whose noise grows from none to severity 5.",
        growing_noise,
    ),
)
"""Figures of cells of several protocols."""
