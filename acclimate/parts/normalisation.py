"""Normalisation: which statistics batch norm uses while learning and in the answer."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm
from torch.nn.modules.batchnorm import _BatchNorm

from acclimate.backbones.batch_norm import Control, batch_norms, exchange
from acclimate.backbones.taps import to_the_end
from acclimate.errors import InputError
from acclimate.parts.blended import BlendedStatistics
from acclimate.parts.checks import not_negative, share

_ALIGNMENT = 64
"""Statistics of a layer begin at multiples of so many floats, as kernels on a GPU like it."""
_WITH_ACTIVATION = ("BatchNormAct2d", "SyncBatchNormAct")
"""timm's layers that apply dropout and an activation after batch norm."""


@dataclass(frozen=True)
class SourceStatistics:
    """The source's running statistics, while learning and in the answer."""

    uses_batch: ClassVar[bool] = False
    runs: ClassVar[bool] = False


@dataclass(frozen=True)
class BatchStatistics:
    """The statistics of the batch itself: of the views while learning, of the images in the answer.

    In the answer they are blended with the source's. The batch has the weight
    ``limit * n / (n + prior)``, n the number of images; with a limit of 1 this is Schneider et al.
    2020, *Improving robustness against common corruptions by covariate shift adaptation*.
    """

    prior: float | None = 0.0
    """Weight of the source's statistics in the answer, in images. Small batches need it. None takes
    what was measured when the bundle was made, and at most the limit that was measured."""
    limit: float = 1.0
    """Largest weight of the batch's statistics in the answer, 0..1."""
    uses_batch: ClassVar[bool] = True
    runs: ClassVar[bool] = False

    def check(self) -> None:
        """Refuse settings that cannot be meant."""
        if self.prior is not None:
            not_negative("prior", self.prior)
        share("limit", self.limit)

    def learn(self, norm: "AdaptiveBatchNorm", x: Tensor) -> Tensor:
        """By the input's own statistics."""
        return _by_own_statistics(norm, x)

    def answer(self, norm: "AdaptiveBatchNorm", x: Tensor) -> Tensor:
        """By the input's statistics, blended with the source's."""
        assert self.prior is not None  # the adapter has put in what was measured
        of_source = 1 - self.limit * len(x) / (len(x) + self.prior)
        source = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
        # Batch norm's own kernel: 28 times faster than var_mean on channels_last bf16. It also
        # updates running averages, for which it gets throw-away memory: without any it would give
        # statistics in bf16.
        waste = torch.empty_like(source[0]), torch.empty_like(source[1])
        mean, variance = torch.batch_norm_update_stats(x, *waste, 1.0)
        mean, variance = mean.lerp(source[0], of_source), variance.lerp(source[1], of_source)
        return batch_norm(x, mean, variance, norm.weight, norm.bias, False, 0.0, norm.eps)


@dataclass(frozen=True)
class RunningStatistics:
    """Running averages over the views that the steps see; they normalise the answer."""

    momentum: float | None = None
    """Share of the views' statistics in the averages; None takes each layer's own."""
    uses_batch: ClassVar[bool] = True
    runs: ClassVar[bool] = True

    def check(self) -> None:
        """Refuse settings that cannot be meant."""
        if self.momentum is not None:
            share("momentum", self.momentum)

    def learn(self, norm: "AdaptiveBatchNorm", x: Tensor) -> Tensor:
        """By the input's own statistics, which enter the running averages."""
        if norm.control.apart:
            return _by_own_statistics(norm, x)
        mean, variance = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
        momentum = norm.momentum if self.momentum is None else self.momentum
        if momentum is None:  # a cumulative average, as in torch
            count = norm.get_buffer("num_batches_tracked").add_(1)
            if x.device.type != "cpu":  # where reading the count would wait
                _accumulate(x.detach(), mean, variance, 1 / count)
                return _by_own_statistics(norm, x)
            momentum = 1.0 / float(count)
        return batch_norm(x, mean, variance, norm.weight, norm.bias, True, momentum, norm.eps)

    def answer(self, norm: "AdaptiveBatchNorm", x: Tensor) -> Tensor:
        """By the running averages."""
        mean, variance = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
        return batch_norm(x, mean, variance, norm.weight, norm.bias, False, 0.0, norm.eps)


Policy = BatchStatistics | BlendedStatistics | RunningStatistics
Normalisation = SourceStatistics | Policy


class AdaptiveBatchNorm(_BatchNorm):
    """A batch-norm layer with the parameters and statistics of another, normalising by a policy.

    Args:
        norm: The layer that is replaced. Its parameters, buffers and hooks are shared.
        control: The model's switch.
        policy: Which statistics normalise.

    Raises:
        InputError: a layer that computes batch norm in a way of its own.
    """

    def __init__(self, norm: _BatchNorm, control: Control, policy: "Policy"):
        nn.Module.__init__(self)
        for name in ("num_features", "eps", "momentum", "affine", "track_running_stats"):
            setattr(self, name, getattr(norm, name))
        for name in ("weight", "bias"):
            self.register_parameter(name, getattr(norm, name))
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, getattr(norm, name))
        self.after: tuple[str, ...] = _after(norm)
        for name in self.after:
            self.add_module(name, norm.get_submodule(name))
        vars(self).update({n: value for n, value in vars(norm).items() if "hook" in n})
        self.control: Control = control
        self.policy: Policy = policy
        self.training: bool = norm.training

    def forward(self, *args: Tensor, **named: Tensor) -> Tensor:
        """Normalise ``[batch, channels, ...]``, given by place or by name."""
        (x,) = (*args, *named.values())
        normalise = self.policy.learn if self.control.learning else self.policy.answer
        x = normalise(self, x)
        for name in self.after:
            x = self.get_submodule(name)(x)
        return x


def replace_batch_norms(
    module: nn.Module, control: Control, policy: "Policy", *, but: Collection[nn.Module] = ()
) -> dict[AdaptiveBatchNorm, _BatchNorm]:
    """Put an adaptive layer in place of every batch norm that keeps running statistics.

    Args:
        module: Changed in place; names of parameters and buffers stay.
        control: The switch of all layers.
        policy: Which statistics normalise.
        but: Submodules that stay as they are.

    Returns:
        The layers that were replaced, by the new ones.

    Raises:
        InputError: a layer that computes batch norm in a way of its own.
    """
    left_out = {id(part) for kept in but for part in kept.modules()}
    norms = [norm for norm in batch_norms(module) if id(norm) not in left_out]
    made = {norm: AdaptiveBatchNorm(norm, control, policy) for norm in norms}
    exchange(module, made)
    return {new: old for old, new in made.items()}


class BatchNorms:
    """The batch-norm layers of a model and its objective, put in when an adapter is built.

    Args:
        settings: The policy. Under `SourceStatistics` the network's own layers stay.
        modules: The encoder and the objective, by name; changed in place.
        but: Submodules that keep the source's statistics.

    Attributes:
        layers: By name: that of the module, and the layer's own in it.
    """

    def __init__(
        self,
        settings: Normalisation,
        modules: Mapping[str, nn.Module],
        *,
        but: Sequence[nn.Module] = (),
    ):
        self.settings = settings
        self.layers: dict[str, AdaptiveBatchNorm] = {}
        self._running: Tensor | None = None
        if isinstance(settings, SourceStatistics):
            return
        self._control = Control()
        for module in modules.values():
            replace_batch_norms(module, self._control, settings, but=but)
        self.layers = {
            f"{owner}.{name}": layer
            for owner, module in modules.items()
            for name, layer in module.named_modules()
            if isinstance(layer, AdaptiveBatchNorm)
        }
        if settings.runs and self.layers:
            self._running = _flattened(list(self.layers.values()))

    @contextmanager
    def learning(self, *, apart: bool = False) -> Iterator[None]:
        """Within it, passes are those of a gradient step.

        Args:
            apart: Whether the inputs leave running statistics as they are.
        """
        if not self.layers:
            yield
            return
        # The releases run whole networks, so that all layers' averages move.
        with to_the_end() if self.settings.runs else nullcontext():
            self._control.learning, self._control.apart = True, apart
            try:
                yield
            finally:
                self._control.learning = self._control.apart = False

    def state(self) -> dict[str, Tensor]:
        """The statistics that passes change, by the name of their layer."""
        names = ("running_mean", "running_var") if self.settings.runs else ()
        found = {
            f"{layer}.{name}": norm.get_buffer(name)
            for layer, norm in self.layers.items()
            for name in names
        }
        return found | self._counters()

    def written(self) -> list[Tensor]:
        """The same statistics as few tensors as possible: to copy before a step, and back."""
        return [] if self._running is None else [self._running, *self._counters().values()]

    def _counters(self) -> dict[str, Tensor]:
        return {
            f"{layer}.num_batches_tracked": norm.get_buffer("num_batches_tracked")
            for layer, norm in self.layers.items()
            if self.settings.runs and norm.momentum is None
        }


@contextmanager
def cumulative_statistics(module: nn.Module) -> Iterator[None]:
    """Within it, passes of a network enter the cumulative averages of its batch norm.

    The network normalises by each input's own statistics meanwhile, and has its own layers again
    afterwards.
    """
    replaced = replace_batch_norms(module, Control(learning=True), RunningStatistics())
    for norm in replaced:
        norm.momentum = None
    try:
        yield
    finally:
        exchange(module, replaced)


def _accumulate(x: Tensor, mean: Tensor, variance: Tensor, share: Tensor) -> None:
    """Let an input's statistics enter running averages with a share that stays on its device."""
    own = torch.zeros_like(mean), torch.zeros_like(variance)
    torch.batch_norm_update_stats(x, *own, 1.0)  # with the unbiased variance, as in torch
    mean.lerp_(own[0], share)
    variance.lerp_(own[1], share)


def _by_own_statistics(norm: "AdaptiveBatchNorm", x: Tensor) -> Tensor:
    return batch_norm(x, None, None, norm.weight, norm.bias, True, 0.0, norm.eps)


def _flattened(layers: Sequence[AdaptiveBatchNorm]) -> Tensor:
    """One tensor that holds all layers' running statistics, which become views of it."""
    buffers = [(n, name) for n in layers for name in ("running_mean", "running_var")]
    sizes = [-(-norm.num_features // _ALIGNMENT) * _ALIGNMENT for norm, _ in buffers]
    flat = buffers[0][0].get_buffer("running_mean").new_zeros(sum(sizes))
    for (norm, name), part in zip(buffers, flat.split(sizes)):
        view = part[: norm.num_features]
        view.copy_(norm.get_buffer(name))
        setattr(norm, name, view)
    return flat


def _after(norm: _BatchNorm) -> tuple[str, ...]:
    """The children that a layer applies after batch norm."""
    if any(kind.__name__ in _WITH_ACTIVATION for kind in type(norm).__mro__):
        return ("drop", "act")
    plain = type(norm).forward in (_BatchNorm.forward, nn.SyncBatchNorm.forward)
    if not (plain or isinstance(norm, AdaptiveBatchNorm)):
        raise InputError(
            f"the network's {type(norm).__name__} computes batch norm in its own way; replace it "
            f"by torch.nn.BatchNorm2d, or choose a method that keeps the source's statistics."
        )
    return ()
