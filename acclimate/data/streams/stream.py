"""What a stream is: a cycle of segments, each of which finds its order when it is reached."""

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
"""Images of a data set, 0..255."""


@dataclass(frozen=True)
class Shift:
    """A corruption with a severity, or a domain of a published set.

    ```python
    Shift("fog", 5)  # images are corrupted as they arrive
    Shift("none", 0)  # clean images
    Shift(domain="sketch")  # images of that domain, which arrive as they are
    ```
    """

    corruption: str = ""
    """A key of `acclimate.data.CORRUPTIONS`, or ``"none"``; empty with a domain."""
    severity: int | float = 0
    """1..5, or 0 with ``"none"`` or a domain. A float (also 3.0) is a noise's strength, anywhere in
    0..5: its random numbers are then the same at all strengths, not drawn anew for each severity.
    """
    domain: str = ""
    """A domain of a published set, such as ``"sketch"`` of pacs or ``"fog/5"`` of cifar10-c."""

    def __post_init__(self):
        if self.domain:
            if self.corruption or self.severity:
                raise InputError(
                    f"a shift is a corruption or a domain, not {self.corruption!r} of "
                    f"{self.domain!r}; leave one out."
                )
        elif self.corruption == "none":
            if self.severity != 0:
                raise InputError(f"'none' has severity 0, not {self.severity!r}.")
        elif isinstance(self.severity, float):
            check_amount(self.corruption, self.severity)
        else:
            check_severity(self.corruption, self.severity)

    @property
    def name(self) -> str:
        """The corruption's name, or the domain."""
        return self.domain or self.corruption


CLEAN = Shift("none", 0)


@dataclass(frozen=True, eq=False)
class Batch:
    """Images that arrive together, and nothing that says of which class they are."""

    images: UInt8[Tensor, "b 3 height width"]
    numbers: Int64[Tensor, " b"]
    """Which image of the data set each one is."""
    shifts: tuple[Shift, ...]
    """What was done to each one."""
    position: int
    """Images of the stream that have arrived, with these: where `Stream.start_at` goes on."""


@dataclass(frozen=True)
class Growth:
    """A noise whose strength changes in equal steps from a segment's first image to its last."""

    corruption: str
    first: float
    last: float

    def at(self, place: int, length: int) -> Shift:
        """The shift of the image at a place of a segment."""
        share = place / max(length - 1, 1)
        severity = (1 - share) * self.first + share * self.last
        low, high = sorted((self.first, self.last))
        return Shift(self.corruption, min(max(severity, low), high))  # whatever was rounded


@dataclass(frozen=True)
class Segment:
    """A stretch of a stream. Its order is known only when it is reached, and then forgotten."""

    length: int
    shifts: tuple[Shift, ...] | Growth
    order: Callable[[int], Int64[Tensor, " length"]]
    """In this round of the cycle: pair p is image p mod n, of n, under shift p div n."""


@dataclass(frozen=True, eq=False)
class Stream:
    """Batches of a data set's images in an order, corrupted on the fly.

    A value: it never changes, and to iterate again gives the same again. It holds one batch of
    pixels and one segment's order (8 bytes an image) at a time. Batch k is the next ``batch``
    images whatever their shift, so that nothing tells an adapter where a shift begins; only the
    stream's last batch may be smaller. ``len`` is the number of batches.

    Made by the functions of `acclimate.data.streams`.
    """

    images: Pixels
    """Not corrupted; may be a memory map, of which only a batch's images are read."""
    cycle: tuple[Segment, ...]
    rounds: int = 1
    """How often the cycle is gone through."""
    batch: int = 128
    """Images that arrive together."""
    seed: int = 0
    """Of the corruptions."""
    position: int = 0
    """Images that had arrived before."""

    def __post_init__(self):
        check_images(self.images)
        if not len(self.images):
            raise InputError("there are no images: a stream needs at least one.")
        for name in ("batch", "rounds"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise InputError(f"{name} is {value}: give a whole number of at least 1.")
        if not self.cycle:
            raise InputError("there are no shifts: a stream needs at least one.")
        if not 0 <= self.position <= self.length:
            raise InputError(
                f"position {self.position} is not in the stream: give 0..{self.length}."
            )

    @property
    def length(self) -> int:
        """Images of the whole stream, from position 0."""
        return self.rounds * sum(segment.length for segment in self.cycle)

    def __len__(self) -> int:
        return -(-(self.length - self.position) // self.batch)

    def start_at(self, position: int) -> "Stream":
        """The stream from a position on, counted in images from its very beginning.

        Images, numbers and shifts are those of the uninterrupted stream from there. Batches begin
        at the position, so they too are the same where an uninterrupted one began there.

        Raises:
            InputError: the stream is shorter.
        """
        return replace(self, position=position)

    def __iter__(self) -> Iterator[Batch]:
        numbers, shifts, position = [], [], self.position
        for segment, turn, place in self._ahead():
            order = segment.order(turn)
            while place < segment.length:
                pairs = order[place : place + self.batch - len(shifts)]
                numbers.append(pairs % len(self.images))
                shifts += self._shifts(segment, pairs, place)
                place += len(pairs)
                position += len(pairs)
                if len(shifts) == self.batch:
                    yield self._batch(torch.cat(numbers), tuple(shifts), position)
                    numbers, shifts = [], []
            del order  # before the next one is made
        if shifts:
            yield self._batch(torch.cat(numbers), tuple(shifts), position)

    def _ahead(self) -> Iterator[tuple[Segment, int, int]]:
        """Segments still to come, the round that each is in, and the place to begin at."""
        ends = list(accumulate(segment.length for segment in self.cycle))
        begun, offset = divmod(self.position, ends[-1])
        first = bisect_right(ends, offset)
        place = offset - (ends[first] - self.cycle[first].length)
        for turn in range(begun, self.rounds):
            for segment in self.cycle[first:]:
                yield segment, turn, place
                place = 0
            first = 0

    def _shifts(self, segment: Segment, pairs: Tensor, place: int) -> list[Shift]:
        if isinstance(segment.shifts, Growth):
            places = range(place, place + len(pairs))
            return [segment.shifts.at(each, segment.length) for each in places]
        return [segment.shifts[i] for i in (pairs // len(self.images)).tolist()]

    def _batch(self, numbers: Tensor, shifts: tuple[Shift, ...], position: int) -> Batch:
        images = shifted(self.images[numbers], numbers, shifts, seed=self.seed)
        return Batch(images, numbers, shifts, position)


def shifted(
    images: UInt8[Tensor, "b 3 height width"],
    numbers: Int64[Tensor, " b"],
    shifts: Sequence[Shift],
    *,
    seed: int = 0,
) -> UInt8[Tensor, "b 3 height width"]:
    """Put each image under a shift of its own.

    Args:
        images: uint8, 0..255.
        numbers: Which image of its data set each one is.
        shifts: One an image.
        seed: Of the corruptions.
    """
    alike: dict[tuple[str, int | None], list[int]] = {}  # rows that are corrupted in one go
    for row, shift in enumerate(shifts):
        whole = None if isinstance(shift.severity, float) else shift.severity
        alike.setdefault((shift.corruption, whole), []).append(row)
    parts = []
    for (corruption, severity), rows in alike.items():
        some = images if len(alike) == 1 else images[rows]
        if corruption in ("none", ""):  # clean, or of a domain
            parts.append(some)
        elif severity is None:
            amounts = torch.tensor([shifts[row].severity for row in rows], dtype=torch.float64)
            parts.append(corrupt_by_amount(some, corruption, amounts, numbers[rows], seed=seed))
        else:
            parts.append(corrupt_numbered(some, corruption, severity, numbers[rows], seed=seed))
    if len(parts) == 1:
        return parts[0]
    arrived = torch.empty_like(images, memory_format=torch.contiguous_format)
    for rows, part in zip(alike.values(), parts):
        arrived[rows] = part
    return arrived
