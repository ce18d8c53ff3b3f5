"""The Adapter: learn from a batch without labels, then answer for it."""

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from acclimate.adapt.alone import adapt_alone, threads
from acclimate.adapt.chosen import model_of, objective_of, settings_for, statistics_of
from acclimate.adapt.cost import Cost, measure_cost
from acclimate.adapt.learner import REFUSED, Learner
from acclimate.adapt.loop import adapt, answer_only
from acclimate.adapt.state import AdapterState, check_belongs
from acclimate.adapt.turns import TakesTurns, building, in_turn
from acclimate.backbones import Classifier
from acclimate.bundle import Bundle
from acclimate.errors import InputError
from acclimate.methods import AdapterSettings, changed, check_settings, method, settings_record
from acclimate.objectives import Objective
from acclimate.parts.step import Step
from acclimate.preprocessing import Preprocessing, check_images
from acclimate.runtime.budget import parse_bytes
from acclimate.runtime.device import find_device
from acclimate.runtime.precision import undisturbed
from acclimate.storage import sealed


class Adapter(TakesTurns):
    """Adapts a bundle's model to unlabelled images, and answers for them.

    ```python
    adapter = acclimate.Adapter(bundle)
    logits = adapter(images)
    ```

    The bundle is not changed. All tensors that adapting changes are allocated once, here. Threads
    may share an adapter: calls wait for each other, and each goes on from the state that earlier
    calls left.

    Args:
        bundle: From `acclimate.align` or `Bundle.load`.
        name: A name of `acclimate.methods.METHODS`; None takes the bundle's method.
        settings: Used instead of the method's own.
        device: Where to run; None takes a GPU if there is one.
        memory_limit: The most memory that the process may hold while it adapts, ``"2GB"`` or a
            number of bytes; on a GPU the most that its tensors may take there. None goes by what
            the machine has free. Where a batch would take more, activations are computed anew
            instead of kept, and images that do not depend on each other come a few at a time.
            Answers are the same up to rounding.
        changes: Settings to change by name, ``steps=1, reset="never"``, and those of a part as a
            mapping, ``update={"learning_rate": 1e-4}``; see `acclimate.methods.changed`.

    Attributes:
        settings: The settings in use; a prior of None is the bundle's here.
        steps: Reports of the last batch's gradient steps.

    Raises:
        InputError: an unknown method, one whose model the bundle lacks, impossible settings, or a
            memory limit that is no size.
    """

    def __init__(
        self,
        bundle: Bundle,
        name: str | None = None,
        settings: AdapterSettings | None = None,
        *,
        device: str | torch.device | None = None,
        memory_limit: str | int | None = None,
        **changes: Any,
    ):
        super().__init__()
        limit = None if memory_limit is None else parse_bytes(memory_limit)
        self.name: str = name or bundle.method
        row = method(self.name)
        wanted = changed(settings or row.settings, changes)
        check_settings(wanted)
        self.settings: AdapterSettings = settings_for(bundle, self.name, wanted)
        self.preprocessing: Preprocessing = bundle.preprocessing
        self.device: torch.device = find_device(device)
        self.steps: list[Step] = []
        model = model_of(bundle, self.name)
        statistics = statistics_of(bundle, self.name, self.settings)
        with building, undisturbed(self.device):
            self._learners = [
                Learner(
                    model,
                    objective_of(bundle, model, self.settings, statistics),
                    self.settings,
                    self.preprocessing,
                    self.device,
                    limit,
                    statistics,
                )
                for _ in range(threads(self.settings, self.device))
            ]
        self._learner = self._learners[0]
        if self.settings.one_by_one and self._learner.min_images > 1:
            raise InputError(f"{self.name} cannot learn from one image; leave one_by_one at False.")
        self._adapt: Callable[..., tuple[list[Tensor], list[Step]]] = (
            partial(adapt_alone, self._learners)
            if self.settings.one_by_one
            else partial(adapt, self._learner)
        )

    def __repr__(self) -> str:
        return f"Adapter({self.name!r}, {self.device}, {int(self._learner.seen):,} images seen)"

    @in_turn
    def __call__(self, images: Tensor) -> Float[Tensor, "batch classes"]:
        """Adapt to a batch, then answer for it.

        Args:
            images: ``[batch, channels, height, width]``, any batch size and image size, uint8
                0..255 or float 0..1, not normalised. Images of the network's input size are taken
                as they are; others are resized and cropped as `acclimate.preprocessing` says.

        Returns:
            Logits, float32, always finite.

        Raises:
            InputError: the argument is no batch of images, or holds NaN; or the batch does not fit
                into the memory.
        """
        return self._answers(images, every=False)[-1]

    @in_turn
    def trace(self, images: Tensor) -> Float[Tensor, "steps+1 batch classes"]:
        """As calling the adapter, but with the answers before the first and after every step.

        Args:
            images: As for calling.

        Raises:
            InputError: as calling.
        """
        return torch.stack(self._answers(images, every=True))

    @in_turn
    def peek(self, images: Tensor) -> Float[Tensor, "batch classes"]:
        """The answer of the model as it is now: nothing is learned, and no state changes.

        Args:
            images: As for calling.

        Raises:
            InputError: as calling.
        """
        check_images(images, self.preprocessing.channels)
        with undisturbed(self.device):
            return answer_only(self._learner, self.preprocessing.unit(images.to(self.device)))

    def _answers(self, images: Tensor, *, every: bool) -> list[Tensor]:
        check_images(images, self.preprocessing.channels)
        with undisturbed(self.device):
            unit = self.preprocessing.unit(images.to(self.device))
            first = int(self._learner.seen)
            index = torch.arange(first, first + len(unit), device=self.device)
            logits, self.steps = self._adapt(unit, index, every=every)
            self._learner.seen += len(unit)
        return logits

    @in_turn
    def reset(self) -> None:
        """Forget all that was learned and seen: the next answer is that of a new adapter."""
        with undisturbed(self.device):
            for learner in self._learners:
                learner.state.restart()
        self.steps = []

    @property
    def model(self) -> Classifier:
        """The adapted model. With one learner per thread, the first learner's."""
        return self._learner.model

    @property
    def objective(self) -> Objective | None:
        """The objective of the steps, with its modules as they are now; None without steps."""
        return self._learner.objective

    @property
    def refused(self) -> int:
        """How often a step or an answer was undone because it was not finite."""
        return int(self._learner.counts[REFUSED])

    @in_turn
    def snapshot(self) -> AdapterState:
        """A copy of the present state, for `restore` and `swap`."""
        with torch.inference_mode(False):
            return AdapterState(self._learner.state.copy(), self._belongs)

    @in_turn
    def restore(self, state: AdapterState) -> None:
        """Go back to a state of this adapter, or of one with the same bundle, method and settings.

        Raises:
            InputError: the state is of another bundle, method or settings.
        """
        self._load(state.tensors, state.belongs)

    @in_turn
    def swap(self, state: AdapterState) -> None:
        """Exchange the present state for another, in place: ``state`` then holds the present one.

        So one adapter can serve many streams, each with a state of its own:

        ```python
        streams = {name: adapter.snapshot() for name in ("north", "south")}
        adapter.swap(streams["north"])
        logits = adapter(images)
        adapter.swap(streams["north"])
        ```

        Raises:
            InputError: the state is of another bundle, method or settings.
        """
        self._check(state.belongs)
        with undisturbed(self.device):
            self._learner.state.exchange(state.tensors)

    @in_turn
    def save(self, path: str | Path) -> None:
        """Write the present state to a sealed file.

        ```python
        adapter.save("camera.safetensors")
        ```

        Raises:
            InputError: the file cannot be written.
        """
        sealed.save(Path(path), self._learner.state.tensors, self._belongs)

    @in_turn
    def load(self, path: str | Path) -> None:
        """Go on from a state that was saved.

        ```python
        adapter = acclimate.Adapter(bundle, "cta", reset="never")  # made as the one that saved it
        adapter.load("camera.safetensors")
        ```

        Raises:
            InputError: the file is missing or damaged, or the state is of another bundle, method
                or settings.
        """
        self._load(*sealed.load(Path(path)))

    @in_turn
    def cost(self, batch: int = 128) -> Cost:
        """Measure what an image costs when this many come together; nothing is learned from it.

        Raises:
            InputError: no image.
        """
        if batch < 1:
            raise InputError(f"the cost is that of a batch of at least 1 image, not {batch}.")
        with undisturbed(self.device):
            cost = measure_cost(self._learner, 1 if self.settings.one_by_one else batch)
        more = [
            tensor
            for learner in self._learners[1:]
            for tensor in (*learner.held, *learner.model.state_dict().values())
        ]
        return replace(cost, held_bytes=cost.held_bytes + sum(tensor.nbytes for tensor in more))

    def _load(self, tensors: dict[str, Tensor], belongs: dict) -> None:
        self._check(belongs)
        with undisturbed(self.device):
            self._learner.state.load(tensors)

    def _check(self, belongs: dict) -> None:
        if belongs is not self._belongs:
            check_belongs(belongs, self._belongs)

    @cached_property
    def _belongs(self) -> dict[str, Any]:
        """Method, settings and checksum of the source weights: what states belong to."""
        learner = self._learner
        tensors = {f"model.{name}": t for name, t in learner.model.state_dict().items()}
        if learner.objective is not None:
            own = learner.objective.state_dict()
            tensors |= {f"objective.{name}": tensor for name, tensor in own.items()}
        for kind, named in learner.statistics.items():
            tensors |= {f"source.{kind}.{name}": tensor for name, tensor in named.items()}
        changing = {tensor.data_ptr(): name for name, tensor in learner.state.tensors.items()}
        sources = learner.state.sources
        for name, tensor in tensors.items():
            if tensor.data_ptr() in changing:
                source = sources[changing[tensor.data_ptr()]]
                tensors[name] = torch.zeros_like(tensor) if source is None else source
        settings = settings_record(self.settings)
        return {"method": self.name, "settings": settings, "weights": sealed.digest(tensors, "")}
