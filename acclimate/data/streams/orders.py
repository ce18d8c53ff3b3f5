"""Orders that need no labels. Each returns a `Stream`; ``batch=1`` lets images arrive singly."""

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
"""Severities of a gradual stream within each corruption."""


def shuffled(images: Pixels, shift: Shift = CLEAN, *, batch: int = 128, seed: int = 0) -> Stream:
    """Every image once, in random order, under one shift (Wang et al., TENT, 2021).

    Args:
        images: uint8, 0..255.
        shift: Of all images.
        batch: Images that arrive together.
        seed: Of order and corruption.

    Raises:
        InputError: there is no image, or ``batch`` is below 1.
    """
    segment = Segment(len(images), (shift,), partial(_shuffled, key(seed, "stream"), len(images)))
    return Stream(images, (segment,), batch=batch, seed=seed)


def continual(
    images: Pixels, shifts: Sequence[Shift], *, batch: int = 128, seed: int = 0
) -> Stream:
    """One shift after another, every image once under each (Wang et al., CoTTA, 2022).

    Args:
        images: uint8, 0..255.
        shifts: In the order in which they come; CoTTA takes 15 corruptions at severity 5.
        batch: Images that arrive together.
        seed: Of orders, one a shift, and corruptions.

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
    """A continual stream whose shifts all come back, round after round (Hoang et al., PeTTA, 2024).

    An image under a shift looks the same each time; the order of the images does not recur.

    Args:
        images: uint8, 0..255.
        shifts: In the order in which they come, each time.
        rounds: How often; a stream is lazy, so 10**9 is fine.
        batch: Images that arrive together.
        seed: Of orders and corruptions.

    Raises:
        InputError: there is no image or no shift, or ``rounds`` or ``batch`` is below 1.
    """
    orders = [partial(_shuffled_anew, seed, i, len(images)) for i in range(len(shifts))]
    cycle = [Segment(len(images), (shift,), order) for shift, order in zip(shifts, orders)]
    return Stream(images, tuple(cycle), rounds, batch=batch, seed=seed)


def mixed(images: Pixels, shifts: Sequence[Shift], *, batch: int = 128, seed: int = 0) -> Stream:
    """Every image once under every shift, all in one random order (Marsden et al., ROID, 2024).

    Args:
        images: uint8, 0..255.
        shifts: Of which a batch holds many.
        batch: Images that arrive together.
        seed: Of order and corruptions.

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

    Every image comes once in each corruption, a ninth of them at each step.

    Args:
        images: uint8, 0..255.
        corruptions: Names, in the order in which they come.
        each_step: Every image comes once in each of the nine steps instead.
        batch: Images that arrive together.
        seed: Of orders and corruptions.

    Raises:
        InputError: there is no image, no corruption or an unknown one, or ``batch`` is below 1.
    """
    hills = [tuple(Shift(name, severity) for severity in UP_AND_DOWN) for name in corruptions]
    if each_step:
        return continual(images, [step for hill in hills for step in hill], batch=batch, seed=seed)
    orders = [partial(_climbing, seed, i, len(images)) for i in range(len(hills))]
    cycle = [Segment(len(images), hill, order) for hill, order in zip(hills, orders)]
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
    """Every image once, in random order, under noise that grows with each (Sun et al., TTT, 2020).

    The severity changes in equal steps from the first image to the last; the amount of noise is
    interpolated linearly between the published severities.

    Args:
        images: uint8, 0..255.
        corruption: One of `acclimate.data.corruptions.AMOUNTS`.
        first: Severity of the first image, 0 (nothing) to 5.
        last: Severity of the last image; below ``first`` the noise fades.
        batch: Images that arrive together.
        seed: Of order and noise.

    Raises:
        InputError: there is no image, ``batch`` is below 1, the corruption has no severities in
            between, or one of them is outside 0..5.
    """
    for severity in (first, last):
        check_amount(corruption, float(severity))
    growth = Growth(corruption, float(first), float(last))
    segment = Segment(len(images), growth, partial(_shuffled, key(seed, "stream"), len(images)))
    return Stream(images, (segment,), batch=batch, seed=seed)


def joined(streams: Sequence[Stream]) -> Stream:
    """One stream after another, of the same images.

    Correlated classes under one shift after another (Yuan et al., RoTTA, 2023) are
    ``joined([class_correlated(images, labels, shift=shift) for shift in shifts])``.

    Args:
        streams: Whole ones of one round each, alike in images, batch and seed.

    Raises:
        InputError: they cannot be joined.
    """
    if not streams:
        raise InputError("there are no streams: give at least one to join.")
    first = streams[0]
    for stream in streams:
        same = stream.images is first.images and stream.position == 0 and stream.rounds == 1
        if not same or (stream.batch, stream.seed) != (first.batch, first.seed):
            raise InputError(
                "these streams cannot be joined: make them of the same tensor of images, with one "
                "batch and one seed, in one round and from position 0."
            )
    return Stream(
        first.images,
        tuple(segment for stream in streams for segment in stream.cycle),
        batch=first.batch,
        seed=first.seed,
    )


# Orders of segments: functions of the round, which only a recurring stream has more than one of.


def _shuffled(order_key: int, count: int, turn: int) -> Int64[Tensor, " count"]:
    return permutation(order_key, count)


def _shuffled_anew(seed: int, segment: int, count: int, turn: int) -> Int64[Tensor, " count"]:
    return permutation(key(seed, "stream", segment, turn), count)


def _climbing(seed: int, segment: int, count: int, turn: int) -> Int64[Tensor, " count"]:
    """Pairs: the images in random order, the steps one after another in (nearly) equal parts."""
    steps = torch.arange(count) * len(UP_AND_DOWN) // count
    return steps * count + _shuffled_anew(seed, segment, count, turn)
