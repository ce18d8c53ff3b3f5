"""The Guard: an adapter whose answers are given only while they seem better than the frozen."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from acclimate.adapt import Adapter
from acclimate.adapt.frozen import frozen_beside
from acclimate.adapt.state import AdapterState
from acclimate.adapt.turns import TakesTurns, in_turn
from acclimate.bundle import Bundle
from acclimate.errors import InputError, unknown_name
from acclimate.guard.budget import Distance, fewest_images
from acclimate.guard.calibration import Calibration
from acclimate.guard.change import REFERENCE, Change, scores, watch
from acclimate.guard.decide import Spent, Verdict, judge
from acclimate.guard.estimate import estimate
from acclimate.guard.log import DecisionLog, decision
from acclimate.guard.rules import Rules
from acclimate.guard.signals import blank, first_of_equals
from acclimate.guard.state import Memory
from acclimate.methods import method
from acclimate.preprocessing import check_images
from acclimate.runtime.precision import undisturbed
from acclimate.storage import sealed

Mode = Literal["bounded", "shadow", "off"]
MODES: tuple[Mode, ...] = ("bounded", "shadow", "off")


class Guard(TakesTurns):
    """Adapts, and answers with the adapted model only where its answers seem better.

    ```python
    bundle = measure_guard(bundle, source_images)  # once; no labels are needed
    guard = Guard(acclimate.Adapter(bundle), bundle)
    logits = guard(images)
    print(guard.verdict.reason, guard.verdict.estimate.adapted)
    ```

    It decides by images and answers, without labels; `reveal` takes labels that become known. It
    takes one pass of the frozen classifier beside the adapter's passes. Images of one colour, as
    from a covered camera, are answered by the frozen classifier and not shown to the adapter.

    Args:
        adapter: Any adapter of the bundle. From now on only the guard calls it.
        bundle: With a calibration, see `acclimate.guard.measure.measure_guard`.
        mode: ``"bounded"`` answers as said above. ``"shadow"`` answers with the frozen classifier,
            at the adapter's precision, bit for bit, while the adapter adapts and is judged.
            ``"off"`` is the adapter alone: no frozen pass, no decision.
        rules: Thresholds.
        log: A file for a line of JSON a batch, bounded in size; see `acclimate.guard.log`.
        memory_limit: Limit for the frozen classifier's passes, as for `Adapter`.

    Attributes:
        adapter: The adapter.
        frozen: The frozen classifier, as an adapter of the method ``source``.
        verdict: The last decision; None before the first, after the state was exchanged, and
            with the mode ``"off"``.
        both: Logits of the last batch, of the frozen classifier and of the adapter; None as
            `verdict`.
        change: Whether the stream changed with the last batch; None as `verdict`.
        decisions: The last decisions, as the log has them.

    Raises:
        InputError: the bundle has no calibration or other classes than the adapter, an unknown
            mode, or a log that cannot be written.
    """

    def __init__(
        self,
        adapter: Adapter,
        bundle: Bundle,
        mode: Mode = "bounded",
        *,
        rules: Rules | None = None,
        log: Path | None = None,
        memory_limit: str | int | None = None,
    ):
        super().__init__()
        self.mode = mode
        if len(bundle.classes) != adapter.model.num_classes:
            raise InputError("the adapter is of another bundle; give the bundle it was made from.")
        self.adapter: Adapter = adapter
        self._rules = rules or Rules()
        self._rules.check()
        self.frozen: Adapter = frozen_beside(adapter, bundle, memory_limit)
        self.verdict: Verdict | None = None
        self.both: tuple[Tensor, Tensor] | None = None
        self.change: Change | None = None
        self._log = DecisionLog(log)
        self._least = fewest_images(adapter)
        with undisturbed(adapter.device):
            tensors = {name: each.to(adapter.device) for name, each in bundle.statistics.items()}
            self._calibration = Calibration.of(tensors, method(adapter.name).model)
            bounded = self._rules.most_distance is not None
            self._distance = Distance(adapter, bundle) if bounded else None
            self._memory = Memory(adapter, self._calibration, self._rules)

    def __repr__(self) -> str:
        estimate = self.verdict and self.verdict.estimate
        found = f", {estimate!r}" if estimate else ""
        return f"Guard({self.mode!r}, {self.adapter!r}{found})"

    @property
    def mode(self) -> Mode:
        """What becomes of the adapted answers; it may be set between two batches."""
        return self._mode

    @mode.setter
    @in_turn
    def mode(self, mode: Mode) -> None:
        if mode not in MODES:
            raise unknown_name("mode", mode, MODES)
        self._mode: Mode = mode

    @property
    def decisions(self) -> list[dict[str, Any]]:
        """The last decisions, oldest first."""
        return list(self._log.last)

    @in_turn
    def __call__(self, images: Tensor) -> Float[Tensor, "batch classes"]:
        """Adapt to a batch, decide, and answer for it.

        Args:
            images: As for `Adapter`.

        Returns:
            Logits, float32, always finite: for each image those of one of the two models.

        Raises:
            InputError: as `Adapter`.
        """
        check_images(images, self.adapter.preprocessing.channels)
        if self._mode == "off":
            self.verdict = self.both = self.change = None
            answers = self.adapter(images)
            self._memory.saw(len(images), None, None)
            return answers
        with undisturbed(self.adapter.device):
            return self._judged(images)

    @in_turn
    def reveal(self, index: int, label: int) -> None:
        """Tell the label of an image that came some time ago, where it becomes known.

        It makes estimates and decisions more certain; the adapter never sees it.
        Labels are never needed. Labels of images before the last change are left out, because they
        say nothing about the images after it.

        ```python
        guard.reveal(0, 7)  # the first image of the stream was of the class number 7
        ```

        Args:
            index: Number of the image, counted from 0 since the beginning of the stream.
            label: Number of its class.

        Raises:
            InputError: no such class; or an image that has not come, came more than 1,024 images
                ago, came with the mode ``"off"``, or whose label is known.
        """
        if not 0 <= label < self.adapter.model.num_classes:
            raise InputError(
                f"there is no class {label}; labels are 0 to {self.adapter.model.num_classes - 1}."
            )
        with undisturbed(self.adapter.device):
            self._memory.reveal(index, label)
            if self.verdict is not None:
                judged = self._memory.judged
                found = estimate(self._calibration, judged.right, judged.labels.right)
                self.verdict = replace(self.verdict, estimate=found)

    @in_turn
    def reset(self) -> None:
        """Forget all that was learned and seen; the log stays."""
        self.adapter.reset()
        with undisturbed(self.adapter.device):
            self._memory.restart()
        self.verdict = self.both = self.change = None

    @in_turn
    def snapshot(self) -> AdapterState:
        """A copy of the present state, the adapter's and the guard's, for `restore` and `swap`."""
        with torch.inference_mode(False):
            return self._memory.snapshot()

    @in_turn
    def restore(self, state: AdapterState) -> None:
        """Go back to a state of this guard, or of one made alike: the same future follows.

        Raises:
            InputError: the state is of another adapter, other rules or another calibration.
        """
        with undisturbed(self.adapter.device):
            self._memory.restore(state)
        self.verdict = self.both = self.change = None

    @in_turn
    def swap(self, state: AdapterState) -> None:
        """Exchange the present state for another, in place: ``state`` then holds the present one.

        So one guard can serve many streams, which share its log and mode:

        ```python
        streams = {name: guard.snapshot() for name in ("north", "south")}
        guard.swap(streams["north"])
        logits = guard(images)
        guard.swap(streams["north"])
        ```

        Raises:
            InputError: the state is of another adapter, other rules or another calibration.
        """
        with undisturbed(self.adapter.device):
            self._memory.swap(state)
        self.verdict = self.both = self.change = None

    @in_turn
    def save(self, path: str | Path) -> None:
        """Write the present state, the adapter's and the guard's, to a sealed file.

        Raises:
            InputError: the file cannot be written.
        """
        state = self.snapshot()
        sealed.save(Path(path), state.tensors, state.belongs)

    @in_turn
    def load(self, path: str | Path) -> None:
        """Go on from a state that was saved; the same future follows.

        Raises:
            InputError: the file is missing or damaged, or of another adapter or other rules.
        """
        self.restore(AdapterState(*sealed.load(Path(path))))

    def _judged(self, images: Tensor) -> Float[Tensor, "batch classes"]:
        """Let both models answer, decide, and do what follows from it; the answers given."""
        memory = self._memory
        shown = self.adapter.preprocessing.unit(images.to(self.adapter.device))
        first = first_of_equals(shown)
        kept = (first == torch.arange(len(shown), device=first.device)) & ~blank(shown)
        kept &= kept.sum() >= self._least
        frozen = self.frozen(images)
        adapted, steps = self._adapted(images, frozen, kept)
        adapted = adapted[first]
        self.both = frozen, adapted
        memory.counts["steps"] += steps
        spent = Spent(int(memory.counts["steps"]), self._distance() if self._distance else 0.0)
        seen = scores(shown, frozen)
        given = self._calibration, memory.judged, self._rules, kept[first], spent
        self.verdict = verdict = judge(frozen, adapted, seen[:, 1:], kept, *given)
        known = memory.watched.reference[: int(memory.watched.filled)]
        before = torch.cat([known, seen])[:REFERENCE]  # whole at a change, which needs it so
        self.change = change = watch(seen, memory.watched)
        memory.learn(verdict, len(images))
        turned, shadow = memory.turn(change, before), self._mode == "shadow"
        batch = {"first": int(memory.counts["seen"]), "images": len(images), "steps": steps}
        self._log.add(decision(verdict, change, **batch, turned=turned, shadow=shadow))
        memory.saw(len(images), verdict, change)
        return frozen if shadow else torch.where(verdict.use_adapted[:, None], adapted, frozen)

    def _adapted(
        self, images: Tensor, frozen: Tensor, kept: Tensor
    ) -> tuple[Float[Tensor, "batch classes"], int]:
        """The adapter's answers, and the frozen ones where it sees no image; steps taken."""
        if not kept.any() or self.frozen is self.adapter:
            return frozen, 0
        most = self._rules.most_steps
        learns = most is None or int(self._memory.counts["steps"]) < most
        model = self.adapter if learns else self.adapter.peek
        if kept.all():
            answers = model(images)
        else:
            answers = frozen.clone()
            answers[kept] = model(images[kept.to(images.device)])
        return answers, sum(int(step.taken.sum()) for step in self.adapter.steps) if learns else 0
