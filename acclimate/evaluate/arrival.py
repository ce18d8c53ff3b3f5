"""The streams that an order makes of a list of shifts."""

from collections.abc import Sequence

from acclimate.data import CORRUPTIONS, LabelledImages, Shift, Stream, streams
from acclimate.data.corruptions import AMOUNTS
from acclimate.errors import InputError, unknown_name

AS_IT_GOES = ("gradual", "growing-noise", "class-correlated-gradual")
"""Orders whose streams pass through severities, so that no one severity describes them."""
_BY_NAME = ("gradual", "class-correlated-gradual")
"""Orders that take the names of corruptions, and go through the severities by themselves."""
TOGETHER = (
    *_BY_NAME,
    "continual",
    "recurring",
    "mixed",
    "class-correlated-continual",
    "class-correlated-mixed",
)
"""Orders whose streams have several shifts; adapters go through them without a new beginning."""
_LABELLED = ("class-correlated", "label-shifted")
_LABELLED_TOGETHER = tuple(order for order in TOGETHER if order.startswith("class-correlated"))


def groups(order: str, shifts: Sequence[Shift]) -> list[tuple[Shift, ...]]:
    """The shifts of each stream: one shift, or for some orders all corruptions of a severity.

    Args:
        order: A name of `acclimate.data.streams.ORDERS`.
        shifts: Corruptions at severities, clean images, or a domain.

    Raises:
        InputError: an unknown order, or one that none of the shifts can come in.
    """
    if order not in streams.ORDERS:
        raise unknown_name("order", order, streams.ORDERS)
    if order not in TOGETHER and order != "growing-noise":
        return [(shift,) for shift in shifts]
    usable = AMOUNTS if order == "growing-noise" else CORRUPTIONS
    corrupted = [shift for shift in shifts if shift.corruption in usable]
    if not corrupted:
        raise InputError(f"the order {order!r} needs a corruption, such as {next(iter(usable))}.")
    if order in AS_IT_GOES:  # which go through all severities by themselves
        corrupted = [Shift(name, 5) for name in dict.fromkeys(s.corruption for s in corrupted)]
    if order == "growing-noise":
        return [(shift,) for shift in corrupted]
    severities = dict.fromkeys(shift.severity for shift in corrupted)
    return [tuple(s for s in corrupted if s.severity == severity) for severity in severities]


def arrange(
    order: str, data: LabelledImages, shifts: Sequence[Shift], *, batch: int, seed: int
) -> Stream:
    """The stream of one group of `groups`.

    Args:
        order: A name of `acclimate.data.streams.ORDERS`.
        data: The images; labels only build orders that depend on classes.
        shifts: The shifts of the stream. Images of a domain have that domain as their only shift:
            no result of theirs can pass for one of clean images.
        batch: Images that arrive together.
        seed: Seed of order and corruptions.

    Raises:
        InputError: an unknown order, shifts that it cannot have, or images of another domain.
    """
    for shift in shifts:
        if shift.domain != data.domain:
            theirs = f"of the domain {data.domain!r}" if data.domain else "of no domain"
            raise InputError(
                f"images {theirs} cannot come under {shift.name!r}; give the images of that "
                "domain, or a corruption for images of no domain."
            )
    if len(shifts) != 1 and order not in TOGETHER:
        raise InputError(f"a stream of order {order!r} has one shift, not {len(shifts)}.")
    make = streams.ORDERS.get(order)
    if make is None:
        raise unknown_name("order", order, streams.ORDERS)
    named = {"batch": batch, "seed": seed}
    if order in _LABELLED:
        return make(data.images, data.labels, shift=shifts[0], **named)
    if order == "growing-noise":
        return make(data.images, shifts[0].corruption, last=float(shifts[0].severity), **named)
    what = [shift.corruption for shift in shifts] if order in _BY_NAME else shifts
    if order in _LABELLED_TOGETHER:
        return make(data.images, data.labels, what, **named)
    return make(data.images, what[0] if order == "shuffled" else what, **named)
