"""Batch norm by statistics of each predicted class, for streams of any batch size and order."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import batch_norm

from acclimate.errors import InputError
from acclimate.parts.checks import not_negative
from acclimate.parts.normalisation import AdaptiveBatchNorm, BatchNorms, BatchStatistics

LEAST_LIMIT = 0.7
"""Least limit where none is given, see `ClassBalanced`."""


@dataclass(frozen=True)
class ClassBalanced(BatchStatistics):
    """The mean of statistics that are kept of each predicted class, along the stream.

    Each class k has a count n_k, and sums of the means and of the mean squares of its images.
    With r = prior / classes, its statistics have the weight ``limit * n_k / (n_k + r)``; what is
    assumed of the class has the rest. All classes count alike, however many images of each came. A
    class keeps at most ``horizon / classes`` images, or those of the last batch if these are more:
    newer ones take the place of older ones of that class. After Su et al. 2024, *Towards real-world
    test-time adaptation: tri-net self-training with balanced normalization*, whose class statistics
    are moving averages that begin as the source's.

    What is assumed is the source's statistics, moved towards those of all images that are kept.
    With d² the squared distance of their mean from the source's, V their variance from image to
    image, both summed over channels in units of the source's variance, they are moved by ::

        max(0, 1 - leeway * V / d²) * n / (n + prior)

    the positive part of James and Stein's rule. Images of one class differ from the source's mean
    about as much as from each other. Under a shift that makes a network blind, all images are alike
    and far away, whatever classes it names: then all classes move.

    An image's class is what the network answers by the statistics before it. A batch of at least
    ``again`` images enters for trial, and is named anew: an answer takes one or two more passes.
    Steps normalise by their own images.
    """

    prior: float | None = 16.0
    """Weight of what is assumed, in images of all classes together. None takes what was measured
    when the bundle was made."""
    limit: float | None = None
    """Largest weight of a class's own statistics, 0..1. None takes the limit that was measured with
    batches when the bundle was made, but at least 0.7: many images deserve more trust than one
    batch."""
    horizon: int = 256
    """About so many images, of all classes together, are kept in the statistics."""
    leeway: float = 2.0
    """So many times the variance between images is taken for what their classes explain."""
    again: int = 8
    """From so many images on, a batch is named twice. 0 for never, which saves a pass."""
    groups: int = 64
    """From more classes on, classes share statistics in so many groups, to save memory."""

    def check(self) -> None:
        """Refuse settings that cannot be meant."""
        BatchStatistics(self.prior, 1.0 if self.limit is None else self.limit).check()
        not_negative("leeway", self.leeway)
        for name, least in (("horizon", 1), ("groups", 1), ("again", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name} must be at least {least}, not {getattr(self, name)}.")


class ClassStatistics:
    """The statistics of one layer; see `ClassBalanced`.

    Args:
        settings: Prior, limit and horizon.
        norm: The layer; its running statistics are the source's.
        groups: Number of classes, or of groups of them.

    Attributes:
        counts: Images kept of each group.
        sums: Of each group, the sums of its images' means, mean squares and squared means.
        mean: What normalises.
        variance: Likewise.
    """

    def __init__(self, settings: ClassBalanced, norm: AdaptiveBatchNorm, groups: int):
        source = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
        self._settings = settings
        self.mean: Tensor = source[0].clone()
        self.variance: Tensor = source[1].clone()
        self.counts: Tensor = source[0].new_zeros(groups, 1)
        self.sums: Tensor = source[0].new_zeros(groups, 3 * norm.num_features)
        # None outside of a pass whose images enter; and whether they are kept after it.
        self.entering: Float[Tensor, "batch groups"] | None = None
        self.keeping = True

    def state(self) -> dict[str, Tensor]:
        """All that is kept."""
        names = ("counts", "sums", "mean", "variance")
        return {name: getattr(self, name) for name in names}

    def learn(self, norm: AdaptiveBatchNorm, x: Tensor) -> Tensor:
        """By the input's own statistics, through which gradients go."""
        return batch_norm(x, None, None, norm.weight, norm.bias, True, 0.0, norm.eps)

    def answer(self, norm: AdaptiveBatchNorm, x: Tensor) -> Tensor:
        """By what is kept, once the images have entered it if they are to."""
        if self.entering is not None:
            self._enter(norm, x, self.entering)
        return batch_norm(x, self.mean, self.variance, norm.weight, norm.bias, False, 0.0, norm.eps)

    @torch.no_grad()
    def _enter(
        self, norm: AdaptiveBatchNorm, x: Tensor, members: Float[Tensor, "batch groups"]
    ) -> None:
        settings, groups = self._settings, len(self.counts)
        assert settings.prior is not None and settings.limit is not None  # the adapter put them in
        members = members.to(self.sums.dtype)
        moments = moments_of(x)
        moments = torch.cat([moments, moments.chunk(2, 1)[0].square()], 1)  # [batch, 3 channels]
        new = members.sum(0)[:, None]  # [groups, 1]
        room = (settings.horizon / groups - new).clamp_min(0)
        kept = (room / self.counts.clamp_min(1e-6)).clamp_max(1)
        counts = self.counts * kept + new
        sums = self.sums * kept + members.T @ moments
        if self.keeping:
            self.counts.copy_(counts)
            self.sums.copy_(sums)
        trust = counts / (counts + settings.prior / groups).clamp_min(1e-6)
        averages = sums / counts.clamp_min(1e-6)
        together = (trust / trust.sum().clamp_min(1e-6) * averages).sum(0)  # classes alike
        own, together = averages[:, : 2 * norm.num_features], together.chunk(3)
        moved = self._moved(norm, together) * counts.sum() / (counts.sum() + settings.prior)
        mean, variance = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
        source = torch.cat([mean, variance + mean.square()])
        assumed = source.lerp(torch.cat(together[:2]), moved)
        first, second = assumed.lerp(own, settings.limit * trust).mean(0).chunk(2)
        self.mean.copy_(first)
        self.variance.copy_((second - first.square()).clamp_min(0))

    def _moved(
        self, norm: AdaptiveBatchNorm, images: Sequence[Float[Tensor, " channels"]]
    ) -> Float[Tensor, ""]:
        """How far images lie from the source's, beyond what their classes explain; 0..1.

        Args:
            norm: The layer.
            images: Their mean, mean square, and mean square of the images' means.
        """
        mean, _, square = images
        source, variance = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
        unit = variance + norm.eps
        distance = ((mean - source).square() / unit).sum()
        spread = ((square - mean.square()).clamp_min(0) / unit).sum()
        return (1 - self._settings.leeway * spread / distance.clamp_min(1e-9)).clamp_min(0)


def moments_of(x: Float[Tensor, "batch channels *places"]) -> Float[Tensor, "batch 2*channels"]:
    """The mean of each channel for each image, then the mean square of each channel.

    ```python
    mean, square = moments_of(x).chunk(2, 1)
    ```

    Args:
        x: Of any float type; computed in at least float32.
    """
    # One copy, and no other of its size: on a CPU squares alone would take longer than a
    # convolution.
    precise = torch.promote_types(x.dtype, torch.float32)
    values = x.to(precise, memory_format=torch.contiguous_format).reshape(*x.shape[:2], -1)
    places = values.shape[2]
    square = torch.linalg.vector_norm(values, dim=2).square()
    return torch.cat([values.sum(2), square], 1) / places  # [batch, 2 channels]


class ClassNorms(BatchNorms):
    """The batch-norm layers of an adapter under `ClassBalanced`.

    Args:
        settings: The policy.
        modules: The encoder and the objective, by name; changed in place.
        classes: Number of classes.
        but: Submodules that keep the source's statistics.
    """

    def __init__(
        self,
        settings: ClassBalanced,
        modules: Mapping[str, nn.Module],
        classes: int,
        *,
        but: Sequence[nn.Module] = (),
    ):
        super().__init__(settings, modules, but=but)
        groups = min(classes, settings.groups)
        self.kept: dict[str, ClassStatistics] = {}
        for name, layer in self.layers.items():
            self.kept[name] = ClassStatistics(settings, layer, groups)
            layer.policy = self.kept[name]  # type: ignore[assignment]
        self._groups, self._again = groups, settings.again

    def namings(self, count: int) -> tuple[bool, ...]:
        """For each pass that a batch enters by, whether it is kept then.

        Args:
            count: Number of images.
        """
        return (False, True) if 0 < self._again <= count else (True,)

    @contextmanager
    def entering(self, classes: Int64[Tensor, " batch"], *, keep: bool = True) -> Iterator[None]:
        """Within it, the images of a pass for the answer enter the statistics.

        Args:
            classes: Predicted class of each image.
            keep: Whether they are kept; else they count in this pass alone.
        """
        groups = torch.arange(self._groups, device=classes.device)
        members = (classes[:, None] % self._groups == groups).float()
        before = [] if keep else [(e.mean.clone(), e.variance.clone()) for e in self.kept.values()]
        try:
            for each in self.kept.values():
                each.entering, each.keeping = members, keep
            yield
        finally:
            for each in self.kept.values():
                each.entering = None
            for each, (mean, variance) in zip(self.kept.values(), before):
                each.mean.copy_(mean)
                each.variance.copy_(variance)

    def state(self) -> dict[str, Tensor]:
        """The statistics, by the name of their layer."""
        return {
            f"{layer}.{name}": tensor
            for layer, each in self.kept.items()
            for name, tensor in each.state().items()
        }
