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
from acclimate.guard.change import Change, ChangeState
from acclimate.guard.decide import GuardState, Verdict
from acclimate.guard.labels import KEPT
from acclimate.guard.rules import Rules
from acclimate.guard.visits import ENOUGH, Visits
from acclimate.storage import sealed

GOOD_EVERY = 512
"""Images between two copies of a good state: on a GPU a copy takes about as long as a step."""
_FORM = 3  # of the averages; one more whenever they change, so that older states are refused


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
        counts: ``seen``: images since the beginning; ``since``: images since the last good state
            was kept; ``steps``: steps taken; ``changed``: number of the first image after the last
            change. int64, on the CPU.
    """

    def __init__(self, adapter: Adapter, calibration: Calibration, rules: Rules):
        self.judged: GuardState = GuardState.new(calibration)
        self.watched: ChangeState = ChangeState.new(adapter.device)
        names = ("seen", "since", "steps", "changed")
        self.counts: dict[str, Tensor] = {
            name: torch.zeros((), dtype=torch.int64) for name in names
        }
        first = adapter.snapshot()
        self._good, self._of_adapter = first.tensors, first.belongs
        self._adapter, self._at_change = adapter, rules.at_change
        comes_back = rules.at_change == "come-back"
        scores = self.watched.reference.shape[1]
        self._visits = Visits(first.tensors, scores, adapter.device) if comes_back else None
        parts = {"guard": self.judged.tensors(), "stream": self.watched.tensors()}
        parts |= {"visits": self._visits.tensors()} if self._visits else {}
        self._state = State({}, _joined({**parts, "counts": self.counts}))
        # Guards of the same rules and calibration go on alike from the same state.
        digest = sealed.digest(calibration.tensors(""), "")
        own = {"rules": asdict(rules), "calibration": digest, "form": _FORM}
        self._belongs: dict[str, Any] = {**first.belongs, "guard": own}

    def restart(self) -> None:
        """Forget the stream, after the adapter's reset."""
        self._state.restart()
        self._good = self._adapter.snapshot().tensors

    def learn(self, verdict: Verdict, count: int) -> None:
        """Go back to the last good state, or keep this one as such, after a batch."""
        self.counts["since"] += count
        if verdict.learning == "roll back":
            self._take(self._good)
        elif verdict.answer == "adapted" and int(self.counts["since"]) >= GOOD_EVERY:
            self._keep_good()

    def turn(self, change: Change, before: Tensor) -> str:
        """Do what is to be done at a change of the stream, and some images after it.

        Args:
            change: Found with this batch, or not.
            before: Scores of images before the change: those that it was found against.

        Returns:
            ``"restarted"``, ``"came back"`` or nothing.
        """
        visits = self._visits
        if change.found and self._at_change != "go-on":
            if visits is not None:
                visits.keep(before, self._good)
                visits.waiting.fill_(1)
            self._adapter.reset()
            self._keep_good()
            return "restarted"
        filled = int(self.watched.filled)
        if visits is None or not int(visits.waiting) or filled < ENOUGH:
            return ""
        visits.waiting.zero_()
        learned = visits.recognised(self.watched.reference[:filled])
        if learned is None:
            return ""
        self._take(learned)
        self._keep_good()
        return "came back"

    def _keep_good(self) -> None:
        """Keep the adapter's present state as the last good one."""
        self._good = self._adapter.snapshot().tensors
        self.counts["since"].zero_()

    def _take(self, learned: dict[str, Tensor]) -> None:
        """Take the adapter to a state."""
        self._adapter.restore(AdapterState(learned, self._of_adapter))
        self.counts["since"].zero_()

    def saw(self, count: int, verdict: Verdict | None, change: Change | None) -> None:
        """Count the images of a batch, and keep its answers for labels; None: it was not judged."""
        first, labels = int(self.counts["seen"]), self.judged.labels
        self.counts["seen"] += count
        if verdict is None or change is None:
            labels.skip(first, count)
            return
        labels.keep(first, verdict.answers)
        if change.found:
            self.counts["changed"].fill_(first + count - int(self.watched.since))
            labels.forget()

    def reveal(self, index: int, label: int) -> None:
        """Learn from a label.

        Raises:
            InputError: an image that has not come, whose answer is no longer there, that was not
                judged, or whose label is known.
        """
        seen = int(self.counts["seen"])
        if not 0 <= index < seen:
            raise InputError(
                f"no image {index} has come, but {seen} images, counted from 0 since the beginning "
                "of the stream; check the index."
            )
        if index < seen - KEPT:
            raise InputError(
                f"image {index} is too long ago: answers are kept for the last {KEPT} images, from "
                f"{seen - KEPT} on; reveal labels earlier, or leave this one out."
            )
        counts = index >= int(self.counts["changed"])  # before a change, curves were off otherwise
        self.judged.labels.learn(index, label, counts=counts)

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
        check_guarded(state.belongs, self._belongs)
        parts = _parted(state.tensors)
        self._adapter.restore(AdapterState(parts["adapter"], self._of_adapter))
        self._good = {name: tensor.clone() for name, tensor in parts["good"].items()}
        self._state.load(self._own(state.tensors))

    def swap(self, state: AdapterState) -> None:
        """Take over a state, and leave the present one in its place.

        Raises:
            InputError: it is none of this guard, or of one made alike.
        """
        check_guarded(state.belongs, self._belongs)
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


def check_guarded(belongs: Mapping[str, Any], mine: Mapping[str, Any]) -> None:
    """Refuse a state of another guard, of a guard with other rules, or of none.

    ```python
    check_guarded(state.belongs, guard.snapshot().belongs)
    ```

    Args:
        belongs: What the state belongs to, as it says.
        mine: The same of a state of this guard.

    Raises:
        InputError: they differ.
    """
    if belongs is mine:
        return
    if not isinstance(belongs, Mapping) or "guard" not in belongs:
        raise InputError(
            "this is no state of a guard; give one that snapshot or save of a guard made."
        )
    theirs, own = ({n: v for n, v in each.items() if n != "guard"} for each in (belongs, mine))
    check_belongs(theirs, own)
    if belongs["guard"] != mine["guard"]:
        raise InputError(
            "the state is of a guard with other rules or another calibration, or of an older "
            "version; make the guard as the one that saved it, or begin anew."
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
