"""The streams of the harm suite, by name: those that are reported, and those measured once, last.

Corruptions are the 15 that tables report, at severity 5 if nothing else is said. Rules of the guard
were chosen with other images, corruptions and seeds; see `guard_orders`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from guard_orders import CHOOSING, Batches, foreign, frames, mixed, occluded, plain, wrong
from torch import Tensor

from acclimate.data import LabelledImages
from acclimate.data.corruptions import PUBLISHED

WITHIN = 500
"""A change should be found within so many images. Where a stream changes more often, it is not
judged by its changes."""
_CLEAN = ("none", 0)


def noise_first(
    data: LabelledImages, other: LabelledImages, share: float, *, count: int, seed: int
) -> Batches:
    """Images of noise alone, then clean ones, which show what the noise has done to the model."""
    half = plain(data, other, share, count=count // 2, seed=seed)
    generator = torch.Generator().manual_seed(seed)

    def noise(like: Tensor) -> Tensor:
        return torch.randint(0, 256, like.shape, generator=generator, dtype=torch.uint8)

    strange = [(noise(x), torch.full_like(y, -1), numbers) for x, y, numbers in half]
    return strange + half


@dataclass(frozen=True)
class Harm:
    """A stream that may harm an adapter."""

    make: Callable[..., Batches]
    """Makes the batches from test images, other images and a share."""
    count: int = 2560
    """Images; 0 leaves the number to ``make``, with the share."""
    last: bool = False
    """Whether it is measured once, at the end."""
    every: int = 0
    """Images after which the shift changes, each time; 0 if it does not."""
    parts: int = 1
    """The same as a number of equal parts of the stream."""
    least: int = 0
    """Images that come whatever the share."""
    unsteady: bool = False
    """Whether something else changes along it: classes, frames, severity, or which images are
    foreign. Then a change that is found is neither right nor a false alarm."""

    def images(self, share: float) -> int:
        """The number of images; at least four batches and three shifts. Builders round it."""
        batch = getattr(self.make, "keywords", {}).get("batch", 128)
        least = max(self.least, 4 * batch, 3 * self.every)
        return max(int(self.count * share), min(self.count, least))

    def batches(self, data: LabelledImages, other: LabelledImages, share: float) -> Batches:
        """The stream.

        Args:
            data: Test images.
            other: Images of another data set.
            share: Share of the images.
        """
        if not self.count:
            return self.make(data, other, share)
        return self.make(data, other, 1.0, count=self.images(share))

    def switches(self, count: int) -> list[int]:
        """The places at which the shift changes, in images.

        Args:
            count: Images of the stream.
        """
        return [*range(self.length(count), count, self.length(count))]

    def length(self, count: int) -> int:
        """Images under one shift.

        Args:
            count: Images of the stream.
        """
        return self.every or -(-count // self.parts)

    def judged_by(self, count: int) -> str:
        """What the changes that are found in it are compared with.

        ``steady``: there are none. ``switches``: those of the shift. ``nothing``: too many, or
        others.

        Args:
            count: Images of the stream.
        """
        if self.unsteady or self.length(count) < min(WITHIN, count):
            return "nothing"
        return "switches" if self.length(count) < count else "steady"


def _shift(name: str, severity: int = 5) -> tuple[tuple[str, int]]:
    return ((name, severity),)


_LAST_CORRUPTIONS = ("impulse_noise", "glass_blur", "snow", "contrast", "pixelate")
_ALL = tuple((name, 5) for name in PUBLISHED)
_FOUR = (("gaussian_noise", 5), ("motion_blur", 5), ("fog", 5), ("jpeg_compression", 5))


def _corruptions() -> Iterator[tuple[str, Harm]]:
    for number, name in enumerate(PUBLISHED):
        make = partial(plain, shifts=_shift(name), seed=100 + number)
        yield name.replace("_", " "), Harm(make, last=name in _LAST_CORRUPTIONS)


def _orders() -> Iterator[tuple[str, Harm]]:
    """Orders of the classes."""
    made = {
        "sorted, clean": ("sorted", "none", False),
        "sorted, gaussian noise": ("sorted", "gaussian_noise", False),
        "sorted, frost": ("sorted", "frost", True),
        "dirichlet 0.01, clean": ("dirichlet-0.01", "none", True),
        "dirichlet 0.01, defocus blur": ("dirichlet-0.01", "defocus_blur", False),
        "dirichlet 0.1, clean": ("dirichlet-0.1", "none", False),
        "dirichlet 0.1, snow": ("dirichlet-0.1", "snow", False),
        "dirichlet 0.1, shot noise": ("dirichlet-0.1", "shot_noise", True),
    }
    for number, (name, (order, shift, last)) in enumerate(made.items()):
        shifts = _shift(shift, 0 if shift == "none" else 5)
        make = partial(plain, order=order, shifts=shifts, seed=120 + number)
        yield name, Harm(make, last=last, unsteady=True)
    classes = {
        "one class, clean": ("one-5", "none", False),
        "one class, fog": ("one-2", "fog", False),
        "one class, gaussian noise": ("one-7", "gaussian_noise", True),
        "label shift, clean": ("tail", "none", False),
        "label shift, elastic transform": ("tail", "elastic_transform", True),
    }
    for number, (name, (order, shift, last)) in enumerate(classes.items()):
        shifts = _shift(shift, 0 if shift == "none" else 5)
        make = partial(plain, order=order, shifts=shifts, seed=130 + number)
        yield name, Harm(make, 1280, last=last)


def _sizes() -> Iterator[tuple[str, Harm]]:
    """Small batches."""
    made = {
        "batches of 16, clean": (16, "none", 1280, False),
        "batches of 16, glass blur": (16, "glass_blur", 1280, False),
        "batches of 4, clean": (4, "none", 960, True),
        "batches of 4, frost": (4, "frost", 960, False),
        "batches of 1, clean": (1, "none", 600, False),
        "batches of 1, impulse noise": (1, "impulse_noise", 600, False),
        "batches of 1, contrast": (1, "contrast", 600, True),
    }
    for number, (name, (batch, shift, count, last)) in enumerate(made.items()):
        shifts = _shift(shift, 0 if shift == "none" else 5)
        make = partial(plain, batch=batch, shifts=shifts, seed=140 + number)
        yield name, Harm(make, count, last=last)


REPORTED: dict[str, Harm] = {
    **dict(_corruptions()),
    "clean": Harm(partial(plain, seed=115)),
    **dict(_orders()),
    **dict(_sizes()),
    "constant frame": Harm(partial(frames, repeats=10**6, seed=150), 768),
    "constant frame, zoom blur": Harm(
        partial(frames, repeats=10**6, shift=("zoom_blur", 5), seed=151), 768, last=True
    ),
    "frames 50 times": Harm(partial(frames, repeats=50, seed=152), unsteady=True),
    "frames 50 times, motion blur": Harm(
        partial(frames, repeats=50, shift=("motion_blur", 5), seed=153), last=True, unsteady=True
    ),
    "only noise, then clean": Harm(partial(noise_first, seed=154), parts=2, least=1536),
    "noise for a third": Harm(partial(foreign, kind="noise", seed=155), parts=3, least=1536),
    "Fashion-MNIST for a third": Harm(
        partial(foreign, kind="fashion", seed=156), parts=3, least=1536
    ),
    "Fashion-MNIST within batches, brightness": Harm(
        partial(foreign, kind="fashion", within=True, shift=("brightness", 5), seed=157), last=True
    ),
    "another shift in each batch": Harm(partial(plain, shifts=_ALL, each=128, seed=158), every=128),
    "clean and shifted batches in turn": Harm(
        partial(plain, shifts=(_CLEAN, _ALL[2], _CLEAN, _ALL[9]), each=128, seed=159),
        every=128,
        last=True,
    ),
    "another shift after 1,000 images": Harm(
        partial(plain, shifts=_FOUR, each=1000, seed=160), 6000, every=1000
    ),
    "another shift after 1,000 images, and clean": Harm(
        partial(plain, shifts=(_CLEAN, ("contrast", 5), ("snow", 5)), each=1000, seed=161),
        6000,
        every=1000,
        last=True,
    ),
    "gaussian noise that ends": Harm(
        partial(plain, shifts=(_ALL[0], _CLEAN), seed=162), parts=2, least=1536
    ),
    "fog that ends": Harm(
        partial(plain, shifts=(("fog", 5), _CLEAN), seed=163), parts=2, least=1536, last=True
    ),
    "fog that grows": Harm(
        partial(plain, shifts=tuple(("fog", s) for s in range(1, 6)), seed=164), unsteady=True
    ),
    "mixed": Harm(partial(mixed, shifts=(_CLEAN, *_ALL), seed=165)),
    "20 visits of 3 shifts": Harm(
        partial(plain, shifts=(_ALL[1], _CLEAN, _ALL[8]), each=64, batch=64, seed=166),
        3840,
        every=64,
        least=3840,
    ),
    "black, white and half-occluded": Harm(partial(occluded, seed=167)),
    "black, white and half-occluded, defocus blur": Harm(
        partial(occluded, shift=("defocus_blur", 5), seed=168), last=True
    ),
    "half-occluded, jpeg compression": Harm(
        partial(occluded, blank=False, shift=("jpeg_compression", 5), seed=169)
    ),
    "normalised twice": Harm(partial(wrong, fault="twice", seed=170)),
    "channels swapped, gaussian noise": Harm(
        partial(wrong, fault="channels", shift=("gaussian_noise", 5), seed=171), last=True
    ),
    "four times too dark, fog": Harm(partial(wrong, fault="dark", shift=("fog", 5), seed=172)),
    "100,000 images": Harm(
        partial(plain, shifts=(*_ALL, _CLEAN), each=2500, seed=173), 100_000, every=2500
    ),
}
"""All streams but those of `CHOSEN_ON`."""
CHOSEN_ON: dict[str, Harm] = {name: Harm(make, 0, unsteady=True) for name, make in CHOOSING.items()}
"""Streams that the guard's rules were chosen with. They are not for reports."""
