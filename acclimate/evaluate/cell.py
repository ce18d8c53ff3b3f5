"""One measurement: one method on one stream of images."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """The result of one method on one corruption of one data set."""

    method: str
    """A name of `acclimate.methods.METHODS`."""
    dataset: str
    corruption: str
    """Its name, or ``"none"`` for clean images."""
    severity: int
    """1..5, or 0 for clean images."""
    order: str
    """How the images arrived, e.g. ``"shuffled"``."""
    seed: int
    accuracy: float
    """Share of right answers, 0..1."""
    ece: float
    """Expected calibration error, 0..1, 15 bins."""
    n_images: int
    steps: int
    """Gradient steps a batch."""
    seconds: float
    """Wall time of adapting and answering, without loading and corrupting."""
    images_per_second: float
    refused_steps: int
    """Steps that were undone because a loss or gradient was not finite."""
    predictions: tuple[int, ...]
    """The class answered for each image, in the data set's order."""
    confidences: tuple[float, ...]
    """The softmax probability of each prediction, 0..1."""
    curve: tuple[float, ...]
    """Accuracy after 0, 1, ... steps a batch, the last is ``accuracy``; empty if unrecorded."""
