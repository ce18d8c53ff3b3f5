"""The Adapter: learn from a batch without labels, then answer for it."""

import math
from dataclasses import dataclass, fields, replace
from typing import Any, get_args, get_type_hints

import torch
from jaxtyping import Float
from torch import Tensor

from acclimate.adapt.cost import Cost, measure_cost
from acclimate.adapt.learner import Learner
from acclimate.adapt.one_by_one import one_by_one, threads
from acclimate.backbones import Classifier
from acclimate.bundle import Bundle
from acclimate.errors import InputError, unknown_name
from acclimate.methods import AdapterSettings, check_model, method
from acclimate.objectives import Objective
from acclimate.preprocessing import check_images
from acclimate.runtime.precision import undisturbed


@dataclass(frozen=True)
class Snapshot:
    """An adapter's whole state at one moment, apart from its bundle and settings."""

    state: tuple[Tensor, ...]
    optimizer: tuple[Tensor, ...]
    recent: Tensor | None
    seen: int
    refused: int


class Adapter:
    """Adapts a bundle's model to unlabelled images, and answers for them.

    ```python
    adapter = acclimate.Adapter(bundle)
    logits = adapter(images)
    ```

    The bundle is not changed. Whatever moves is allocated here, once.

    Args:
        bundle: From `acclimate.align` or `Bundle.load`.
        name: A name of `acclimate.methods.METHODS`; None takes the bundle's method.
        settings: Used instead of the method's own.
        device: Where to run; None takes a GPU if there is one.
        changes: Single settings to change, e.g. ``steps=1, reset="never"``; see
            `acclimate.AdapterSettings`.

    Attributes:
        settings: As used.

    Raises:
        InputError: an unknown method, one whose model the bundle lacks, or impossible settings.
    """

    def __init__(
        self,
        bundle: Bundle,
        name: str | None = None,
        settings: AdapterSettings | None = None,
        *,
        device: str | torch.device | None = None,
        **changes: Any,
    ):
        name = name or bundle.method
        row = method(name)
        self.settings = _changed(settings or row.settings, changes)
        check_settings(self.settings)
        if self.settings.steps and row.objective is None:
            raise InputError(f"{name} takes no gradient steps; set steps to 0.")
        self.preprocessing = bundle.preprocessing
        self.device = _device(device)
        model = model_of(bundle, name)
        alone = self.settings.one_by_one and self.settings.reset == "batch"
        with undisturbed(self.device):
            objective = _objective(bundle, name, model) if self.settings.steps else None
            self._learners = [
                Learner(model, objective, self.settings, self.preprocessing, self.device)
                for _ in range(threads(self.device) if alone else 1)
            ]
        if self.settings.one_by_one and self._first.least_images > 1:
            raise InputError(f"{name} cannot learn from one image; leave one_by_one at False.")
        self._recent: Tensor | None = None
        self._seen = 0

    def __call__(self, images: Tensor) -> Float[Tensor, "batch classes"]:
        """Adapt to a batch, then answer for it.

        Args:
            images: ``[batch, 3, height, width]``, any batch size and image size, uint8 0..255 or
                float 0..1, not normalised.

        Returns:
            Logits, float32, always finite.

        Raises:
            InputError: what is given is no batch of images, or holds NaN.
        """
        return self._answers(images, every=False)[-1]

    def trace(self, images: Tensor) -> Float[Tensor, "steps+1 batch classes"]:
        """As calling the adapter, but with the answers before the first and after every step.

        Args:
            images: As for calling.

        Raises:
            InputError: as calling.
        """
        return torch.stack(self._answers(images, every=True))

    def reset(self) -> None:
        """Forget all that was learned and seen: the next answer is that of a new adapter."""
        for learner in self._learners:
            learner.forget()
            learner.refused = 0
        self._recent, self._seen = None, 0

    @property
    def model(self) -> Classifier:
        """What has learned, and answers; of several learners, each with images alone, the first."""
        return self._first.model

    @property
    def objective(self) -> Objective | None:
        """What the steps minimise, with its parts as they are now; None takes no steps."""
        return self._first.objective

    @property
    def refused(self) -> int:
        """How often a step or an answer was undone because it was not finite."""
        return sum(learner.refused for learner in self._learners)

    def snapshot(self) -> Snapshot:
        """A copy of the present state, for `restore`."""
        with torch.inference_mode(False):
            return Snapshot(
                tuple(tensor.clone() for tensor in self._first.state),
                tuple(tensor.clone() for tensor in self._first.optimizer_state),
                None if self._recent is None else self._recent.clone(),
                self._seen,
                self.refused,
            )

    @torch.no_grad()
    def restore(self, snapshot: Snapshot) -> None:
        """Go back to a snapshot of this adapter, or of one made alike: the same future follows."""
        self.reset()
        for tensor, value in zip(self._first.state, snapshot.state, strict=True):
            tensor.copy_(value)
        for tensor, value in zip(self._first.optimizer_state, snapshot.optimizer, strict=True):
            tensor.copy_(value)
        self._recent = None if snapshot.recent is None else snapshot.recent.clone()
        self._seen, self._first.refused = snapshot.seen, snapshot.refused

    def cost(self, batch: int = 128) -> Cost:
        """Measure what an image costs when this many come together; nothing is learned from it.

        Raises:
            InputError: no image.
        """
        if batch < 1:
            raise InputError(f"the cost is that of a batch of at least 1 image, not {batch}.")
        with undisturbed(self.device):
            cost = measure_cost(self._first, 1 if self.settings.one_by_one else batch)
        more = [
            tensor
            for learner in self._learners[1:]
            for tensor in (*learner.held, *learner.model.state_dict().values())
        ]
        return replace(cost, held_bytes=cost.held_bytes + sum(tensor.nbytes for tensor in more))

    def _answers(self, images: Tensor, *, every: bool) -> list[Tensor]:
        """The answers before the first step and after each, or only the last."""
        check_images(images)
        with undisturbed(self.device):
            unit = self.preprocessing.unit(images.to(self.device))
            if self.settings.one_by_one:
                index = torch.arange(self._seen, self._seen + len(unit), device=self.device)
                answers = one_by_one(self._learners, unit, index, every=every)
            else:
                context = self._with_recent(unit)
                first = self._seen + len(unit) - len(context)
                index = torch.arange(first, first + len(context), device=self.device)
                answers = self._first.episode(context, index, len(unit), every=every)
            self._seen += len(unit)
        return answers

    def _with_recent(self, unit: Tensor) -> Tensor:
        """A batch too small to learn from, with the last images seen before it."""
        objective = self._first.objective
        fewest = objective.fewest_images if objective else 1
        context = unit
        if len(unit) < fewest and self._recent is not None:
            context = torch.cat([self._recent, unit])[-max(fewest, len(unit)) :]
        self._recent = context[-fewest:].clone()
        return context

    @property
    def _first(self) -> Learner:
        """The only learner, unless images are learned from one by one on several threads."""
        return self._learners[0]


def _objective(bundle: Bundle, name: str, model: Classifier) -> Objective | None:
    """What a method's steps minimise: trained with the bundle, or made on the spot."""
    row = method(name)
    if row.objective is None or row.objective is type(bundle.objective):
        return bundle.objective if row.objective else None
    return row.objective(model, bundle.preprocessing)


def model_of(bundle: Bundle, name: str) -> Classifier:
    """Which of the bundle's models a method adapts.

    Raises:
        InputError: the bundle lacks what the method needs.
    """
    row = method(name)
    if row.model == "twin" and bundle.twin is None:
        raise InputError(
            f"this bundle has no aligned twin, which {name} needs; make one with acclimate align."
        )
    if row.recipe not in ("supervised", bundle.recipe):
        raise InputError(
            f"this bundle was made for {bundle.recipe}, not for {name}; make one with "
            f"acclimate train {name}."
        )
    model = bundle.classifier
    if row.model == "twin" and bundle.twin is not None:
        model = bundle.twin
    check_model(name, model)
    return model


def check_settings(settings: AdapterSettings) -> None:
    """Refuse settings that cannot be meant.

    Raises:
        InputError: a negative or non-finite number, or an unknown choice.
    """
    if not isinstance(settings.steps, int):
        raise InputError(f"steps must be a whole number, not {settings.steps!r}.")
    for name in ("steps", "learning_rate", "momentum", "prior"):
        value = getattr(settings, name)
        if not (math.isfinite(value) and value >= 0):
            raise InputError(f"{name} must be a finite number, 0 or more, not {value}.")
    temperature = settings.temperature
    if temperature is not None and not (math.isfinite(temperature) and temperature > 0):
        raise InputError(f"temperature must be above 0, not {temperature}.")
    hints = get_type_hints(AdapterSettings)
    for name in ("optimizer", "normalisation", "reset", "precision"):
        choices = get_args(hints[name])
        if getattr(settings, name) not in choices:
            raise unknown_name(name, getattr(settings, name), choices)


def _device(name: str | torch.device | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"there is no device {name!r} here ({reason}); use cpu.") from error
    return torch.device(name)


def _changed(settings: AdapterSettings, changes: dict[str, Any]) -> AdapterSettings:
    known = [field.name for field in fields(settings)]
    for name in changes:
        if name not in known:
            raise unknown_name("setting", name, known)
    return replace(settings, **changes)
