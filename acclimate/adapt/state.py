"""The state of an adapter: every tensor that learning changes, by name."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from acclimate.errors import InputError

Named = Mapping[str, Tensor]


class State:
    """Tensors that change in place, and the values that they had in the beginning.

    Args:
        learned: What a reset takes back: parameters, statistics, moments.
        kept: What only the stream's end takes back: remembered images, counters.

    Attributes:
        tensors: All of them, by name.
    """

    def __init__(self, learned: Named, kept: Named):
        self.tensors: dict[str, Tensor] = {**learned, **kept}
        self._learned = Backup(learned.values())
        self._kept = Backup(kept.values())

    def forget(self, when: Tensor | None = None) -> None:
        """Take what was learned back to the source, in place; with a flag only if it is set."""
        if when is None:
            self._learned.restore()
        else:
            self._learned.restore_if(when)

    def restart(self) -> None:
        """Take everything back to the beginning, in place."""
        self._learned.restore()
        self._kept.restore()

    @torch.no_grad()
    def copy(self) -> dict[str, Tensor]:
        """The present values, in memory of their own."""
        return {name: tensor.clone() for name, tensor in self.tensors.items()}

    @torch.no_grad()
    def load(self, values: Named) -> None:
        """Take over values, in place.

        Raises:
            InputError: names or shapes that are not this state's.
        """
        self._check(values)
        for name, tensor in self.tensors.items():
            tensor.copy_(values[name])

    @torch.no_grad()
    def exchange(self, values: Named) -> None:
        """Take over values, and leave the present ones in their place.

        Raises:
            InputError: names or shapes that are not this state's.
        """
        self._check(values)
        for mine, theirs in _grouped(
            (tensor, values[name]) for name, tensor in self.tensors.items()
        ):
            present = [tensor.clone() for tensor in mine]
            torch._foreach_copy_(mine, theirs)
            torch._foreach_copy_(theirs, present)

    @property
    def sources(self) -> dict[str, Tensor | None]:
        """The values in the beginning, by name; None stands for zeros."""
        values = [*self._learned.values(), *self._kept.values()]
        return dict(zip(self.tensors, values, strict=True))

    def _check(self, values: Named) -> None:
        if values.keys() != self.tensors.keys():
            odd = sorted(values.keys() ^ self.tensors.keys())[0]
            raise InputError(
                f"the state is of another adapter, for only one of both has {odd!r}; give a state "
                f"of this adapter, or of one made alike."
            )
        for name, tensor in self.tensors.items():
            if values[name].shape != tensor.shape or values[name].dtype != tensor.dtype:
                raise InputError(
                    f"the state is of another adapter, for its {name!r} is {values[name].dtype} "
                    f"{list(values[name].shape)}, not {tensor.dtype} {list(tensor.shape)}; give a "
                    f"state of this adapter, or of one made alike."
                )


class Backup:
    """Values that some tensors have now, to go back to in place; zeros are not stored.

    Args:
        tensors: What may change.
    """

    def __init__(self, tensors: Iterable[Tensor]):
        tensors = list(tensors)
        self._values = {
            number: tensor.detach().clone()
            for number, tensor in enumerate(tensors)
            if bool(tensor.count_nonzero())
        }
        self._count = len(tensors)
        zero = [tensor for number, tensor in enumerate(tensors) if number not in self._values]
        self._zero = [mine for mine, _ in _grouped((tensor, tensor) for tensor in zero)]
        self._groups = _grouped((tensors[number], v) for number, v in self._values.items())

    def values(self) -> list[Tensor | None]:
        """The values, in the tensors' order; None stands for zeros."""
        return [self._values.get(number) for number in range(self._count)]

    @torch.no_grad()
    def restore(self) -> None:
        """Write the values back."""
        for tensors, values in self._groups:
            torch._foreach_copy_(tensors, values)
        for tensors in self._zero:
            torch._foreach_zero_(tensors)

    @torch.no_grad()
    def restore_if(self, when: Tensor) -> None:
        """Write the values back if a flag is set, which is not read but stays on its device."""
        for tensors, values in self._groups:
            for tensor, value in zip(tensors, values):
                tensor.copy_(torch.where(when, value, tensor))
        for tensors in self._zero:
            for tensor in tensors:
                tensor.masked_fill_(when, 0)


class Undo:
    """The values of a few tensors before a step, to go back to where it was not taken.

    Args:
        tensors: What a step's passes write to.
    """

    def __init__(self, tensors: Sequence[Tensor]):
        self.tensors: list[Tensor] = list(tensors)
        self.before: list[Tensor] = [tensor.clone() for tensor in self.tensors]

    def keep(self) -> None:
        """Keep the present values."""
        for tensor, value in zip(self.tensors, self.before):
            value.copy_(tensor)

    def unless(self, wanted: Tensor) -> None:
        """Go back unless a flag is set, which is not read but stays on its device."""
        for tensor, value in zip(self.tensors, self.before):
            tensor.copy_(torch.where(wanted, tensor, value))


@dataclass(frozen=True)
class AdapterState:
    """A copy of an adapter's state: one stream's, where an adapter serves several.

    It belongs to one bundle, method and settings, and is refused by other adapters.
    """

    tensors: dict[str, Tensor] = field(repr=False)
    """All that learning has changed, by name."""
    belongs: dict[str, Any] = field(repr=False)
    """Method, settings and checksum of the weights that it belongs to."""

    def __repr__(self) -> str:
        return f"AdapterState({self.belongs.get('method')!r}, {self.nbytes:,} bytes)"

    @property
    def nbytes(self) -> int:
        """Its size in memory."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


def check_belongs(given: Mapping[str, Any], mine: Mapping[str, Any]) -> None:
    """Refuse a state of another bundle, method or settings.

    Raises:
        InputError: with what differs.
    """
    if not isinstance(given, Mapping) or not isinstance(given.get("settings"), Mapping):
        raise InputError("this is no state of an adapter; give one that snapshot or save made.")
    if given.get("method") != mine["method"]:
        raise InputError(
            f"the state is of the method {given.get('method')}, not of {mine['method']}; make the "
            f"adapter with that method."
        )
    if given.get("settings") != mine["settings"]:
        theirs = given["settings"]
        names = [name for name, value in mine["settings"].items() if theirs.get(name) != value]
        raise InputError(
            f"the state is of other settings ({', '.join(names) or 'of another version'}); make "
            f"the adapter with the settings that it was saved with."
        )
    if given != mine:
        raise InputError("the state is of another bundle; load it with the bundle it was made for.")


def _grouped(pairs: Iterable[tuple[Tensor, Tensor]]) -> list[tuple[list[Tensor], list[Tensor]]]:
    """Two lists for each type and device: one fused operation is enough for each."""
    groups: dict[tuple, tuple[list[Tensor], list[Tensor]]] = defaultdict(lambda: ([], []))
    for tensor, other in pairs:
        first, second = groups[tensor.dtype, tensor.device]
        first.append(tensor.detach())
        second.append(other)
    return list(groups.values())
