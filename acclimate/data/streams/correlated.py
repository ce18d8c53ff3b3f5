"""Streams with correlated classes under several shifts."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from acclimate.data.streams.labelled import Labels, class_correlated, classes_of, correlated_order
from acclimate.data.streams.orders import UP_AND_DOWN
from acclimate.data.streams.stream import Pixels, Segment, Shift, Stream

_STEPS = len(UP_AND_DOWN)


def class_correlated_continual(
    images: Pixels,
    labels: Labels,
    shifts: Sequence[Shift],
    *,
    concentration: float = 0.1,
    batch: int = 128,
    seed: int = 0,
) -> Stream:
    """One shift after another, correlated classes under each (Yuan et al., RoTTA, 2023).

    The streams of `class_correlated`, one for each shift, in one. Every image comes once under
    each shift.

    ```python
    stream = class_correlated_continual(images, labels, [Shift("fog", 5), Shift("contrast", 5)])
    ```

    Args:
        images: uint8, 0..255.
        labels: Class of each image.
        shifts: Shifts in order.
        concentration: γ of `class_correlated`.
        batch: Number of images per batch.
        seed: Seed of the orders and corruptions.

    Raises:
        InputError: as `class_correlated`, or there is no shift.
    """
    cycle = [
        segment
        for shift in shifts
        for segment in class_correlated(
            images, labels, shift=shift, concentration=concentration, seed=seed
        ).cycle
    ]
    return Stream(images, tuple(cycle), batch=batch, seed=seed)


def class_correlated_gradual(
    images: Pixels,
    labels: Labels,
    corruptions: Sequence[str],
    *,
    concentration: float = 0.1,
    batch: int = 128,
    seed: int = 0,
) -> Stream:
    """Severities that rise and fall as in `gradual`, and correlated classes (ROID, 2024).

    Every image comes once under each corruption. The order within a corruption is that of
    `class_correlated` at severity 5; each of the nine steps has a ninth of it.

    ```python
    stream = class_correlated_gradual(images, labels, ["fog", "contrast"])
    ```

    Args:
        images: uint8, 0..255.
        labels: Class of each image.
        corruptions: Names of the corruptions, in order.
        concentration: γ of `class_correlated`.
        batch: Number of images per batch.
        seed: Seed of the orders and corruptions.

    Raises:
        InputError: as `class_correlated`, or there is no corruption or an unknown one.
    """
    classes = classes_of(images, labels)
    steps = np.arange(len(classes)) * _STEPS // len(classes)
    cycle = []
    for name in corruptions:
        order = correlated_order(classes, Shift(name, 5), seed=seed, concentration=concentration)
        ramp = tuple(Shift(name, severity) for severity in UP_AND_DOWN)
        cycle.append(_segment(steps * len(classes) + order, ramp))
    return Stream(images, tuple(cycle), batch=batch, seed=seed)


def class_correlated_mixed(
    images: Pixels,
    labels: Labels,
    shifts: Sequence[Shift],
    *,
    concentration: float = 0.1,
    batch: int = 128,
    seed: int = 0,
) -> Stream:
    """All pairs of image and shift in one order, correlated by class (Marsden et al., ROID, 2024).

    The order is that of `class_correlated` over the pairs: the images of a class come close
    together, under any of the shifts.

    ```python
    stream = class_correlated_mixed(images, labels, [Shift("fog", 5), Shift("contrast", 5)])
    ```

    Args:
        images: uint8, 0..255.
        labels: Class of each image.
        shifts: Shifts of the images.
        concentration: γ of `class_correlated`.
        batch: Number of images per batch.
        seed: Seed of the order and the corruptions.

    Raises:
        InputError: as `class_correlated`, or there is no shift.
    """
    cycle = ()
    if shifts:  # the stream refuses a lack of shifts
        classes = np.tile(classes_of(images, labels), len(shifts))
        order = correlated_order(classes, shifts[0], seed=seed, concentration=concentration)
        cycle = (_segment(order, tuple(shifts)),)
    return Stream(images, cycle, batch=batch, seed=seed)


def _segment(pairs: Int64[np.ndarray, " m"], shifts: tuple[Shift, ...]) -> Segment:
    return Segment(len(pairs), shifts, partial(_as_it_is, torch.from_numpy(pairs)))


def _as_it_is(pairs: Tensor, round_index: int) -> Int64[Tensor, " m"]:
    return pairs
