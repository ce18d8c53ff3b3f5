"""Streams that harm adapters: orders, sizes of batches, foreign images, faults of the caller."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from acclimate.data import LabelledImages, Shift, corrupt
from acclimate.data.streams.labelled import correlated_order
from acclimate.source.held_out import SHIFTS

Batches = list[tuple[Tensor, Tensor, Tensor]]
"""Images, labels and numbers of each batch: the same image has the same number. A label of -1 is
that of an image of no class."""
Make = Callable[[LabelledImages, LabelledImages, float], Batches]

_NONE = ("none", 0)


def shifted(images: Tensor, shift: tuple[str, int], seed: int) -> Tensor:
    """Images under a corruption; as they are under none."""
    name, severity = shift
    return images if name == "none" else corrupt(images, name, severity, seed=seed)


def split(images: Tensor, labels: Tensor, numbers: Tensor, batch: int) -> Batches:
    """Cut a stream into batches; the last one may be smaller."""
    return [*zip(images.split(batch), labels.split(batch), numbers.split(batch))]


def order_of(data: LabelledImages, order: str, count: int, seed: int) -> Tensor:
    """Indices of images in an order of arrival."""
    rng = np.random.default_rng(seed)
    labels = data.labels.numpy()
    n = len(labels)
    few = rng.permutation(n)[:count]
    if order == "shuffled":
        return torch.from_numpy(few)
    if order == "sorted":
        classes = rng.permutation(len(data.classes))
        return torch.from_numpy(few[np.argsort(classes[labels[few]], kind="stable")])
    if order.startswith("dirichlet"):
        concentration = float(order.split("-")[1])
        within = correlated_order(
            labels[few], Shift("fog", 5), seed=seed, concentration=concentration
        )
        return torch.from_numpy(few[within])
    if order.startswith("one"):
        wanted = int(order.split("-")[1])
        own = rng.permutation(np.flatnonzero(labels == wanted))
        return torch.from_numpy(np.resize(own, count))
    assert order == "tail"  # class frequencies that fall by a factor of 20
    shares = 20.0 ** (-rng.permutation(len(data.classes)) / (len(data.classes) - 1))
    chance = shares[labels]
    return torch.from_numpy(rng.choice(n, count, replace=False, p=chance / chance.sum()))


def plain(
    data: LabelledImages,
    other: LabelledImages,
    share: float,
    *,
    order: str = "shuffled",
    shifts: tuple[tuple[str, int], ...] = (_NONE,),
    each: int | None = None,
    batch: int = 128,
    count: int = 1280,
    seed: int = 0,
) -> Batches:
    """Images in an order; each so many come under the next shift, or all under one."""
    count = max(int(count * share), min(count, 4 * batch))
    rows = order_of(data, order, min(count, len(data.labels)), seed).repeat(
        -(-count // len(data.labels))
    )[:count]
    images, labels = data.images[rows], data.labels[rows]
    if each is None:
        each = -(-count // len(shifts))
    each = max(1, int(each * share)) if each > batch else each
    place = torch.arange(count) // each % len(shifts)
    out = images.clone()
    for number, shift in enumerate(shifts):
        chosen = place == number
        out[chosen] = shifted(images[chosen], shift, seed)
    return split(out, labels, rows, batch)


def mixed(
    data, other, share, *, shifts, batch=128, count=1280, seed=0, order="shuffled"
) -> Batches:
    """Each image under a shift of its own."""
    count = int(count * share)
    rows = order_of(data, order, count, seed)
    which = torch.from_numpy(np.random.default_rng(seed + 1).integers(0, len(shifts), count))
    images, out = data.images[rows], data.images[rows].clone()
    for number, shift in enumerate(shifts):
        out[which == number] = shifted(images[which == number], shift, seed)
    return split(out, data.labels[rows], rows, batch)


def frames(data, other, share, *, repeats, shift=_NONE, batch=128, count=1280, seed=0) -> Batches:
    """A frame comes so many times before the next one."""
    count = max(int(count * share), 4 * batch)
    rows = order_of(data, "shuffled", -(-count // repeats), seed)
    images = shifted(data.images[rows], shift, seed)
    return split(
        images.repeat_interleave(repeats, 0)[:count],
        data.labels[rows].repeat_interleave(repeats)[:count],
        rows.repeat_interleave(repeats)[:count],
        batch,
    )


def foreign(
    data, other, share, *, kind, within=False, shift=_NONE, batch=128, count=1536, seed=0
) -> Batches:
    """A third of the stream is noise or of another data set: in the middle, or in every batch."""
    count = int(count * share) // 3 * 3
    rows = order_of(data, "shuffled", count, seed)
    images, labels = shifted(data.images[rows], shift, seed).clone(), data.labels[rows].clone()
    generator = torch.Generator().manual_seed(seed)
    third = count // 3
    places = torch.randperm(count, generator=generator)[:third]
    if not within:
        places = torch.arange(third, 2 * third)
    if kind == "noise":
        strange = torch.randint(0, 256, images[places].shape, generator=generator).byte()
    else:
        grey = other.images[torch.arange(third) % len(other.images)]
        grey = torch.nn.functional.pad(grey, (2, 2, 2, 2))
        strange = grey.expand(-1, 3, -1, -1)
    images[places], labels[places] = strange, -1
    return split(images, labels, rows, batch)


def occluded(
    data, other, share, *, fill=0, blank=True, batch=128, count=1280, seed=0, shift=_NONE
) -> Batches:
    """Black and white images, and images whose left or lower half is black, or grey."""
    count = int(count * share)
    rows = order_of(data, "shuffled", count, seed)
    images, labels = shifted(data.images[rows], shift, seed).clone(), data.labels[rows].clone()
    kind = torch.from_numpy(np.random.default_rng(seed + 2).integers(0, 8, count))
    if blank:
        images[kind == 0], images[kind == 1] = 0, 255
        labels[kind <= 1] = -1
    for k in (2, 3, 4):
        images[kind == k, :, :, :16] = fill
    for k in (5, 6):
        images[kind == k, :, 16:] = fill
    return split(images, labels, rows, batch)


def wrong(data, other, share, *, fault, batch=128, count=1280, seed=0, shift=_NONE) -> Batches:
    """A caller who normalises images that should not be, swaps channels, or darkens."""
    batches = plain(data, other, share, batch=batch, count=count, seed=seed, shifts=(shift,))
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    out = []
    for images, labels, numbers in batches:
        unit = images.float() / 255
        if fault == "twice":
            unit = ((unit - mean) / std).clamp(0, 1)
        elif fault == "channels":
            unit = unit.flip(1)
        else:
            unit = unit / 4
        out.append((unit, labels, numbers))
    return out


_FOUR = tuple((name, 4) for name in SHIFTS)


def _plain(**named) -> Make:
    return partial(plain, **named)


CHOOSING: dict[str, Make] = {
    "clean": _plain(),
    "speckle5": _plain(shifts=(("speckle_noise", 5),), seed=1),
    "blur5": _plain(shifts=(("gaussian_blur", 5),), seed=2),
    "spatter4": _plain(shifts=(("spatter", 4),), seed=3),
    "saturate5": _plain(shifts=(("saturate", 5),), seed=4),
    "speckle2": _plain(shifts=(("speckle_noise", 2),), seed=5),
    "sorted clean": _plain(order="sorted", seed=6),
    "sorted speckle5": _plain(order="sorted", shifts=(("speckle_noise", 5),), seed=7),
    "dirichlet-0.01 blur4": _plain(order="dirichlet-0.01", shifts=(("gaussian_blur", 4),), seed=8),
    "dirichlet-0.1 clean": _plain(order="dirichlet-0.1", seed=9),
    "dirichlet-0.1 speckle3": _plain(
        order="dirichlet-0.1", shifts=(("speckle_noise", 3),), seed=10
    ),
    "one class clean": _plain(order="one-3", count=768, seed=11),
    "one class speckle4": _plain(order="one-8", shifts=(("speckle_noise", 4),), count=768, seed=12),
    "one class blur3": _plain(order="one-0", shifts=(("gaussian_blur", 3),), count=384, seed=60),
    "one class saturate4": _plain(order="one-1", shifts=(("saturate", 4),), count=384, seed=61),
    "one class speckle3": _plain(order="one-6", shifts=(("speckle_noise", 3),), count=384, seed=62),
    "one class spatter5": _plain(order="one-2", shifts=(("spatter", 5),), count=384, seed=63),
    "one class speckle5": _plain(order="one-9", shifts=(("speckle_noise", 5),), count=384, seed=64),
    "dirichlet-0.01 speckle4": _plain(
        order="dirichlet-0.01", shifts=(("speckle_noise", 4),), count=896, seed=65
    ),
    "dirichlet-0.01 saturate5": _plain(
        order="dirichlet-0.01", shifts=(("saturate", 5),), count=896, seed=66
    ),
    "sorted blur3": _plain(order="sorted", shifts=(("gaussian_blur", 3),), count=896, seed=67),
    "tail spatter3": _plain(order="tail", shifts=(("spatter", 3),), seed=13),
    "batch 16 speckle5": _plain(batch=16, shifts=(("speckle_noise", 5),), count=640, seed=14),
    "batch 4 clean": _plain(batch=4, count=400, seed=15),
    "batch 4 blur5": _plain(batch=4, shifts=(("gaussian_blur", 5),), count=400, seed=16),
    "batch 1 saturate5": _plain(batch=1, shifts=(("saturate", 5),), count=200, seed=17),
    "batch 1 clean": _plain(batch=1, count=200, seed=18),
    "constant": partial(frames, repeats=4096, count=640, seed=22),
    "frames speckle3": partial(frames, repeats=50, shift=("speckle_noise", 3), seed=20),
    "noise": partial(foreign, kind="noise", seed=21),
    "fashion speckle4": partial(foreign, kind="fashion", shift=("speckle_noise", 4), seed=22),
    "switch batch": _plain(shifts=_FOUR, each=128, seed=23),
    "switch 1000": _plain(
        shifts=(("speckle_noise", 5), _NONE, ("gaussian_blur", 5)), each=1000, count=3000, seed=24
    ),
    "ends": _plain(shifts=(("saturate", 5), _NONE), each=1024, count=2048, seed=25),
    "mixed": partial(mixed, shifts=(_NONE, *_FOUR), seed=26),
    "occluded": partial(occluded, seed=27),
    "half occluded": partial(occluded, blank=False, seed=27),
    "normalised twice": partial(wrong, fault="twice", seed=28),
    "long": _plain(shifts=(("speckle_noise", 4),), count=5000, seed=29),
}
CHECKING: dict[str, Make] = {
    "spatter5": _plain(shifts=(("spatter", 5),), seed=40),
    "saturate3": _plain(shifts=(("saturate", 3),), seed=41),
    "sorted blur5": _plain(order="sorted", shifts=(("gaussian_blur", 5),), seed=42),
    "dirichlet-0.01 clean": _plain(order="dirichlet-0.01", seed=43),
    "dirichlet-0.1 spatter5": _plain(order="dirichlet-0.1", shifts=(("spatter", 5),), seed=44),
    "one class blur4": _plain(order="one-5", shifts=(("gaussian_blur", 4),), count=768, seed=45),
    "tail clean": _plain(order="tail", seed=46),
    "batch 16 clean": _plain(batch=16, count=640, seed=47),
    "batch 4 speckle5": _plain(batch=4, shifts=(("speckle_noise", 5),), count=400, seed=48),
    "batch 1 blur4": _plain(batch=1, shifts=(("gaussian_blur", 4),), count=200, seed=49),
    "frames clean": partial(frames, repeats=50, seed=50),
    "noise within blur4": partial(
        foreign, kind="noise", within=True, shift=("gaussian_blur", 4), seed=51
    ),
    "fashion within clean": partial(foreign, kind="fashion", within=True, seed=52),
    "switch batch with clean": _plain(
        shifts=(_NONE, ("speckle_noise", 5), _NONE, ("gaussian_blur", 5)), each=128, seed=53
    ),
    "ends blur": _plain(shifts=(("gaussian_blur", 5), _NONE), each=1024, count=2048, seed=54),
    "swapped channels": partial(wrong, fault="channels", seed=55),
    "occluded grey": partial(occluded, fill=127, shift=("speckle_noise", 2), seed=57),
    "mixed tail": partial(mixed, shifts=(_NONE, *_FOUR), order="tail", seed=58),
    "dark blur": partial(wrong, fault="dark", shift=("gaussian_blur", 3), seed=56),
}


def source_streams(
    held: LabelledImages, answers: Tensor, share: float
) -> dict[str, Callable[[], Batches]]:
    """Source images, clean and under the four shifts: shuffled, and sorted by class.

    The classes are the frozen classifier's answers for the clean images. Sorted images come in
    batches that are smaller than a class.
    """
    count = int(512 * share)
    rows = order_of(held, "shuffled", count, 0)
    by_answer = rows[answers[rows].argsort(stable=True)]

    def make(name: str, severity: int, rows: Tensor, batch: int = 128) -> Batches:
        images = shifted(held.images[rows], (name, severity), 0)
        return split(images, held.labels[rows], rows, batch)

    every = [_NONE, *((name, s) for name in SHIFTS for s in (1, 2, 3, 4, 5))]
    few = [_NONE, *((name, s) for name in SHIFTS for s in (2, 5))]
    return {
        **{f"{n}-{s}": partial(make, n, s, rows) for n, s in every},
        **{f"sorted {n}-{s}": partial(make, n, s, by_answer, 48) for n, s in few},
    }
