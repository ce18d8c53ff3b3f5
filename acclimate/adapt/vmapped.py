"""Images learned from alone, all in the same kernels: for devices that need large kernels.

One model, and as many sets of its moving parameters as there are images.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import batch_norm
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from acclimate.adapt.learner import REFUSED, Learner
from acclimate.backbones import Classifier
from acclimate.methods import AdapterSettings
from acclimate.objectives import Objective, as_outcome
from acclimate.parts.blended import BlendedStatistics
from acclimate.parts.normalisation import SourceStatistics
from acclimate.parts.step import Step
from acclimate.parts.update import SGD, Adam, AdamW, allocate_state
from acclimate.randomness import key
from acclimate.runtime.precision import autocast

_ELEMENTWISE = (SGD, Adam, AdamW)
"""Optimisers that move each number by itself, so that one moves the numbers of all images."""


def can_vmap(learner: Learner) -> bool:
    """Whether each image starts from the source, and steps are arithmetic of its own numbers."""
    settings = learner.settings
    if learner.objective is None or _of_own_input(learner.model, learner.objective):
        return False
    plain = AdapterSettings(
        steps=settings.steps,
        objective=settings.objective,
        update=settings.update,
        normalisation=settings.normalisation,
        one_by_one=settings.one_by_one,
        seed=settings.seed,
        precision=settings.precision,
    )
    arithmetic = isinstance(settings.normalisation, SourceStatistics | BlendedStatistics)
    return settings == plain and type(settings.update) in _ELEMENTWISE and arithmetic


def vmapped(
    learner: Learner,
    images: Float[Tensor, "batch 3 size size"],
    index: Int64[Tensor, " batch"],
    *,
    every: bool = False,
) -> tuple[list[Float[Tensor, "batch classes"]], list[Step]]:
    """As `acclimate.adapt.alone.adapt_alone` with one learner, up to rounding.

    Args:
        learner: Must begin every image from the source weights; see `can_vmap`. It is left as it
            was, but for the steps and answers that it counts as refused.
        images: 0..1, not normalised.
        index: Index of each image in the stream.
        every: Answer before the first step and after each one, not only after the last.
    """
    learner.state.forget()
    group = _Group(learner, len(images))
    normalized = learner.preprocessing.normalize(images)
    logits, steps = [], []
    for number in range(learner.settings.steps):
        if every:
            logits.append(group.logits(normalized))
        steps.append(group.step(images, index, number))
    return [*logits, group.logits(normalized)], steps


class _Pair(nn.Module):
    """Model and objective as one module, so that one dictionary names the parameters of both."""

    def __init__(self, model: Classifier, objective: Objective):
        super().__init__()
        self.model = model
        self.objective = objective

    def forward(self, *drawn: Tensor) -> Tensor:
        return as_outcome(self.objective(self.model, *drawn)).losses.mean()


def _of_own_input(*modules: nn.Module) -> bool:
    """Whether a batch norm keeps no statistics, and so normalises by those of its input."""
    norms = (each for module in modules for each in module.modules())
    return any(isinstance(each, _BatchNorm) and each.running_mean is None for each in norms)


class _PlainBatchNorm(TorchFunctionMode):
    """Within it, batch norm is arithmetic on tensors: vmap cannot call cuDNN's kernel."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return _ARITHMETIC.get(func, func)(*args, **(kwargs or {}))


def _by_statistics(
    x, mean, variance, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5
) -> Tensor:
    """`torch.nn.functional.batch_norm` in evaluation mode, by arithmetic."""
    assert not training
    scale = (variance + eps).rsqrt() if weight is None else weight * (variance + eps).rsqrt()
    shift = -mean * scale if bias is None else bias - mean * scale
    scale, shift = (part.view(-1, *[1] * (x.ndim - 2)) for part in (scale, shift))
    return (x * scale + shift).to(x.dtype)  # in float32, and back


def _statistics(x, running_mean, running_var, momentum) -> tuple[Tensor, Tensor]:
    """`torch.batch_norm_update_stats`, but running averages stay: mean and biased variance."""
    precise = x.to(torch.promote_types(x.dtype, torch.float32))
    variance, mean = torch.var_mean(precise, (0, *range(2, x.ndim)), correction=0)
    return mean, variance


@contextmanager
def _arithmetic(device: torch.device) -> Iterator[None]:
    """Within it no kernel is called that vmap would call once for each image."""
    attention = sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()
    with _PlainBatchNorm(), attention:
        yield


_ARITHMETIC = {batch_norm: _by_statistics, torch.batch_norm_update_stats: _statistics}


class _Group:
    """A learner's moving parameters, a copy for each image."""

    def __init__(self, learner: Learner, count: int):
        assert learner.objective is not None
        self.learner, self.count = learner, count
        self.pair = _Pair(learner.model, learner.objective)
        moving = {id(parameter) for parameter in learner.moving.values()}
        every = dict(self.pair.named_parameters()) | dict(self.pair.named_buffers())
        tensors = {name: tensor.detach() for name, tensor in every.items()}
        own = [name for name, tensor in every.items() if id(tensor) in moving]
        self.frozen = {name: tensor for name, tensor in tensors.items() if name not in own}
        self.own = {name: tensors[name].expand(count, *tensors[name].shape).clone() for name in own}
        assert isinstance(learner.settings.update, _ELEMENTWISE)
        self.optimizer = learner.settings.update.build(self.own.values())
        allocate_state(self.optimizer, list(self.own.values()))

    def step(self, images: Tensor, index: Tensor, step: int) -> Step:
        """One step of the optimiser for each image whose loss and gradient are finite."""
        settings = self.learner.settings
        views, *rest = self.pair.objective.draw(images, key(settings.seed, "adapt", step), index)
        drawn = [self.learner.preprocessing.normalize(views), *rest]
        alone = [part.unflatten(0, (self.count, -1)) for part in drawn]
        with autocast(self.learner.device, settings.precision), _arithmetic(self.learner.device):
            gradients, losses = vmap(grad_and_value(self._loss))(self.own, *alone)
        flat = [gradient.flatten(1) for gradient in gradients.values()]
        finite = losses.isfinite()
        for gradient in flat:
            finite &= gradient.isfinite().all(1)
        norms = torch.stack([torch.linalg.vector_norm(gradient, dim=1) for gradient in flat])
        before = [tensor.clone() for tensor in self._rows()]
        for name, gradient in gradients.items():
            # Fused optimisers need a gradient in the memory layout of its parameter.
            self.own[name].grad = torch.empty_like(self.own[name]).copy_(gradient)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        for tensor, old in zip(self._rows(), before):
            tensor.copy_(torch.where(_along(finite, tensor), tensor, old))
        report = Step(
            losses.detach(),
            torch.linalg.vector_norm(norms, dim=0),
            torch.ones_like(finite, dtype=torch.int64),
            finite,
        )
        return self.learner.counted(report)

    def logits(self, normalized: Tensor) -> Float[Tensor, "batch classes"]:
        """Each image's logits by its own parameters, or by the source's if they are not finite."""
        with autocast(self.learner.device, self.learner.settings.precision):
            logits = self._of_each(normalized)
            finite: Bool[Tensor, "batch 1"] = logits.isfinite().all(1, keepdim=True)
            if finite.all():
                return logits
            self.learner.counts[REFUSED] += (~finite).sum()
            self._forget(~finite.squeeze(1))
            return torch.where(finite, logits, self._of_each(normalized))

    def _of_each(self, normalized: Tensor) -> Float[Tensor, "batch classes"]:
        """Each image's logits by its own parameters."""
        with _arithmetic(self.learner.device):
            return vmap(self._logits)(self.own, normalized[:, None]).squeeze(1).float()

    def _forget(self, which: Bool[Tensor, " batch"]) -> None:
        """Reset some images' parameters to the source."""
        source = dict(self.pair.named_parameters())
        for tensor in self._rows():
            tensor[which] = 0  # the optimiser's state, too
        for name, tensor in self.own.items():
            tensor[which] = source[name].detach()

    def _rows(self) -> list[Tensor]:
        """Each tensor with a row an image: parameters, and the optimiser's state of them."""
        states = [value for state in self.optimizer.state.values() for value in state.values()]
        kept = [value for value in states if isinstance(value, Tensor) and value.ndim]
        return [*self.own.values(), *kept]

    def _loss(self, own: dict[str, Tensor], *drawn: Tensor) -> Tensor:
        return functional_call(self.pair, {**self.frozen, **own}, drawn)

    def _logits(self, own: dict[str, Tensor], normalized: Tensor) -> Tensor:
        prefix = "model."
        tensors = {**self.frozen, **own}
        named = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        return functional_call(self.learner.model, named, (normalized,))


def _along(which: Bool[Tensor, " batch"], tensor: Tensor) -> Tensor:
    """Which images are meant, in a shape that goes with a tensor that has a row for each."""
    return which.view(-1, *[1] * (tensor.ndim - 1))
