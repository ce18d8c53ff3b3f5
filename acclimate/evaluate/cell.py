"""One measurement: one method on the images of one stream that are under one shift."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float32, Int64


@dataclass(frozen=True, eq=False)
class Answers:
    """What was answered, image by image, in the order in which they arrived."""

    positions: Int64[np.ndarray, " n"]
    """Where in the stream each one was: 0 for its first image."""
    numbers: Int64[np.ndarray, " n"]
    """Which image of the data set each one is."""
    predictions: Int64[np.ndarray, " n"]
    """The class that was answered."""
    confidences: Float32[np.ndarray, " n"]
    """The softmax probability of that class, 0..1."""
    right: Bool[np.ndarray, " n"]
    """Whether it is the image's class."""

    def of(self, numbers: Int64[np.ndarray, " m"]) -> Int64[np.ndarray, " m"]:
        """Where the answers for these images are; each must have come once."""
        order = self.numbers.argsort()
        return order[np.searchsorted(self.numbers, numbers, sorter=order)]


@dataclass(frozen=True)
class Cell:
    """The result of one method on one corruption of one data set.

    Of a stream with several shifts there are as many cells; what was measured of the stream as a
    whole (times, memory, refused steps) stands in each of them.
    """

    method: str
    """A name of `acclimate.methods.METHODS`, or ``METHOD-lr0``."""
    bundle: str
    """A label of the bundle that adapted."""
    dataset: str
    corruption: str
    """Its name, or ``"none"`` for clean images."""
    severity: float
    """1..5, or 0 for clean images; of growing noise that of the last image."""
    order: str
    """How the images arrived: a name of `acclimate.data.streams.ORDERS`."""
    seed: int
    """Of order, corruption and views."""
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
    """Gradient steps a batch, or an image where a method learns from each alone."""
    seconds: float
    """Wall time of adapting and answering, without loading and corrupting; with the extra answers
    of a curve where one was recorded."""
    images_per_second: float
    """Of adapting and answering, without the curve's extra answers."""
    peak_memory: int
    """The most bytes that the process, or the GPU, held at a time."""
    refused_steps: int
    """Steps that were undone because a loss or gradient was not finite."""
    forward_equivalents: float = float("nan")
    """What an image costs, see `acclimate.Cost`; nan where it was not counted."""
    curve: tuple[float, ...] = ()
    """Accuracy after 0, 1, ... steps a batch, the last is ``accuracy``; empty if unrecorded."""
    answers: Answers | None = field(default=None, compare=False, repr=False)
