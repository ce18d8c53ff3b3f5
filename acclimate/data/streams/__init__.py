"""Streams: the order in which target images arrive, and what has happened to them.

A stream is lazy, seeded, and resumes from any position::

    for batch in streams.continual(images, [Shift("fog", 5), Shift("contrast", 5)], batch=64):
        logits = adapter(batch.images)
"""

from collections.abc import Callable

from acclimate.data.streams.labelled import class_correlated, label_shifted
from acclimate.data.streams.orders import (
    continual,
    gradual,
    growing_noise,
    joined,
    mixed,
    recurring,
    shuffled,
)
from acclimate.data.streams.stream import CLEAN, Batch, Shift, Stream, shifted

__all__ = [
    "CLEAN",
    "ORDERS",
    "Batch",
    "Shift",
    "Stream",
    "class_correlated",
    "continual",
    "gradual",
    "growing_noise",
    "joined",
    "label_shifted",
    "mixed",
    "recurring",
    "shifted",
    "shuffled",
]

ORDERS: dict[str, Callable[..., Stream]] = {
    "shuffled": shuffled,
    "class-correlated": class_correlated,
    "label-shifted": label_shifted,
    "gradual": gradual,
    "growing-noise": growing_noise,
    "continual": continual,
    "recurring": recurring,
    "mixed": mixed,
}
