"""The Adapter: learn from a batch without labels, then answer for it."""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields, replace
from typing import Any, get_args, get_type_hints

import torch
from jaxtyping import Float
from torch import Tensor

from acclimate.adapt.normalisation import batch_statistics
from acclimate.adapt.parameters import Backup, batch_norms, select_parameters
from acclimate.backbones import Classifier
from acclimate.bundle import Bundle
from acclimate.errors import InputError, unknown_name
from acclimate.methods import AdapterSettings, method
from acclimate.precision import autocast
from acclimate.preprocessing import check_images
from acclimate.randomness import key


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
        refused: How often a step or an answer was undone because it was not finite.

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
        model = bundle.twin if row.model == "twin" else bundle.classifier
        if model is None:
            raise InputError(
                f"this bundle has no aligned twin, which {name} needs; make one with acclimate "
                f"align."
            )
        self.settings = _changed(settings or row.settings, changes)
        check_settings(self.settings)
        if self.settings.steps and row.objective is None:
            raise InputError(f"{name} takes no gradient steps; set steps to 0.")
        self.preprocessing = bundle.preprocessing
        self.objective = None
        if self.settings.steps and row.objective is not None:
            self.objective = row.objective(self.settings, bundle.objective)
        self.device = _device(device)
        with torch.inference_mode(False):
            self._allocate(model)
        self._recent: Tensor | None = None
        self._seen = 0
        self.refused = 0

    def _allocate(self, model: Classifier) -> None:
        self.model = copy.deepcopy(model).to(self.device).to(memory_format=torch.channels_last)
        self.model.requires_grad_(False).eval()
        if not all(tensor.isfinite().all() for tensor in self.model.state_dict().values()):
            raise InputError("the bundle's weights hold NaN or infinity; make the bundle anew.")
        self._norms = batch_norms(self.model.encoder)
        statistics = [buffer for norm in self._norms for buffer in norm.buffers()]
        self._moving: list[Tensor] = []
        self._optimizer = None
        if self.settings.steps:
            self._moving = list(select_parameters(self.model.encoder, self.settings.parameters))
            self._optimizer = _make_optimizer(self._moving, self.settings)
        self._source = Backup([p.detach() for p in self._moving] + statistics)
        self._last_statistics = Backup(statistics)
        self._source_statistics = [
            (norm.get_buffer("running_mean").clone(), norm.get_buffer("running_var").clone())
            for norm in self._norms
        ]
        if self._optimizer:
            # A step on zero gradients allocates the optimiser's state: snapshots have one form.
            for parameter in self._moving:
                parameter.grad = torch.zeros_like(parameter)
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
            self._back_to_source()

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
        return self._answers(images, before=False)[-1]

    def trace(self, images: Tensor) -> Float[Tensor, "steps+1 batch classes"]:
        """As calling the adapter, but with the answers before the first and after every step.

        Args:
            images: As for calling.

        Raises:
            InputError: as calling.
        """
        return torch.stack(self._answers(images, before=True))

    def reset(self) -> None:
        """Forget all that was learned and seen: the next answer is that of a new adapter."""
        self._back_to_source()
        self._recent, self._seen, self.refused = None, 0, 0

    def snapshot(self) -> Snapshot:
        """A copy of the present state, for `restore`."""
        with torch.inference_mode(False):
            return Snapshot(
                tuple(tensor.clone() for tensor in self._source.tensors),
                tuple(tensor.clone() for tensor in self._optimizer_state()),
                None if self._recent is None else self._recent.clone(),
                self._seen,
                self.refused,
            )

    @torch.no_grad()
    def restore(self, snapshot: Snapshot) -> None:
        """Go back to a snapshot of this adapter, or of one made alike: the same future follows."""
        self._back_to_source()
        for tensor, value in zip(self._source.tensors, snapshot.state, strict=True):
            tensor.copy_(value)
        for tensor, value in zip(self._optimizer_state(), snapshot.optimizer, strict=True):
            tensor.copy_(value)
        self._recent = None if snapshot.recent is None else snapshot.recent.clone()
        self._seen, self.refused = snapshot.seen, snapshot.refused

    def _answers(self, images: Tensor, *, before: bool) -> list[Tensor]:
        """The answers before the first step and after each, or only the last."""
        check_images(images)
        with torch.inference_mode(False), torch.no_grad():
            unit = self.preprocessing.unit(images.to(self.device))
            context = self._with_recent(unit)
            if self.settings.reset == "batch":
                self._back_to_source()
            answers = [self._predict(context, len(unit))] if before else []
            for step in range(self.settings.steps):
                self._step(context, step, self._seen + len(unit) - len(context))
                if before:
                    answers.append(self._predict(context, len(unit)))
            if not before:
                answers.append(self._predict(context, len(unit)))
            self._seen += len(unit)
        return answers

    def _with_recent(self, unit: Tensor) -> Tensor:
        """A batch too small to learn from, with the last images seen before it."""
        fewest = self.objective.fewest_images if self.objective else 1
        context = unit
        if len(unit) < fewest and self._recent is not None:
            context = torch.cat([self._recent, unit])[-max(fewest, len(unit)) :]
        self._recent = context[-fewest:].clone()
        return context

    def _step(self, context: Tensor, step: int, first: int) -> None:
        """One gradient step on the objective; undone if its loss or gradient is not finite."""
        objective, optimizer = self.objective, self._optimizer
        if objective is None or optimizer is None or len(context) < 2:
            return  # one image alone has nothing to be told apart from
        self._last_statistics.keep()
        index = torch.arange(first, first + len(context), device=self.device)
        views = objective.draw(context, key(self.settings.seed, "adapt", step), index)
        with self._learning(), torch.enable_grad():
            with autocast(self.device, self.settings.precision):
                loss = objective(self.model, self.preprocessing.normalize(views))
            loss.backward()
        gradients = [p.grad for p in self._moving if p.grad is not None]
        if torch.isfinite(loss + torch.stack(torch._foreach_norm(gradients)).sum()):
            optimizer.step()
        else:
            self._last_statistics.restore()
            self.refused += 1
        optimizer.zero_grad(set_to_none=True)

    def _predict(self, context: Tensor, fresh: int) -> Tensor:
        """Logits of the last ``fresh`` images; from the source weights if others blew up."""
        normalized = self.preprocessing.normalize(context)
        logits = self._forward(normalized)
        if not torch.isfinite(logits).all():
            self._back_to_source()
            self.refused += 1
            logits = self._forward(normalized)
        return logits[-fresh:]

    def _forward(self, normalized: Tensor) -> Tensor:
        statistics = nullcontext()
        if self.settings.normalisation == "batch":
            statistics = batch_statistics(self._norms, self._source_statistics, self.settings.prior)
        with statistics, autocast(self.device, self.settings.precision):
            return self.model(normalized).float()

    @contextmanager
    def _learning(self) -> Iterator[None]:
        """Batch norm normalises by the views' own statistics and keeps running averages."""
        own = self.settings.normalisation != "source"
        for norm in self._norms:
            norm.train(own)
        try:
            yield
        finally:
            for norm in self._norms:
                norm.eval()

    @torch.no_grad()
    def _back_to_source(self) -> None:
        self._source.restore()
        state = self._optimizer_state()
        if state:
            torch._foreach_zero_(state)

    def _optimizer_state(self) -> list[Tensor]:
        states = self._optimizer.state.values() if self._optimizer else ()
        return [value for state in states for value in state.values()]


def check_settings(settings: AdapterSettings) -> None:
    """Refuse settings that cannot be meant.

    Raises:
        InputError: a negative or non-finite number, or an unknown choice.
    """
    if not isinstance(settings.steps, int):
        raise InputError(f"steps must be a whole number, not {settings.steps!r}.")
    for name in ("steps", "learning_rate", "prior"):
        value = getattr(settings, name)
        if not (math.isfinite(value) and value >= 0):
            raise InputError(f"{name} must be a finite number, 0 or more, not {value}.")
    if not (math.isfinite(settings.temperature) and settings.temperature > 0):
        raise InputError(f"temperature must be above 0, not {settings.temperature}.")
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


def _make_optimizer(parameters: list[Tensor], settings: AdapterSettings) -> torch.optim.Optimizer:
    if settings.optimizer == "adam":
        return torch.optim.Adam(parameters, settings.learning_rate, fused=True)
    return torch.optim.SGD(parameters, settings.learning_rate, fused=True)
