"""The stream: a cycle of segments, whose orders are computed when they are reached."""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from acclimate.data.corruptions import (
    check_amount,
    check_images,
    check_severity,
    corrupt_by_amount,
    corrupt_numbered,
)
from acclimate.errors import InputError

Pixels = UInt8[Tensor, "n 3 height width"]
"""Images of a data set, uint8, 0..255."""


@dataclass(frozen=True)
class Shift:
    """A distribution shift: a corruption with a severity, or a domain of a published set.

    ```python
    Shift("fog", 5)
    Shift("gaussian_noise", 2.5)  # fractional severities of noise
    Shift("none", 0)  # clean images, the same as CLEAN
    Shift(domain="sketch")  # images of that domain, which arrive as they are
    ```

    Raises:
        InputError: the corruption is unknown or has no such severity, or a domain has one too.
    """

    corruption: str = ""
    """Name of the corruption, a key of `acclimate.data.CORRUPTIONS`, or ``"none"``; empty with a
    domain."""
    severity: int | float = 0
    """Severity, an integer 1..5, or 0 with ``"none"`` or a domain. A float 0..5 (also 3.0) is a
    fractional severity of `acclimate.data.corruptions.corrupt_by_amount`: the random numbers are
    then the same at all severities."""
    domain: str = ""
    """A domain of a published set, such as ``"sketch"`` of pacs or ``"fog/5"`` of cifar10-c."""

    def __post_init__(self) -> None:
        if self.domain:
            if self.corruption or self.severity:
                raise InputError(
                    f"a shift is a corruption or a domain, not {self.corruption!r} of "
                    f"{self.domain!r}; leave one out."
                )
        elif self.corruption == "none":
            if self.severity != 0:
                raise InputError(f"'none' has severity 0, not {self.severity!r}: give severity 0.")
        elif isinstance(self.severity, float):
            check_amount(self.corruption, self.severity)
        else:
            check_severity(self.corruption, self.severity)

    def __str__(self) -> str:
        """The name, and the severity if there is one."""
        return f"{self.name} {self.severity:g}" if self.severity else self.name

    @property
    def name(self) -> str:
        """The corruption's name, or the domain."""
        return self.domain or self.corruption


CLEAN = Shift("none", 0)
"""The shift of clean images."""


@dataclass(frozen=True, eq=False)
class Batch:
    """A batch of a stream. It holds no labels."""

    images: UInt8[Tensor, "b 3 height width"]
    """Corrupted images, 0..255."""
    numbers: Int64[Tensor, " b"]
    """Index of each image in the data set."""
    shifts: tuple[Shift, ...]
    """Shift of each image."""
    position: int
    """Number of images of the stream up to the end of this batch; `Stream.start_at` continues the
    stream from there."""

    def __repr__(self) -> str:
        shifts = ", ".join(dict.fromkeys(map(str, self.shifts)))
        return f"Batch({len(self.images)} images, {shifts}, up to {self.position:,})"


@dataclass(frozen=True)
class Growth:
    """Noise whose severity changes in equal steps from a segment's first image to its last."""

    corruption: str
    """Name of the corruption."""
    first: float
    """Severity of the first image."""
    last: float
    """Severity of the last image."""

    def at(self, place: int, length: int) -> Shift:
        """The shift of the image at index ``place`` of a segment of the given length."""
        share = place / max(length - 1, 1)
        severity = (1 - share) * self.first + share * self.last
        low, high = sorted((self.first, self.last))
        return Shift(self.corruption, min(max(severity, low), high))  # clipped: sums are rounded


@dataclass(frozen=True)
class Segment:
    """A part of a stream. Its order is computed when the segment is reached, and not kept."""

    length: int
    """Number of images."""
    shifts: tuple[Shift, ...] | Growth
    """Shifts of the images."""
    order: Callable[[int], Int64[Tensor, " length"]]
    """Function of the round's index that returns the order as pairs of image and shift. With n
    images in the data set, pair p is image p mod n under shift p div n."""


@dataclass(frozen=True, eq=False)
class Stream:
    """Batches of a data set's images in a certain order, corrupted when they are reached.

    Functions of `acclimate.data.streams` make streams.

    ```python
    stream = streams.shuffled(images, Shift("fog", 5), batch=64)
    for batch in stream:
        logits = adapter(batch.images)
    ```

    A stream is immutable, and every iteration gives the same batches. It holds the pixels of one
    batch and the order of one segment (8 bytes per image) at a time. Each batch holds the next
    ``batch`` images whatever their shift, so that the batches do not reveal where a shift begins.
    Only the last batch may be smaller. ``len(stream)`` is the number of batches.

    Raises:
        InputError: there is no image or no shift, ``batch`` or ``rounds`` is below 1, or the
            position is outside the stream.
    """

    images: Pixels
    """Clean images of the data set. They may be a memory map; only a batch's images are read."""
    cycle: tuple[Segment, ...]
    """Segments of one round."""
    rounds: int = 1
    """Number of times that the cycle is repeated."""
    batch: int = 128
    """Number of images per batch."""
    seed: int = 0
    """Seed of the corruptions."""
    position: int = 0
    """Number of images before the first batch."""

    def __post_init__(self) -> None:
        check_images(self.images)
        if not len(self.images):
            raise InputError("there are no images: a stream needs at least one.")
        for name in ("batch", "rounds"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise InputError(f"{name} is {value}: give an integer of at least 1.")
        if not self.cycle:
            raise InputError("there are no shifts: a stream needs at least one.")
        if not 0 <= self.position <= self.length:
            raise InputError(
                f"position {self.position} is outside the stream: give one in 0..{self.length}."
            )

    @property
    def length(self) -> int:
        """Number of images in the whole stream, from position 0."""
        return self.rounds * sum(segment.length for segment in self.cycle)

    def __repr__(self) -> str:
        return f"Stream({self.length - self.position:,} images in {len(self)} batches)"

    def __len__(self) -> int:
        return -(-(self.length - self.position) // self.batch)

    def start_at(self, position: int) -> "Stream":
        """The rest of the stream from a position, counted in images from the stream's beginning.

        ```python
        first = next(iter(stream))
        rest = stream.start_at(first.position)  # all batches after the first one
        ```

        The order of the images and their shifts do not change. The first batch begins at the
        position. So the batches are those of the uninterrupted stream if one of these begins there.

        Raises:
            InputError: the position is outside the stream.
        """
        return replace(self, position=position)

    def __iter__(self) -> Iterator[Batch]:
        indices, shifts, position = [], [], self.position
        for segment, round_index, place in self._remaining_segments():
            order = segment.order(round_index)
            while place < segment.length:
                pairs = order[place : place + self.batch - len(shifts)]
                indices.append(pairs % len(self.images))
                shifts += self._shifts(segment, pairs, place)
                place += len(pairs)
                position += len(pairs)
                if len(shifts) == self.batch:
                    yield self._batch(torch.cat(indices), tuple(shifts), position)
                    indices, shifts = [], []
            del order  # frees its memory before the next order is computed
        if shifts:
            yield self._batch(torch.cat(indices), tuple(shifts), position)

    def _remaining_segments(self) -> Iterator[tuple[Segment, int, int]]:
        """The remaining segments, each with its round and the index of its first image to use."""
        ends = list(accumulate(segment.length for segment in self.cycle))
        current_round, offset = divmod(self.position, ends[-1])
        first = bisect_right(ends, offset)
        place = offset - (ends[first] - self.cycle[first].length)
        for round_index in range(current_round, self.rounds):
            for segment in self.cycle[first:]:
                yield segment, round_index, place
                place = 0
            first = 0

    def _shifts(self, segment: Segment, pairs: Tensor, place: int) -> list[Shift]:
        if isinstance(segment.shifts, Growth):
            places = range(place, place + len(pairs))
            return [segment.shifts.at(each, segment.length) for each in places]
        return [segment.shifts[i] for i in (pairs // len(self.images)).tolist()]

    def _batch(self, indices: Tensor, shifts: tuple[Shift, ...], position: int) -> Batch:
        images = shifted(self.images[indices], indices, shifts, seed=self.seed)
        return Batch(images, indices, shifts, position)


def shifted(
    images: UInt8[Tensor, "b 3 height width"],
    numbers: Int64[Tensor, " b"],
    shifts: Sequence[Shift],
    *,
    seed: int = 0,
) -> UInt8[Tensor, "b 3 height width"]:
    """Corrupt each image with its own shift.

    ```python
    shifted(images, torch.arange(len(images)), [Shift("fog", 5)] * len(images))
    ```

    Args:
        images: uint8, 0..255.
        numbers: Index of each image in its data set.
        shifts: Shift of each image.
        seed: Seed of the corruptions.
    """
    # Rows of images that are corrupted by one call; severity None stands for fractional ones.
    rows_of: dict[tuple[str, int | None], list[int]] = {}
    for row, shift in enumerate(shifts):
        whole = None if isinstance(shift.severity, float) else shift.severity
        rows_of.setdefault((shift.corruption, whole), []).append(row)
    parts = []
    for (corruption, severity), rows in rows_of.items():
        part = images if len(rows_of) == 1 else images[rows]
        if corruption in ("none", ""):  # clean, or of a domain
            parts.append(part)
        elif severity is None:
            amounts = torch.tensor([shifts[row].severity for row in rows], dtype=torch.float64)
            parts.append(corrupt_by_amount(part, corruption, amounts, numbers[rows], seed=seed))
        else:
            parts.append(corrupt_numbered(part, corruption, severity, numbers[rows], seed=seed))
    if len(parts) == 1:
        return parts[0]
    result = torch.empty_like(images, memory_format=torch.contiguous_format)
    for rows, part in zip(rows_of.values(), parts):
        result[rows] = part
    return result
