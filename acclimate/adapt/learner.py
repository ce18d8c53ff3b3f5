"""A model, an objective and an optimiser: what learns from a batch, answers for it, and forgets."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from acclimate.adapt.normalisation import batch_statistics
from acclimate.adapt.parameters import Backup, batch_norms, select_parameters
from acclimate.backbones import Classifier, to_the_end
from acclimate.errors import InputError
from acclimate.methods import AdapterSettings
from acclimate.objectives import Objective
from acclimate.preprocessing import Preprocessing
from acclimate.randomness import key
from acclimate.runtime.precision import autocast


class Learner:
    """One moving copy of a model; all that moves is allocated here, once.

    Args:
        model: Copied.
        objective: What steps minimise; copied. None takes no steps.
        settings: How to learn.
        preprocessing: From images in 0..1 to what the model takes.
        device: Where to run.

    Attributes:
        moving: The parameters that steps change.
        least_images: From fewer there is no loss, or batch norm would see a single value.
        refused: How often a step or an answer was undone because it was not finite.

    Raises:
        InputError: weights that are not finite, or parameters that do not exist or that the
            objective's gradient does not reach.
    """

    def __init__(
        self,
        model: Classifier,
        objective: Objective | None,
        settings: AdapterSettings,
        preprocessing: Preprocessing,
        device: torch.device,
    ):
        self.settings, self.preprocessing, self.device = settings, preprocessing, device
        self.model = copy.deepcopy(model).to(device).to(memory_format=torch.channels_last)
        self.model.requires_grad_(False).eval()
        if not all(tensor.isfinite().all() for tensor in self.model.state_dict().values()):
            raise InputError("the bundle's weights hold NaN or infinity; make the bundle anew.")
        self.objective = None if objective is None else _copied(objective, settings, device)
        self.refused = 0
        self.least_images = self.objective.least_images if self.objective else 1
        self._norms = batch_norms(self.model.encoder)
        self._source_statistics = [
            (norm.get_buffer("running_mean").clone(), norm.get_buffer("running_var").clone())
            for norm in self._norms
        ]
        statistics = [buffer for norm in self._norms for buffer in norm.buffers()]
        statistics += self.objective.buffers() if self.objective else []
        self._last_statistics = Backup(statistics)
        self.moving: list[Tensor] = []
        self._optimizer = None
        if self.objective is not None:
            self.moving = self._reached()
            self._optimizer = _make_optimizer(self.moving, settings)
        self._source = Backup([p.detach() for p in self.moving] + statistics)
        if self._optimizer:
            # A step on zero gradients allocates the optimiser's state: snapshots have one form.
            for parameter in self.moving:
                parameter.grad = torch.zeros_like(parameter)
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
            self.forget()

    @property
    def state(self) -> list[Tensor]:
        """Every tensor that learning changes, apart from the optimiser's."""
        return self._source.tensors

    @property
    def optimizer_state(self) -> list[Tensor]:
        """What the optimiser remembers of earlier steps."""
        states = self._optimizer.state.values() if self._optimizer else ()
        found = [value for state in states for value in state.values()]
        return [value for value in found if isinstance(value, Tensor)]

    @property
    def held(self) -> list[Tensor]:
        """Every tensor that is kept beside the model: copies, the optimiser's, the objective's."""
        objective = self.objective
        parts = [*objective.parameters(), *objective.buffers()] if objective else []
        statistics = [tensor for pair in self._source_statistics for tensor in pair]
        copies = [*self._source.copies, *self._last_statistics.copies]
        return [*copies, *statistics, *self.optimizer_state, *parts]

    @torch.no_grad()
    def forget(self) -> None:
        """Go back to the source weights, in place."""
        self._source.restore()
        state = self.optimizer_state
        if state:
            torch._foreach_zero_(state)

    def episode(
        self,
        context: Float[Tensor, "context 3 size size"],
        index: Int64[Tensor, " context"],
        fresh: int,
        *,
        every: bool = False,
    ) -> list[Float[Tensor, "fresh classes"]]:
        """Learn from images, and answer for the last of them.

        Args:
            context: 0..1, not normalised.
            index: Their numbers in the stream.
            fresh: How many of them are to be answered for.
            every: Answer before the first step and after each one, not only after the last.
        """
        if self.settings.reset == "batch":
            self.forget()
        answers = [self.predict(context, fresh)] if every else []
        for step in range(self.settings.steps):
            self.step(context, index, step)
            if every:
                answers.append(self.predict(context, fresh))
        return answers or [self.predict(context, fresh)]

    def step(
        self,
        context: Float[Tensor, "context 3 size size"],
        index: Int64[Tensor, " context"],
        number: int,
    ) -> None:
        """One gradient step on the objective; undone if its loss or gradient is not finite.

        Args:
            context: 0..1, not normalised.
            index: Their numbers in the stream.
            number: Of the step: each draws other views.
        """
        objective, optimizer = self.objective, self._optimizer
        if objective is None or optimizer is None or len(context) < self.least_images:
            return
        self._last_statistics.keep()
        loss = self._backward(context, index, number)
        gradients = [p.grad for p in self.moving if p.grad is not None]
        if torch.isfinite(loss + torch.stack(torch._foreach_norm(gradients)).sum()):
            optimizer.step()
        else:
            self._last_statistics.restore()
            self.refused += 1
        optimizer.zero_grad(set_to_none=True)

    def _backward(self, context: Tensor, index: Tensor, step: int) -> Tensor:
        """The loss; its gradients are left in the parameters."""
        assert self.objective is not None
        drawn = self.objective.draw(context, key(self.settings.seed, "adapt", step), index)
        views = self.preprocessing.normalize(drawn[0])
        with self._learning(), torch.enable_grad():
            with autocast(self.device, self.settings.precision):
                loss = self.objective(self.model, views, *drawn[1:])
            loss.backward()
        return loss.detach()

    def _reached(self) -> list[Tensor]:
        """Those of the chosen parameters that the objective's gradient reaches: one trial shows."""
        objective, size = self.objective, self.preprocessing.size
        assert objective is not None
        chosen: list[Tensor] = list(select_parameters(self.model.encoder, self.settings.parameters))
        if self.settings.auxiliary:
            chosen += objective.requires_grad_(True).parameters()
        count = max(2, self.least_images)
        number = torch.arange(count * 3 * size * size, device=self.device)
        images = (number % 251 / 250).view(count, 3, size, size)  # of no effect: any will do
        self._last_statistics.keep()
        with _values_a_channel([*self._norms, *batch_norms(objective)]) as values:
            self._backward(images, torch.arange(count, device=self.device), 0)
        self._last_statistics.restore()
        if count in values:  # of a single image there would be a single value: no statistics
            self.least_images = count
        reached: list[Tensor] = [parameter for parameter in chosen if parameter.grad is not None]
        for parameter in chosen:
            parameter.requires_grad_(parameter.grad is not None)
            parameter.grad = None
        if not reached:
            raise InputError(
                f"none of the parameters {self.settings.parameters!r} takes part in what the "
                f"objective computes; choose others."
            )
        return reached

    def predict(self, context: Tensor, fresh: int) -> Tensor:
        """Logits of the last ``fresh`` images; from the source weights if others blew up."""
        normalized = self.preprocessing.normalize(context)
        logits = self._forward(normalized)
        if not torch.isfinite(logits).all():
            self.forget()
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
        modules = [*self._norms, *([self.objective] if self.objective else [])]
        for module in modules:
            module.train(own)
        running = self.settings.normalisation == "running"
        try:
            with to_the_end() if running and self._norms else nullcontext():
                yield
        finally:
            for module in modules:
                module.eval()


@contextmanager
def _values_a_channel(norms: list[_BatchNorm]) -> Iterator[set[int]]:
    """Within it, over how many values layers in training mode take their statistics."""
    seen: set[int] = set()

    def note(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if norm.training:
            seen.add(inputs[0].numel() // inputs[0].shape[1])

    handles = [norm.register_forward_pre_hook(note) for norm in norms]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _copied(objective: Objective, settings: AdapterSettings, device: torch.device) -> Objective:
    own = copy.deepcopy(objective).to(device)
    # As the model, and whether it was just trained or read from a file: the same kernels.
    own.to(memory_format=torch.channels_last).requires_grad_(False).eval()
    if settings.temperature is not None:
        _set_temperature(own, settings.temperature)
    return own


def _set_temperature(objective: Objective, temperature: float) -> None:
    if not hasattr(objective, "temperature"):
        raise InputError(
            f"{type(objective).__name__} has no temperature; leave the setting at None."
        )
    objective.temperature = temperature  # type: ignore[assignment]


def _make_optimizer(parameters: list[Tensor], settings: AdapterSettings) -> torch.optim.Optimizer:
    if settings.optimizer == "adam":
        return torch.optim.Adam(parameters, settings.learning_rate, fused=True)
    momentum = settings.momentum
    return torch.optim.SGD(parameters, settings.learning_rate, momentum=momentum, fused=True)
