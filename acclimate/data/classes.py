"""Which output of a classifier stands for which class of a data set: the one place that says so."""

import unicodedata
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import NamedTuple

import torch
from jaxtyping import Int64
from torch import Tensor

from acclimate.data.published.imagenet import synsets
from acclimate.errors import InputError

_SHOWN = 8
"""Names of a list that a message shows."""
_IMAGENET = 1000
"""Classes of ImageNet; their names are read only for a classifier of so many."""


class Match(NamedTuple):
    """The outputs of a data set's classes."""

    outputs: Int64[Tensor, " classes"]
    """Index of the output that stands for each class."""
    note: str = ""
    """How they were matched, if not by name."""

    @property
    def moved(self) -> tuple[int, ...]:
        """The outputs, if they are not the classes' own positions; otherwise empty."""
        order = tuple(self.outputs.tolist())
        return () if order == tuple(range(len(order))) else order


def match_classes(
    outputs: Sequence[str], classes: Sequence[str], *, whose: str, data: str, some: bool = False
) -> Match:
    """The output of each class of a data set: by name where both have names.

    ```python
    match = match_classes(bundle.classes, data.classes, whose="the bundle", data="pets")
    labels = match.outputs[data.labels]
    ```

    Names that are numbers are positions: a folder named 10 means output 10, although it comes
    before 2 in the order of the folders. The WordNet ids of ImageNet (n01440764) stand for the
    outputs of a classifier of its 1000 classes, in their published order. Where only one side has
    names, the order decides, and `Match.note` says so.

    Args:
        outputs: Name of each output of the classifier.
        classes: Name of each class of the data set, in the order of its labels.
        whose: What the outputs belong to, for messages.
        data: Name of the data set, for messages.
        some: Whether the data may lack some of the classes.

    Raises:
        InputError: the two differ as sets, a name stands for several outputs, or a number for none.
    """
    theirs, ours = [_plain(name) for name in classes], [_plain(name) for name in outputs]
    numbered = ours == [str(number) for number in range(len(ours))]
    words = not any(name.isdecimal() for name in ours)
    if all(name.isdecimal() for name in theirs) and (numbered or words):
        note = "" if numbered else f"the classes of {data} are numbers: 0 is the first output"
        if len(theirs) < len(ours):
            note = f"{data} has {len(theirs)} of the {len(ours)} classes, by their numbers"
        return Match(torch.tensor(_by_number(theirs, len(ours), whose, data)), note)
    if len(ours) == _IMAGENET and set(theirs) <= set(synsets()):
        return _of_imagenet(ours, theirs, numbered, whose, data)
    if numbered:
        if len(theirs) != len(ours):
            raise InputError(
                f"{whose} answers with one of {len(ours)} classes without names, but {data} has "
                f"{len(theirs)}; measure it on images of its own classes, or name them."
            )
        note = f"{whose} has no class names: its outputs are taken in the order of {_list(theirs)}"
        return Match(torch.arange(len(theirs)), note)
    return Match(torch.tensor(_by_name(ours, theirs, whose, data, some)))


def _by_number(theirs: Sequence[str], count: int, whose: str, data: str) -> list[int]:
    found = [int(name) for name in theirs]
    if max(found) >= count or len(set(found)) < len(found):
        raise InputError(
            f"the classes of {data} are numbers, {_list(theirs)}, but {whose} has the outputs 0 to "
            f"{count - 1}; number each class by its output, or name both."
        )
    return found


def _by_name(
    ours: Sequence[str], theirs: Sequence[str], whose: str, data: str, some: bool
) -> list[int]:
    place = {name: number for number, name in enumerate(ours)}
    unknown = [name for name in theirs if name not in place]
    missing = [] if some else [name for name in ours if name not in set(theirs)]
    if unknown or missing:
        # What differs comes first, so that a long list shows it.
        first = f"{_list([*missing, *(n for n in ours if n not in missing)])}"
        second = f"{_list([*unknown, *(n for n in theirs if n not in unknown)])}"
        raise InputError(
            f"{whose} answers with {len(ours)} classes, {first}, but {data} has {len(theirs)}, "
            f"{second}; give the classes the same names, or images of these classes."
        )
    twice = [name for name in theirs if ours.count(name) > 1] if len(place) < len(ours) else []
    if twice:
        raise InputError(f"{whose} has several outputs named {twice[0]!r}; name each differently.")
    return [place[name] for name in theirs]


def _of_imagenet(
    ours: Sequence[str], theirs: Sequence[str], numbered: bool, whose: str, data: str
) -> Match:
    """The outputs of WordNet ids. Class names are compared with those that belong to the ids."""
    if set(ours) == set(synsets()):  # in whatever order
        return Match(torch.tensor([ours.index(name) for name in theirs]))
    place = {name: number for number, name in enumerate(synsets())}
    found = torch.tensor([place[name] for name in theirs])
    if numbered:
        return Match(found)
    known = _imagenet_names()
    anywhere = frozenset().union(*known)
    recognised = [_first(name) in anywhere for name in ours]
    fitting = [_first(name) in names for name, names in zip(ours, known)]
    if 2 * sum(fitting) < sum(recognised):
        raise InputError(
            f"{whose} names ImageNet's classes in another order than the published one, "
            f"{_list(ours)}, and {data} has their WordNet ids; name its outputs by these ids."
        )
    note = f"{whose} is taken to have ImageNet's classes in their published order"
    return Match(found, "" if 2 * sum(fitting) > len(ours) else note)


@cache
def _imagenet_names() -> tuple[frozenset[str], ...]:
    """The names of each of ImageNet's 1000 classes, in lower case."""
    file = resources.files("timm.data") / "_info" / "imagenet_synset_to_lemma.txt"
    lines = file.read_text(encoding="utf-8").splitlines()
    lemmas = dict(line.split("\t", 1) for line in lines if "\t" in line)
    return tuple(
        frozenset(name.strip().lower() for name in lemmas[each].split(",")) for each in synsets()
    )


def _first(name: str) -> str:
    return name.split(",")[0].strip().lower().replace("_", " ")


def _plain(name: str) -> str:
    """A name as it is compared: some systems store é as two characters."""
    return unicodedata.normalize("NFC", str(name)).strip()


def _list(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return f"({shown}, ... {len(names)} in all)" if len(names) > _SHOWN else f"({shown})"
