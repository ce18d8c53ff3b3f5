"""Batch norm by statistics of each predicted class, for streams of any batch size and order."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import batch_norm

from acclimate.errors import InputError
from acclimate.parts.normalisation import AdaptiveBatchNorm, BatchNorms, BatchStatistics
from acclimate.runtime.precision import at_least_float32

LEAST_LIMIT = 0.7
"""Least limit where none is given, see `ClassBalanced`."""


@dataclass(frozen=True)
class ClassBalanced(BatchStatistics):
    """The mean of statistics that are kept of each predicted class, along the stream.

    Each class k has a count n_k, and sums of the means and of the mean squares of its images.
    With r = prior / classes, its statistics have the weight ``limit * n_k / (n_k + r)``; the
    source's have the rest. All classes count alike, however many images of each came. A class keeps
    at most ``horizon / classes`` images, or those of the last batch if these are more: newer ones
    take the place of older ones of that class.

    An image's class is what the network answers by the statistics before it, or by the batch's own
    where those answers are more certain: under a shift in which the network is lost, the statistics
    before it name one class for all images. So an answer takes two more passes. Steps normalise by
    their own images. After Su et al. 2024, *Towards real-world test-time adaptation: tri-net
    self-training with balanced normalization*, whose class statistics are moving averages that
    begin as the source's.
    """

    prior: float | None = 16.0
    """Weight of the source's statistics, in images of all classes together. None takes what was
    measured when the bundle was made."""
    limit: float | None = None
    """Largest weight of the stream's statistics, 0..1. None takes the limit that was measured with
    batches when the bundle was made, but at least 0.7: many images deserve more trust than one
    batch."""
    horizon: int = 256
    """About so many images, of all classes together, are kept in the statistics."""
    own: int = 32
    """From so many images on, a batch's own statistics may name the classes; of fewer they say too
    little. 0 for never, which saves a pass."""
    groups: int = 64
    """From more classes on, classes share statistics in so many groups, to save memory."""

    def check(self) -> None:
        """Refuse settings that cannot be meant."""
        BatchStatistics(self.prior, 1.0 if self.limit is None else self.limit).check()
        for name, least in (("horizon", 1), ("groups", 1), ("own", 0)):
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
        sums: Of each group, the sum of its images' means and of their mean squares.
        mean: What normalises.
        variance: Likewise.
    """

    def __init__(self, settings: ClassBalanced, norm: AdaptiveBatchNorm, groups: int):
        source = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
        self._settings = settings
        self.mean, self.variance = (tensor.clone() for tensor in source)
        self.counts = source[0].new_zeros(groups, 1)
        self.sums = source[0].new_zeros(groups, 2 * norm.num_features)
        # None outside of a pass whose images enter.
        self.entering: Float[Tensor, "batch groups"] | None = None

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
        members = members.to(self.sums.dtype)
        moments = moments_of(x)
        new = members.sum(0)[:, None]  # [groups, 1]
        room = (settings.horizon / groups - new).clamp_min(0)
        kept = (room / self.counts.clamp_min(1e-6)).clamp_max(1)
        self.counts.mul_(kept).add_(new)
        self.sums.mul_(kept).add_(members.T @ moments)
        assert settings.prior is not None and settings.limit is not None  # the adapter put them in
        total = (self.counts + settings.prior / groups).clamp_min(1e-6)
        # Sums divided by the count, times the weight n / (n + r): the count cancels.
        own = settings.limit * self.sums / total
        of_source = 1 - settings.limit * self.counts / total
        mean, variance = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
        source = torch.cat([mean, variance + mean.square()])
        first, second = (own + of_source * source).mean(0).chunk(2)
        self.mean.copy_(first)
        self.variance.copy_((second - first.square()).clamp_min(0))


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


def _named(
    logits: Float[Tensor, "batch classes"],
) -> tuple[Int64[Tensor, " batch"], Float[Tensor, ""]]:
    """The class of each image, and the mean probability of these classes."""
    most, found = at_least_float32(logits).softmax(1).max(1)
    return found, most.mean()


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
        self._groups, self._own = groups, settings.own

    def classes(
        self, logits: Float[Tensor, "batch classes"], answer: Callable[[], Tensor]
    ) -> Int64[Tensor, " batch"]:
        """The class of each image, by the more certain of two answers.

        Args:
            logits: By the statistics that are kept.
            answer: Gives logits of the same images; called where the batch's own statistics
                normalise.
        """
        if not self._own or len(logits) < max(self._own, 2):  # one image may be a single value
            return logits.argmax(1)
        with self.learning():
            others = answer()
        found, certainty = zip(*(_named(each) for each in (logits, others)))
        return torch.where(certainty[1] > certainty[0], found[1], found[0])

    @contextmanager
    def entering(self, classes: Int64[Tensor, " batch"]) -> Iterator[None]:
        """Within it, the images of a pass for the answer enter the statistics.

        Args:
            classes: Predicted class of each image.
        """
        groups = torch.arange(self._groups, device=classes.device)
        members = (classes[:, None] % self._groups == groups).float()
        try:
            for each in self.kept.values():
                each.entering = members
            yield
        finally:
            for each in self.kept.values():
                each.entering = None

    def state(self) -> dict[str, Tensor]:
        """The statistics, by the name of their layer."""
        return {
            f"{layer}.{name}": tensor
            for layer, each in self.kept.items()
            for name, tensor in each.state().items()
        }
