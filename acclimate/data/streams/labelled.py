"""Orders that depend on the classes. Labels build the order here; the stream does not keep them."""

import math
from functools import partial

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from acclimate.data.streams.stream import CLEAN, Pixels, Segment, Shift, Stream
from acclimate.errors import InputError
from acclimate.randomness import key, permutation

Labels = Int64[Tensor, "n"]

_MOST_SLOTS = 100


def class_correlated(
    images: Pixels,
    labels: Labels,
    *,
    shift: Shift = CLEAN,
    concentration: float = 0.1,
    slots: int | None = None,
    batch: int = 128,
    seed: int = 0,
) -> Stream:
    """Every image once; those of a class come close together (Gong et al., NOTE, 2022).

    The stream is a row of S slots. Each class spreads over them with shares drawn from a symmetric
    Dirichlet distribution with parameter γ, and each of its images picks its slot by these shares.
    Two images of one class are therefore in one slot with probability (1 + γ) / (1 + S γ) over
    seeds: 1 for small γ, where a class comes all at once, 1 / S for large γ, which is a shuffled
    stream in slots. Within a slot class follows class, in random order (Yuan et al., RoTTA, 2023).

    Args:
        images: uint8, 0..255.
        labels: The class of each image.
        shift: Of all images.
        concentration: γ; RoTTA takes 0.1.
        slots: S; by default as many as there are classes, up to 100, as in RoTTA.
        batch: Images that arrive together.
        seed: Of order and corruption.

    Raises:
        InputError: there is no image, ``batch`` or ``slots`` is below 1, not one label an image, or
            a concentration outside 1e-6..1e6.
    """
    classes = _classes(images, labels)
    slots = min(int(classes.max()) + 1, _MOST_SLOTS) if slots is None else slots
    if slots < 1:
        raise InputError(f"slots is {slots}: give at least 1.")
    if not 1e-6 <= concentration <= 1e6:
        raise InputError(f"concentration is {concentration}: give a number in 1e-6..1e6.")
    rng = np.random.default_rng(_order_key(seed, "class-correlated", shift) & (2**63 - 1))
    slot = spread(classes, concentration, slots, rng)
    turn = rng.random((slots, int(classes.max()) + 1))[slot, classes]  # of its class in the slot
    order = np.lexsort((rng.random(len(classes)), classes, turn, slot))
    return _fixed(images, order, shift, batch, seed)


def label_shifted(
    images: Pixels,
    labels: Labels,
    *,
    shift: Shift = CLEAN,
    imbalance: float = 10.0,
    batch: int = 128,
    seed: int = 0,
) -> Stream:
    """Some classes are rarer than others: an exponential profile, in random order.

    The classes are ranked at random. Of the class of rank r among C come a number of images in
    proportion to ``imbalance`` ** (−r / (C − 1)), rounded down, but at least one: the largest such
    numbers for which there are images. No image comes twice. The profile is that of long-tailed
    CIFAR (Cui et al., *Class-balanced loss*, 2019); as a test stream: Zhao et al., DELTA, 2023.

    Args:
        images: uint8, 0..255.
        labels: The class of each image.
        shift: Of all images.
        imbalance: How many times as frequent as the rarest the most frequent class is, at least 1.
        batch: Images that arrive together.
        seed: Of ranks, choice, order and corruption.

    Raises:
        InputError: there is no image, ``batch`` is below 1, not one label an image, or an imbalance
            below 1.
    """
    classes = _classes(images, labels)
    if not 1 <= imbalance < math.inf:
        raise InputError(f"imbalance is {imbalance}: give a number of at least 1.")
    sizes = np.bincount(classes)
    name = "label-shifted"
    ranks = permutation(key(seed, "stream", name, "ranks"), len(sizes)).numpy()
    shares = imbalance ** (-ranks / max(len(sizes) - 1, 1))
    # A size divided by its share and multiplied by it again may lose its last digit.
    counts = np.maximum(np.floor((sizes / shares).min() * shares + 1e-9), 1).astype(np.int64)
    order = permutation(key(seed, "stream", name), len(classes)).numpy()
    # The first so many images of each class, in the random order.
    grouped = order[np.argsort(classes[order], kind="stable")]
    among = np.arange(len(order)) - np.repeat(sizes.cumsum() - sizes, sizes)
    kept = np.zeros(len(order), bool)
    kept[grouped] = among < counts[classes[grouped]]
    chosen = order[kept[order]]
    # The same images under every shift, but each time in another order.
    again = permutation(_order_key(seed, name, shift), len(chosen)).numpy()
    return _fixed(images, chosen[again], shift, batch, seed)


def spread(
    classes: Int64[np.ndarray, " n"], concentration: float, slots: int, rng: np.random.Generator
) -> Int64[np.ndarray, " n"]:
    """The slot of each image, by shares of its class from a symmetric Dirichlet distribution."""
    shares = rng.dirichlet([concentration] * slots, int(classes.max()) + 1)  # [classes, slots]
    chance = rng.random(len(classes))
    slot = np.zeros(len(classes), np.int64)
    for number, share in enumerate(shares):
        members = classes == number
        # The last end may be 1 − ε: leave it out, so that no image falls behind it.
        slot[members] = np.searchsorted(share.cumsum()[:-1], chance[members], side="right")
    return slot


def _order_key(seed: int, name: str, shift: Shift) -> int:
    """Of the shift too, so that streams under several shifts, joined, differ in order."""
    return key(seed, "stream", name, shift.name, str(shift.severity))


def _classes(images: Pixels, labels: Labels) -> Int64[np.ndarray, " n"]:
    """The classes that occur, numbered from 0."""
    if not isinstance(labels, Tensor) or labels.is_floating_point():
        given = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise InputError(f"labels are {given}: give a torch tensor of whole numbers.")
    if labels.shape != images.shape[:1]:
        raise InputError(
            f"{len(images)} images and labels of shape {list(labels.shape)}: "
            "give one label an image."
        )
    if not len(labels):
        raise InputError("there are no images: a stream needs at least one.")
    return np.unique(labels.cpu().numpy(), return_inverse=True)[1]


def _fixed(
    images: Pixels, order: Int64[np.ndarray, " m"], shift: Shift, batch: int, seed: int
) -> Stream:
    segment = Segment(len(order), (shift,), partial(_as_given, torch.from_numpy(order)))
    return Stream(images, (segment,), batch=batch, seed=seed)


def _as_given(order: Tensor, turn: int) -> Int64[Tensor, " m"]:
    return order
