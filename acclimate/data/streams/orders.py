"""Streams whose order needs no labels. With ``batch=1``, images arrive one at a time."""

from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Int64
from torch import Tensor

from acclimate.data.corruptions import check_amount
from acclimate.data.streams.stream import CLEAN, Growth, Pixels, Segment, Shift, Stream
from acclimate.errors import InputError
from acclimate.randomness import key, permutation

UP_AND_DOWN = (1, 2, 3, 4, 5, 4, 3, 2, 1)
"""Severities of each corruption in a gradual stream, in order."""


def shuffled(images: Pixels, shift: Shift = CLEAN, *, batch: int = 128, seed: int = 0) -> Stream:
    """Every image once, in random order, under one shift (Wang et al., TENT, 2021).

    ```python
    for batch in shuffled(images, Shift("fog", 5), batch=64):
        logits = adapter(batch.images)
    ```

    Args:
        images: uint8, 0..255.
        shift: Distribution shift of all images.
        batch: Number of images per batch.
        seed: Seed of the order and the corruption.

    Raises:
        InputError: there is no image, or ``batch`` is below 1.
    """
    segment = Segment(len(images), (shift,), partial(_shuffled, key(seed, "stream"), len(images)))
    return Stream(images, (segment,), batch=batch, seed=seed)


def continual(
    images: Pixels, shifts: Sequence[Shift], *, batch: int = 128, seed: int = 0
) -> Stream:
    """One shift after another, every image once under each (Wang et al., CoTTA, 2022).

    ```python
    stream = continual(images, [Shift(name, 5) for name in corruptions.PUBLISHED])
    ```

    Args:
        images: uint8, 0..255.
        shifts: Shifts in order; CoTTA uses 15 corruptions at severity 5.
        batch: Number of images per batch.
        seed: Seed of the orders, one per shift, and of the corruptions.

    Raises:
        InputError: there is no image or no shift, or ``batch`` is below 1.
    """
    return recurring(images, shifts, rounds=1, batch=batch, seed=seed)


def recurring(
    images: Pixels,
    shifts: Sequence[Shift],
    *,
    rounds: int = 20,
    batch: int = 128,
    seed: int = 0,
) -> Stream:
    """A continual stream that repeats its shifts in rounds (Hoang et al., PeTTA, 2024).

    An image under a shift is the same in every round; the order of the images is a new one.

    ```python
    stream = recurring(images, [Shift("fog", 5), Shift("contrast", 5)], rounds=20)
    ```

    Args:
        images: uint8, 0..255.
        shifts: Shifts of each round, in order.
        rounds: Number of rounds. Streams are lazy, so any number is fine.
        batch: Number of images per batch.
        seed: Seed of the orders and corruptions.

    Raises:
        InputError: there is no image or no shift, or ``rounds`` or ``batch`` is below 1.
    """
    orders = [partial(_reshuffled, seed, i, len(images)) for i in range(len(shifts))]
    cycle = [Segment(len(images), (shift,), order) for shift, order in zip(shifts, orders)]
    return Stream(images, tuple(cycle), rounds, batch=batch, seed=seed)


def mixed(images: Pixels, shifts: Sequence[Shift], *, batch: int = 128, seed: int = 0) -> Stream:
    """Every image once under every shift, all in one random order (Marsden et al., ROID, 2024).

    A batch holds images under many shifts.

    ```python
    stream = mixed(images, [Shift("fog", 5), Shift("contrast", 5)])
    ```

    Args:
        images: uint8, 0..255.
        shifts: Shifts of the images.
        batch: Number of images per batch.
        seed: Seed of the order and the corruptions.

    Raises:
        InputError: there is no image or no shift, or ``batch`` is below 1.
    """
    pairs = len(images) * len(shifts)
    segment = Segment(pairs, tuple(shifts), partial(_shuffled, key(seed, "stream", "mixed"), pairs))
    return Stream(images, (segment,) if shifts else (), batch=batch, seed=seed)


def gradual(
    images: Pixels,
    corruptions: Sequence[str],
    *,
    each_step: bool = False,
    batch: int = 128,
    seed: int = 0,
) -> Stream:
    """Severities 1, 2, 3, 4, 5, 4, 3, 2, 1 of one corruption, then of the next (CoTTA, 2022).

    Every image comes once under each corruption: a ninth of the images at each of the nine steps.

    ```python
    stream = gradual(images, ["fog", "contrast"])
    ```

    Args:
        images: uint8, 0..255.
        corruptions: Names of the corruptions, in order.
        each_step: Whether every image comes once at each of the nine steps instead.
        batch: Number of images per batch.
        seed: Seed of the orders and corruptions.

    Raises:
        InputError: there is no image, no corruption or an unknown one, or ``batch`` is below 1.
    """
    ramps = [tuple(Shift(name, severity) for severity in UP_AND_DOWN) for name in corruptions]
    if each_step:
        return continual(images, [step for ramp in ramps for step in ramp], batch=batch, seed=seed)
    orders = [partial(_by_step, seed, i, len(images)) for i in range(len(ramps))]
    cycle = [Segment(len(images), ramp, order) for ramp, order in zip(ramps, orders)]
    return Stream(images, tuple(cycle), batch=batch, seed=seed)


def growing_noise(
    images: Pixels,
    corruption: str = "gaussian_noise",
    *,
    first: float = 0.0,
    last: float = 5.0,
    batch: int = 128,
    seed: int = 0,
) -> Stream:
    """Every image once, in random order, under steadily growing noise (Sun et al., TTT, 2020).

    The severity changes in equal steps from the first image to the last. The amount of noise is
    interpolated linearly between the published severities.

    ```python
    stream = growing_noise(images, "gaussian_noise", first=0.0, last=5.0)
    ```

    Args:
        images: uint8, 0..255.
        corruption: One of `acclimate.data.corruptions.AMOUNTS`.
        first: Severity of the first image, 0 (no noise) to 5.
        last: Severity of the last image; if below ``first``, the noise decreases.
        batch: Number of images per batch.
        seed: Seed of the order and the noise.

    Raises:
        InputError: there is no image, ``batch`` is below 1, the corruption has no fractional
            severities, or a severity is outside 0..5.
    """
    for severity in (first, last):
        check_amount(corruption, float(severity))
    growth = Growth(corruption, float(first), float(last))
    segment = Segment(len(images), growth, partial(_shuffled, key(seed, "stream"), len(images)))
    return Stream(images, (segment,), batch=batch, seed=seed)


def joined(streams: Sequence[Stream]) -> Stream:
    """Concatenate streams of the same images.

    ```python
    # Correlated classes under one shift after another (Yuan et al., RoTTA, 2023):
    stream = joined([class_correlated(images, labels, shift=shift) for shift in shifts])
    ```

    Args:
        streams: Complete streams of one round each, with the same tensor of images, batch and seed.

    Raises:
        InputError: there is no stream, or the streams cannot be joined.
    """
    if not streams:
        raise InputError("there are no streams: give at least one to join.")
    first = streams[0]
    for stream in streams:
        same = stream.images is first.images and stream.position == 0 and stream.rounds == 1
        if not same or (stream.batch, stream.seed) != (first.batch, first.seed):
            raise InputError(
                "these streams cannot be joined: make them from the same tensor of images, with "
                "the same batch and seed, in one round and from position 0."
            )
    return Stream(
        first.images,
        tuple(segment for stream in streams for segment in stream.cycle),
        batch=first.batch,
        seed=first.seed,
    )


# Orders of segments, see `Segment.order`. Only recurring streams have more than one round.


def _shuffled(order_key: int, count: int, round_index: int) -> Int64[Tensor, " count"]:
    return permutation(order_key, count)


def _reshuffled(seed: int, segment: int, count: int, round_index: int) -> Int64[Tensor, " count"]:
    return permutation(key(seed, "stream", segment, round_index), count)


def _by_step(seed: int, segment: int, count: int, round_index: int) -> Int64[Tensor, " count"]:
    """The images in random order, in parts of (nearly) equal size, one for each severity step."""
    steps = torch.arange(count) * len(UP_AND_DOWN) // count
    return steps * count + _reshuffled(seed, segment, count, round_index)
