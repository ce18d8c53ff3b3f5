"""What a guard remembers of a stream, and how it gets into a state and out of it."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from acclimate.adapt import Adapter
from acclimate.adapt.state import AdapterState, State, check_belongs
from acclimate.errors import InputError
from acclimate.guard.calibration import Calibration
from acclimate.guard.change import ChangeState
from acclimate.guard.decide import GuardState, Rules
from acclimate.storage import sealed


class Memory:
    """What a guard remembers of a stream, beside the adapter's own state.

    All but the good state is changed in place; that is replaced as a whole.

    Args:
        adapter: Its present state is the first good one.
        calibration: Of the model that adapts.
        rules: Thresholds of the guard.

    Attributes:
        judged: Averages of the signals.
        watched: What tells a change of the stream.
        counts: Images since the beginning, and images since the last good state was kept; int64,
            on the CPU.
    """

    def __init__(self, adapter: Adapter, calibration: Calibration, rules: Rules):
        self.judged = GuardState.new(calibration)
        self.watched = ChangeState.new(adapter.device)
        self.counts = {name: torch.zeros((), dtype=torch.int64) for name in ("seen", "since")}
        kept = {"guard": self.judged.tensors(), "stream": self.watched.tensors()}
        self._state = State({}, _joined({**kept, "counts": self.counts}))
        self._adapter = adapter
        first = adapter.snapshot()
        self._good, self._of_adapter = first.tensors, first.belongs
        # Guards of the same rules and calibration go on alike from the same state.
        digest = sealed.digest(calibration.tensors(""), "")
        own = {"rules": asdict(rules), "calibration": digest}
        self._belongs: dict[str, Any] = {**first.belongs, "guard": own}

    def restart(self) -> None:
        """Forget the stream, after the adapter's reset."""
        self._state.restart()
        self._good = self._adapter.snapshot().tensors

    def keep_good(self) -> None:
        """Keep the adapter's present state as the last good one."""
        self._good = self._adapter.snapshot().tensors
        self.counts["since"].zero_()

    def roll_back(self) -> None:
        """Take the adapter back to the last good state."""
        self._adapter.restore(AdapterState(self._good, self._of_adapter))
        self.counts["since"].zero_()

    def snapshot(self) -> AdapterState:
        """A copy of the present state, the adapter's included."""
        good = {name: tensor.clone() for name, tensor in self._good.items()}
        parts = {"adapter": self._adapter.snapshot().tensors, "good": good}
        return AdapterState(self._state.copy() | _joined(parts), self._belongs)

    def restore(self, state: AdapterState) -> None:
        """Take over a state.

        Raises:
            InputError: it is none of this guard, or of one made alike.
        """
        self._check(state.belongs)
        parts = _parted(state.tensors)
        self._adapter.restore(AdapterState(parts["adapter"], self._of_adapter))
        self._good = {name: tensor.clone() for name, tensor in parts["good"].items()}
        self._state.load(self._own(state.tensors))

    def swap(self, state: AdapterState) -> None:
        """Take over a state, and leave the present one in its place.

        Raises:
            InputError: it is none of this guard, or of one made alike.
        """
        self._check(state.belongs)
        parts = _parted(state.tensors)
        self._adapter.swap(AdapterState(parts["adapter"], self._of_adapter))
        self._state.exchange(self._own(state.tensors))
        # The good state is never written to, so that no value need be copied.
        state.tensors.update(_joined({"good": self._good}))
        self._good = parts["good"]

    def _own(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Those of a state's tensors that are neither the adapter's nor its good state."""
        theirs = ("adapter.", "good.")
        return {name: each for name, each in tensors.items() if not name.startswith(theirs)}

    def _check(self, belongs: Mapping[str, Any]) -> None:
        """Refuse a state of another guard."""
        if belongs is self._belongs:
            return
        if not isinstance(belongs, Mapping) or "guard" not in belongs:
            raise InputError(
                "this is no state of a guard; give one that snapshot or save of a guard made."
            )
        of_adapter = {name: value for name, value in belongs.items() if name != "guard"}
        check_belongs(of_adapter, self._of_adapter)
        if belongs["guard"] != self._belongs["guard"]:
            raise InputError(
                "the state is of a guard with other rules or another calibration; make the guard "
                "as the one that saved it."
            )


def _joined(parts: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors of some parts in one flat mapping."""
    return {f"{part}.{name}": each for part, named in parts.items() for name, each in named.items()}


def _parted(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The parts of a flat mapping."""
    parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = tensor
    return parts
