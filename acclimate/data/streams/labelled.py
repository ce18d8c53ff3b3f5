"""Streams whose order depends on the classes. Labels only build the order; streams hold none."""

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
    """Every image once; images of a class come close together (Gong et al., NOTE, 2022).

    ```python
    stream = class_correlated(data.images, data.labels, concentration=0.1, batch=64)
    ```

    The stream consists of S slots. For each class, shares of the slots are drawn from a symmetric
    Dirichlet distribution with parameter γ, and each image of the class draws its slot with these
    shares. So two images of a class are in the same slot with probability (1 + γ) / (1 + S γ), over
    seeds. For small γ this tends to 1: a class comes all at once. For large γ it tends to 1 / S:
    classes are spread evenly. Within a slot, the images of one class follow those of another,
    in random order (Yuan et al., RoTTA, 2023).

    Args:
        images: uint8, 0..255.
        labels: Class of each image.
        shift: Distribution shift of all images.
        concentration: γ; RoTTA uses 0.1.
        slots: S; by default the number of classes, at most 100, as in RoTTA.
        batch: Number of images per batch.
        seed: Seed of the order and the corruption.

    Raises:
        InputError: there is no image, ``batch`` or ``slots`` is below 1, the number of labels
            differs from the number of images, or the concentration is outside 1e-6..1e6.
    """
    classes = classes_of(images, labels)
    order = correlated_order(classes, shift, seed=seed, concentration=concentration, slots=slots)
    return _one_segment(images, order, shift, batch, seed)


def label_shifted(
    images: Pixels,
    labels: Labels,
    *,
    shift: Shift = CLEAN,
    imbalance: float = 10.0,
    batch: int = 128,
    seed: int = 0,
) -> Stream:
    """Class frequencies that fall exponentially, in random order; each image at most once.

    ```python
    stream = label_shifted(data.images, data.labels, imbalance=10.0, batch=64)
    ```

    The C classes are ranked at random. The number of images of the class with rank r is
    proportional to ``imbalance`` ** (−r / (C − 1)), rounded down, but at least one. The numbers are
    the largest that the data set allows. The profile is that of long-tailed CIFAR (Cui et al.,
    *Class-balanced loss*, 2019); DELTA (Zhao et al., 2023) uses it for test streams.

    Args:
        images: uint8, 0..255.
        labels: Class of each image.
        shift: Distribution shift of all images.
        imbalance: Ratio of the most frequent class to the rarest, at least 1.
        batch: Number of images per batch.
        seed: Seed of the ranks, the choice of images, the order and the corruption.

    Raises:
        InputError: there is no image, ``batch`` is below 1, the number of labels differs from the
            number of images, or the imbalance is below 1.
    """
    classes = classes_of(images, labels)
    if not 1 <= imbalance < math.inf:
        raise InputError(f"imbalance is {imbalance}: give a number of at least 1.")
    sizes = np.bincount(classes)
    name = "label-shifted"
    ranks = permutation(key(seed, "stream", name, "ranks"), len(sizes)).numpy()
    shares = imbalance ** (-ranks / max(len(sizes) - 1, 1))
    # 1e-9, because a size divided and multiplied by its share may be rounded below an integer.
    counts = np.maximum(np.floor((sizes / shares).min() * shares + 1e-9), 1).astype(np.int64)
    order = permutation(key(seed, "stream", name), len(classes)).numpy()
    # Keep the first images of each class in random order, as many as its count.
    grouped = order[np.argsort(classes[order], kind="stable")]
    rank_in_class = np.arange(len(order)) - np.repeat(sizes.cumsum() - sizes, sizes)
    kept = np.zeros(len(order), bool)
    kept[grouped] = rank_in_class < counts[classes[grouped]]
    chosen = order[kept[order]]
    # Every shift gets the same images, but in another order.
    reordering = permutation(_order_key(seed, name, shift), len(chosen)).numpy()
    return _one_segment(images, chosen[reordering], shift, batch, seed)


def correlated_order(
    classes: Int64[np.ndarray, " n"],
    shift: Shift,
    *,
    seed: int,
    concentration: float = 0.1,
    slots: int | None = None,
) -> Int64[np.ndarray, " n"]:
    """The order of `class_correlated`, as places in ``classes``.

    Args:
        classes: Class of each image, from 0; every class occurs.
        shift: Each shift has an order of its own.
        seed: Seed of the order.
        concentration: γ.
        slots: S.

    Raises:
        InputError: ``slots`` is below 1, or the concentration is outside 1e-6..1e6.
    """
    slots = min(int(classes.max()) + 1, _MOST_SLOTS) if slots is None else slots
    if slots < 1:
        raise InputError(f"slots is {slots}: give at least 1.")
    if not 1e-6 <= concentration <= 1e6:
        raise InputError(f"concentration is {concentration}: give a number in 1e-6..1e6.")
    rng = np.random.default_rng(_order_key(seed, "class-correlated", shift) & (2**63 - 1))
    slot = draw_slots(classes, concentration, slots, rng)
    class_rank = rng.random((slots, int(classes.max()) + 1))[slot, classes]  # in the image's slot
    return np.lexsort((rng.random(len(classes)), classes, class_rank, slot))


def draw_slots(
    classes: Int64[np.ndarray, " n"], concentration: float, slots: int, rng: np.random.Generator
) -> Int64[np.ndarray, " n"]:
    """The slot of each image, drawn with its class's shares from a symmetric Dirichlet."""
    shares = rng.dirichlet([concentration] * slots, int(classes.max()) + 1)  # [classes, slots]
    uniform = rng.random(len(classes))
    slot = np.zeros(len(classes), np.int64)
    for label, share in enumerate(shares):
        members = classes == label
        # The last cumulative share may be 1 − ε. It is left out, so that no image lies beyond it.
        slot[members] = np.searchsorted(share.cumsum()[:-1], uniform[members], side="right")
    return slot


def _order_key(seed: int, name: str, shift: Shift) -> int:
    """The key of an order. It depends on the shift, so that joined streams differ in order."""
    return key(seed, "stream", name, shift.name, str(shift.severity))


def classes_of(images: Pixels, labels: Labels) -> Int64[np.ndarray, " n"]:
    """Labels renumbered from 0, without classes that do not occur."""
    if not isinstance(labels, Tensor) or labels.is_floating_point():
        given = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise InputError(f"labels are {given}: give a torch tensor of integers.")
    if labels.shape != images.shape[:1]:
        raise InputError(
            f"{len(images)} images and labels of shape {list(labels.shape)}: "
            "give one label per image."
        )
    if not len(labels):
        raise InputError("there are no images: a stream needs at least one.")
    return np.unique(labels.cpu().numpy(), return_inverse=True)[1]


def _one_segment(
    images: Pixels, order: Int64[np.ndarray, " m"], shift: Shift, batch: int, seed: int
) -> Stream:
    segment = Segment(len(order), (shift,), partial(_fixed_order, torch.from_numpy(order)))
    return Stream(images, (segment,), batch=batch, seed=seed)


def _fixed_order(order: Tensor, round_index: int) -> Int64[Tensor, " m"]:
    return order
