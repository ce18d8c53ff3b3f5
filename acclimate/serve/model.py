"""The model that the service shares between its streams: both answers, and the guard's verdict."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from acclimate.adapt import Adapter
from acclimate.adapt.frozen import frozen_beside
from acclimate.adapt.state import AdapterState, check_belongs
from acclimate.bundle import Bundle
from acclimate.errors import InputError
from acclimate.guard import Guard, Rules, Verdict
from acclimate.guard.guard import MODES, Mode
from acclimate.guard.rules import ClassShares
from acclimate.guard.state import check_guarded
from acclimate.methods import AdapterSettings, method
from acclimate.preprocessing import Preprocessing


@dataclass(frozen=True)
class Answers:
    """What both models say of a batch, and which of them answers."""

    frozen: Float[Tensor, "batch classes"]
    """Logits of the frozen classifier."""
    adapted: Float[Tensor, "batch classes"]
    """Logits of the adapted model."""
    use_adapted: Bool[Tensor, " batch"]
    """Which images get the adapted answer."""
    verdict: Verdict | None
    """The guard's decision; None without a guard, and with its mode ``off``."""

    @property
    def finite(self) -> bool:
        """Whether all are numbers, the guard's estimates included."""
        numbers = []
        if verdict := self.verdict:
            estimate = verdict.estimate
            numbers = [verdict.share, verdict.agreement, estimate.images]
            for each in (estimate.frozen, estimate.adapted, estimate.guarded):
                numbers += [each.value, each.low, each.high]
        logits = torch.cat([self.frozen, self.adapted])
        return bool(logits.isfinite().all()) and all(map(math.isfinite, numbers))

    def part(self, rows: slice) -> "Answers":
        """Those for some of the images."""
        frozen, adapted, use_adapted = self.frozen, self.adapted, self.use_adapted
        return Answers(frozen[rows], adapted[rows], use_adapted[rows], self.verdict)


@dataclass(frozen=True)
class Wish:
    """How a bundle is to be served."""

    method: str | None = None
    """A name of `acclimate.methods.METHODS`; None takes the bundle's."""
    settings: AdapterSettings | None = None
    """Settings of the method; None takes its own."""
    guard: str | None = None
    """Mode of a new stream's guard; None takes ``bounded``, or ``off`` without a guard."""
    device: str | None = None
    """``cpu`` or ``cuda``; None takes a GPU if there is one."""
    memory_limit: str | None = None
    """The most memory that the process may hold."""
    class_shares: ClassShares = "any"
    """How often each class comes in every stream, see `acclimate.guard.Rules`."""


class SharedModel:
    """A bundle that is ready to answer for many streams, one batch after the other.

    ```python
    model = SharedModel.load(Path("quickstart/bundle"), Wish())
    state = model.fresh()  # the state of a new stream
    model.swap(state)
    answers = model(images, "bounded")
    model.swap(state)
    ```

    Args:
        bundle: Any bundle. Without a guard's calibration the adapted answers are given.
        name: What the bundle is called.
        wish: How it is to be served.

    Attributes:
        bundle, name: As given.
        guarded: Whether there is a guard.
        note: Why there is no guard; None where there is one.
        modes: The modes that a stream may have, the usual one first.

    Raises:
        InputError: an unknown method or impossible settings.
    """

    def __init__(self, bundle: Bundle, name: str, wish: Wish):
        self.bundle: Bundle = bundle
        self.name: str = name
        where: dict[str, Any] = {"device": wish.device, "memory_limit": wish.memory_limit}
        adapter = Adapter(bundle, wish.method, wish.settings, **where)
        self.adapter = adapter
        self.note: str | None = None
        self.modes: tuple[Mode, ...] = MODES
        try:
            rules = Rules(class_shares=wish.class_shares)
            self._model = Guard(adapter, bundle, rules=rules, memory_limit=wish.memory_limit)
            self._frozen = self._model.frozen
        except InputError as error:
            # A service whose bundle had a guard must not lose it without a word, as with a
            # calibration of an older version, nor must one that was told something for it.
            own = f"{method(adapter.name).model}.guard."
            if wish.class_shares != "any" or any(n.startswith(own) for n in bundle.statistics):
                raise
            self._model = adapter
            self.modes = ("off", "shadow")
            self._frozen = frozen_beside(adapter, bundle, wish.memory_limit)
            frozen = wish.guard == "shadow"
            answers = "the frozen classifier's" if frozen else "the adapted model's"
            self.note = f"no guard, all answers are {answers}: {error}"
        # What is wished for comes first, which is what new streams have.
        self.modes = tuple(sorted(self.modes, key=lambda mode: mode != wish.guard))
        self._fresh = self._model.snapshot()

    @classmethod
    def load(cls, path: Path, wish: Wish) -> "SharedModel":
        """Load a bundle to serve it.

        Raises:
            InputError: as `Bundle.load` and `SharedModel`.
        """
        return cls(Bundle.load(path), path.resolve().name, wish)

    @property
    def shape(self) -> Preprocessing:
        """Size and channels of the images that the network takes."""
        return self.bundle.preprocessing

    @property
    def state_bytes(self) -> int:
        """Size of a stream's state."""
        return self._fresh.nbytes

    @property
    def guarded(self) -> bool:
        """Whether a guard chooses between the two models."""
        return isinstance(self._model, Guard)

    def may_have(self, mode: Any, *, guarded: bool) -> bool:
        """Whether a stream may keep its mode with this model.

        Without a guard ``off`` is all that there is, and nobody's wish: with a guard, it ends.

        Args:
            mode: The stream's.
            guarded: Whether there was a guard when it had this mode.
        """
        return mode in self.modes and (guarded or not self.guarded or mode != "off")

    def warm_up(self) -> None:
        """Answer for batches of noise, so that the first request waits for nothing."""
        shape = self.shape
        draw = torch.Generator().manual_seed(0)
        for count in (1, 4):
            size = (count, shape.channels, shape.height, shape.width)
            self(torch.randint(256, size, generator=draw, dtype=torch.uint8), self.modes[0])
        self._model.restore(self._fresh)

    def __call__(self, images: Tensor, mode: Mode) -> Answers:
        """Adapt to a batch with the present state, and say what both models answer.

        Args:
            images: As for `Adapter`.
            mode: One of `modes`.

        Raises:
            ArithmeticError: the answers are no numbers, as by a state that somebody has made.
        """
        answers = self._answers(images, mode)
        if not answers.finite:
            raise ArithmeticError("the answers are no finite numbers")
        return answers

    def _answers(self, images: Tensor, mode: Mode) -> Answers:
        if isinstance(self._model, Guard) and mode != "off":
            self._model.mode = mode
            self._model(images)
            verdict, both = self._model.verdict, self._model.both
            assert verdict is not None and both is not None
            frozen, adapted = both
            use = (
                verdict.use_adapted if mode == "bounded" else torch.zeros_like(verdict.use_adapted)
            )
            return Answers(frozen.cpu(), adapted.cpu(), use.cpu(), verdict)
        if isinstance(self._model, Guard):
            self._model.mode = mode
        adapted = self._model(images).cpu()
        use = torch.full((len(adapted),), mode != "shadow")
        frozen = adapted if self._frozen is self.adapter else self._frozen(images).cpu()
        return Answers(frozen, adapted, use, None)

    def fresh(self) -> AdapterState:
        """The state of a stream that has seen nothing."""
        tensors = {name: tensor.clone() for name, tensor in self._fresh.tensors.items()}
        return AdapterState(tensors, self._fresh.belongs)

    def swap(self, state: AdapterState) -> None:
        """Exchange the present state for another, in place."""
        self._model.swap(state)

    def snapshot(self) -> AdapterState:
        """A copy of the present state."""
        return self._model.snapshot()

    def own(self, tensors: Mapping[str, Tensor], belongs: Mapping[str, Any]) -> AdapterState:
        """A state from a file as one of this model.

        Raises:
            InputError: it is of another bundle, method, settings or guard.
        """
        mine = self._fresh
        check = check_guarded if self.guarded else check_belongs
        check(belongs, mine.belongs)
        for name, tensor in mine.tensors.items():
            given = tensors.get(name)
            if given is None or given.shape != tensor.shape or given.dtype != tensor.dtype:
                raise InputError(f"the state has no fitting {name!r}; give one of this bundle.")
        device = self.adapter.device
        return AdapterState({n: tensors[n].to(device) for n in mine.tensors}, mine.belongs)
