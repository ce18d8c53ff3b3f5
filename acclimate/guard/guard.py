"""The Guard: an adapter whose answers are given only while they seem better than the frozen."""

from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from acclimate.adapt import Adapter
from acclimate.adapt.state import AdapterState
from acclimate.adapt.turns import TakesTurns, in_turn
from acclimate.backbones.batch_norm import batch_norms
from acclimate.bundle import Bundle
from acclimate.errors import InputError, unknown_name
from acclimate.guard.calibration import Calibration
from acclimate.guard.change import Change, ChangeState, scores, watch
from acclimate.guard.decide import GuardState, Rules, Verdict, judge
from acclimate.guard.log import DecisionLog
from acclimate.guard.signals import blank, first_of_equals, overwrite
from acclimate.methods import method
from acclimate.preprocessing import check_images
from acclimate.runtime.precision import undisturbed
from acclimate.storage import sealed

Mode = Literal["bounded", "shadow"]
MODES: tuple[Mode, ...] = ("bounded", "shadow")
GOOD_EVERY = 512
"""Images between two copies of a good state: on a GPU a copy takes about as long as a step."""
_DISTINCT = 4  # from fewer different images, the batch's own statistics say nothing


class Guard(TakesTurns):
    """Adapts, and answers with the adapted model only where its answers seem better.

    ```python
    bundle = measure_guard(bundle, source_images)  # once; no labels are needed
    guard = Guard(acclimate.Adapter(bundle), bundle)
    logits = guard(images)
    print(guard.verdict.reason, guard.verdict.estimate.adapted)
    ```

    It sees images and answers, never labels. Beside the adapter's passes it takes one of the frozen
    classifier. Images of one colour, as from a covered camera, are kept from the adapter and
    answered by the frozen classifier.

    Args:
        adapter: Any adapter of the bundle. From now on it is called by the guard alone.
        bundle: With a calibration, see `acclimate.guard.measure.measure_guard`.
        mode: ``"bounded"`` answers as said above. ``"shadow"`` answers with the frozen classifier,
            at the adapter's precision, bit for bit, while the adapter adapts and is judged.
        rules: Thresholds.
        log: A file for a line of JSON a batch, bounded in size; see `acclimate.guard.log`.
        memory_limit: Of the frozen classifier's passes, as for `Adapter`.

    Attributes:
        adapter: The adapter.
        frozen: The frozen classifier, as an adapter of the method ``source``.
        verdict: The last decision; None before the first.
        change: Whether the stream has become another one with the last batch.
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
        if mode not in MODES:
            raise unknown_name("mode", mode, MODES)
        if len(bundle.classes) != adapter.model.num_classes:
            raise InputError("the adapter is of another bundle; give the bundle it was made from.")
        self.adapter, self.mode, self._rules = adapter, mode, rules or Rules()
        self._rules.check()
        alike = {"precision": adapter.settings.precision, "seed": adapter.settings.seed}
        where = {"device": adapter.device, "memory_limit": memory_limit}
        self.frozen = Adapter(bundle, "source", **where, **alike)
        self.verdict: Verdict | None = None
        self.change: Change | None = None
        self._log = DecisionLog(log)
        self._least = _DISTINCT if _by_the_batch_alone(adapter) else 1
        with undisturbed(adapter.device):
            tensors = {name: each.to(adapter.device) for name, each in bundle.statistics.items()}
            self._calibration = Calibration.of(tensors, method(adapter.name).model)
            self._state = GuardState.new(self._calibration)
            self._stream = ChangeState.new(adapter.device)
            self._forget()

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
        with undisturbed(self.adapter.device):
            shown = self.adapter.preprocessing.unit(images.to(self.adapter.device))
            first = first_of_equals(shown)
            kept = (first == torch.arange(len(shown), device=first.device)) & ~blank(shown)
            kept &= kept.sum() >= self._least
            frozen = self.frozen(images)
            adapted, steps = self._adapted(images, frozen, kept)
            adapted = adapted[first]
            given = self._calibration, self._state, self._rules, kept[first]
            self.verdict = verdict = judge(frozen, adapted, kept, *given)
            self.change = watch(scores(shown, frozen), self._stream)
            self._learn(verdict, len(images))
            self._note(len(images), steps)
            if self.mode == "shadow":
                return frozen
            return torch.where(verdict.use_adapted[:, None], adapted, frozen)

    @in_turn
    def reset(self) -> None:
        """Forget all that was learned and seen; the log stays."""
        self.adapter.reset()
        with undisturbed(self.adapter.device):
            overwrite(self._state.tensors(), GuardState.new(self._calibration).tensors())
            overwrite(self._stream.tensors(), ChangeState.new(self.adapter.device).tensors())
            self.verdict = self.change = None
            self._forget()

    @in_turn
    def save(self, path: str | Path) -> None:
        """Write the present state, the adapter's and the guard's, to a sealed file.

        Raises:
            InputError: the file cannot be written.
        """
        present = self.adapter.snapshot()
        tensors = {
            **{f"adapter.{name}": tensor for name, tensor in present.tensors.items()},
            **{f"good.{name}": tensor for name, tensor in self._good.tensors.items()},
            **{f"guard.{name}": tensor for name, tensor in self._state.tensors().items()},
            **{f"stream.{name}": tensor for name, tensor in self._stream.tensors().items()},
        }
        counts = {"seen": self._seen, "since": self._since}
        sealed.save(Path(path), tensors, {"belongs": present.belongs} | self._alike() | counts)

    @in_turn
    def load(self, path: str | Path) -> None:
        """Go on from a state that was saved; the same future follows.

        Raises:
            InputError: the file is missing or damaged, or of another adapter or other rules.
        """
        tensors, record = sealed.load(Path(path))
        if not self._alike().keys() <= record.keys():
            raise InputError(f"{path} is no state of a guard; give one that Guard.save wrote.")
        if any(record[name] != value for name, value in self._alike().items()):
            raise InputError(
                f"{path} is of a guard with other rules or another calibration; make the guard as "
                "the one that saved it."
            )
        parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        self.adapter.restore(AdapterState(parts["good"], record["belongs"]))
        self._good = self.adapter.snapshot()
        self.adapter.restore(AdapterState(parts["adapter"], record["belongs"]))
        with undisturbed(self.adapter.device):
            overwrite(self._state.tensors(), parts["guard"])
            overwrite(self._stream.tensors(), parts["stream"])
        self._seen, self._since = record["seen"], record["since"]
        self.verdict = self.change = None

    def _alike(self) -> dict[str, Any]:
        """Rules and calibration: guards with the same state and these go on alike."""
        calibration = sealed.digest(self._calibration.tensors(""), "")
        return {"rules": asdict(self._rules), "calibration": calibration}

    def _adapted(
        self, images: Tensor, frozen: Tensor, kept: Tensor
    ) -> tuple[Float[Tensor, "batch classes"], int]:
        """The adapter's answers, and the frozen ones where it sees no image; steps taken."""
        if not kept.any():
            return frozen, 0
        if kept.all():
            answers = self.adapter(images)
        else:
            answers = frozen.clone()
            answers[kept] = self.adapter(images[kept.to(images.device)])
        return answers, sum(int(step.taken.sum()) for step in self.adapter.steps)

    def _learn(self, verdict: Verdict, count: int) -> None:
        """Go back to the last good state, or keep this one as such."""
        self._since += count
        if verdict.learning == "roll back":
            self.adapter.restore(self._good)
            self._since = 0
        elif verdict.answer == "adapted" and self._since >= GOOD_EVERY:
            self._good, self._since = self.adapter.snapshot(), 0

    def _note(self, count: int, steps: int) -> None:
        """Write the decision down."""
        verdict, change = self.verdict, self.change
        assert verdict is not None and change is not None
        estimate = {
            name: round(getattr(verdict.estimate, name).value, 4)
            for name in ("frozen", "adapted", "guarded")
        }
        self._log.add(
            {
                "first": self._seen,
                "images": count,
                "answer": "frozen" if self.mode == "shadow" else verdict.answer,
                "verdict": verdict.answer,
                "learning": verdict.learning,
                "adapted_answers": int(verdict.use_adapted.sum()),
                "share": round(verdict.share, 4),
                "agreement": round(verdict.agreement, 4),
                "classes": round(verdict.classes, 4),
                "estimate": estimate,
                "steps_taken": steps,
                "changed": change.score if change.found else "",
                "reason": verdict.reason,
            }
        )
        self._seen += count

    def _forget(self) -> None:
        self._good, self._since, self._seen = self.adapter.snapshot(), 0, 0


def _by_the_batch_alone(adapter: Adapter) -> bool:
    """True if batch norm uses statistics of the batch alone."""
    normalisation, memory = adapter.settings.normalisation, adapter.settings.memory
    alone = normalisation.uses_batch and getattr(normalisation, "prior", None) == 0
    return alone and not memory.keeps and bool(batch_norms(adapter.model.encoder))
