"""One measurement: one variant of a method on the images of one stream that share a shift."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float32, Int64

from acclimate.evaluate.variant import Variant

CLEAN = "none"
"""The corruption of a cell of clean images."""


@dataclass(frozen=True, eq=False)
class Answers:
    """Answers image by image, in the order in which the images arrived."""

    positions: Int64[np.ndarray, " n"]
    """Position of each image in the stream, from 0."""
    numbers: Int64[np.ndarray, " n"]
    """Index of each image in the data set."""
    predictions: Int64[np.ndarray, " n"]
    """The predicted class."""
    confidences: Float32[np.ndarray, " n"]
    """The softmax probability of that class, 0..1."""
    right: Bool[np.ndarray, " n"]
    """Whether the prediction is the image's class."""

    def __repr__(self) -> str:
        return f"Answers({len(self.right):,} images, {100 * self.right.mean():.1f} % right)"

    def of(self, numbers: Int64[np.ndarray, " m"]) -> Int64[np.ndarray, " m"]:
        """Places of the answers for these images, each of which must have come once."""
        order = self.numbers.argsort()
        return order[np.searchsorted(self.numbers, numbers, sorter=order)]


@dataclass(frozen=True)
class Cell:
    """The result of one variant under one shift of one data set.

    A stream with several shifts has a cell for each. What was measured of the stream as a whole
    (times, memory, refused steps) stands in each of them.
    """

    variant: Variant
    bundle: str
    """Label of the bundle that adapted."""
    dataset: str
    corruption: str
    """Name of the corruption, ``"none"`` for clean images, empty for images of a domain."""
    severity: float
    """1..5, or 0 without a corruption; under growing noise the severity of the last image."""
    order: str
    """Order of arrival: a name of `acclimate.data.streams.ORDERS`."""
    seed: int
    """Seed of order, corruption and views."""
    batch: int
    """Images that arrived together."""
    accuracy: float
    """Share of right answers, 0..1."""
    ece: float
    """Expected calibration error, 0..1, 15 bins."""
    nll: float
    """Mean negative log likelihood of the right class, in nats."""
    n_images: int
    steps: int
    """Gradient steps for each batch, or for each image where a method learns from each alone."""
    seconds: float
    """Wall time of adapting and answering, without loading and corrupting. If a curve was
    recorded, its extra answers are included."""
    images_per_second: float
    """Speed of adapting and answering, without the curve's extra answers."""
    peak_memory: int
    """The most bytes that the process, or the GPU, held at a time."""
    refused_steps: int
    """Steps that were undone because a loss or gradient was not finite."""
    forward_equivalents: float = float("nan")
    """Cost of an image, see `acclimate.Cost`; nan where it was not counted."""
    domain: str = ""
    """Domain of a published set that the images are of, such as ``"fog/5"`` of cifar10-c."""
    window: int = 0
    """Length of the window that single images passed through; 0 without."""
    card: str = ""
    """Name of the protocol card, see `acclimate.evaluate.card`; empty where none was written."""
    curve: tuple[float, ...] = ()
    """Accuracy after 0, 1, ... steps; the last is ``accuracy``. Empty if it was not recorded."""
    answers: Answers | None = field(default=None, compare=False, repr=False)

    def __repr__(self) -> str:
        shift = f"{self.condition} {self.severity:g}" if self.severity else self.condition
        return (
            f"Cell({self.bundle + ': ' if self.bundle else ''}{self.variant}, {shift}, {self.order}"
            f" {self.batch}: {100 * self.accuracy:.1f} % of {self.n_images:,})"
        )

    @property
    def condition(self) -> str:
        """Name of the shift: the corruption's, or the domain."""
        return self.domain or self.corruption
