"""Signals without labels, of each image and of the recent stream."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from acclimate.runtime.precision import at_least_float32

FEATURES = (
    "log-odds of the frozen confidence",
    "log-odds of the adapted confidence",
    "recent mean of the frozen log-odds",
    "recent mean of the adapted log-odds",
    "logarithm of the recent agreement",
    "entropy of the recent frozen classes",
    "entropy of the recent adapted classes",
    "logarithm of the frozen answer's class among the recent adapted ones",
    "logarithm of the frozen answer's class among the recent frozen ones",
    "logarithm of the adapted answer's class among the recent adapted ones",
    "logarithm of the adapted answer's class among the recent frozen ones",
)
"""The columns of `features`, in this order."""
LOWEST, HIGHEST = -7.0, 8.0
"""Log-odds beyond these are these: one image must not outweigh the others."""
_FEW, _RARE = 0.05, 0.02  # added to an agreement and to a class's share before the logarithm
_BLANK = 2.0 / 255
_PROJECTIONS, _ALIKE = 8, 1e-4


@dataclass(frozen=True)
class Recent:
    """An average in which an image counts half as much after every ``half_life`` further images.

    The tensors are changed in place.
    """

    total: Float[Tensor, " values"]
    """Weighted sum of the values."""
    weight: Float[Tensor, ""]
    """Sum of the weights."""
    squares: Float[Tensor, ""]
    """Sum of the squared weights."""

    @classmethod
    def of(cls, usual: Float[Tensor, " values"], images: float) -> "Recent":
        """An average that begins as if so many images with these values had come.

        Args:
            usual: The mean of the values.
            images: Number of images; more than 0.
        """
        weight = usual.new_tensor(images)
        return cls(usual * weight, weight, weight.clone())

    @property
    def mean(self) -> Float[Tensor, " values"]:
        """The average."""
        return self.total / self.weight

    @property
    def images(self) -> Float[Tensor, ""]:
        """The number of images whose plain mean would vary as much."""
        return self.weight**2 / self.squares

    def add(
        self,
        values: Float[Tensor, "batch values"],
        counts: Float[Tensor, " batch"],
        half_life: float,
    ) -> None:
        """Add the values of a batch. Earlier images count less; those of the batch count alike.

        ```python
        recent = Recent.of(torch.zeros(2), images=16)
        recent.add(torch.rand(8, 2), torch.ones(8), half_life=64)
        ```

        Args:
            values: A row for each image.
            counts: Weight of each image; 0 leaves it out.
            half_life: In images.
        """
        kept = 0.5 ** (counts.sum() / half_life)
        self.total.mul_(kept).add_(counts @ values)
        self.weight.mul_(kept).add_(counts.sum())
        self.squares.mul_(kept**2).add_((counts**2).sum())


def log_odds(logits: Float[Tensor, "batch classes"]) -> Float[Tensor, " batch"]:
    """Log-odds of the confidence: of the largest softmax probability against all others.

    ```python
    log_odds(torch.tensor([[3.0, 0.0]]))  # 3
    ```

    Args:
        logits: Of a model; finite.

    Returns:
        Between `LOWEST` and `HIGHEST`.
    """
    ordered = at_least_float32(logits).sort(1, descending=True).values
    if ordered.shape[1] == 1:
        return torch.full_like(ordered[:, 0], HIGHEST)
    return (ordered[:, 0] - ordered[:, 1:].logsumexp(1)).clamp(LOWEST, HIGHEST)


def signals(
    frozen: Float[Tensor, "batch classes"], adapted: Float[Tensor, "batch classes"]
) -> Float[Tensor, "batch signals"]:
    """Compute the numbers that are averaged over the recent stream.

    Args:
        frozen: Logits of the frozen classifier.
        adapted: Logits of the adapted model.

    Returns:
        For each image the two log-odds, whether the answers agree, and both models' probabilities:
        3 + 2 classes columns.
    """
    frozen, adapted = at_least_float32(frozen), at_least_float32(adapted)
    agree = (frozen.argmax(1) == adapted.argmax(1)).to(frozen.dtype)
    own = torch.stack([log_odds(frozen), log_odds(adapted), agree], 1)
    return torch.cat([own, frozen.softmax(1), adapted.softmax(1)], 1)


def features(
    signals: Float[Tensor, "batch signals"], recent: Float[Tensor, " signals"]
) -> Float[Tensor, "batch 11"]:
    """The numbers, named in `FEATURES`, that tell which of two answers is right.

    The last four tell a stream of few classes, which both models see, from a frozen classifier that
    a shift makes answer with few classes.

    Args:
        signals: From `signals`.
        recent: Their mean over the recent stream.
    """
    frozen, adapted = recent[3:].chunk(2)
    of_stream = torch.stack(
        [recent[0], recent[1], (recent[2] + _FEW).log(), entropy(frozen), entropy(adapted)]
    )
    of_class = torch.stack([adapted, frozen], 1).add(_RARE).log()  # [classes, 2]
    first, second = (p.argmax(1) for p in signals[:, 3:].chunk(2, dim=1))
    own = signals[:, :2]
    return torch.cat([own, of_stream.expand(len(own), -1), of_class[first], of_class[second]], 1)


def entropy(p: Float[Tensor, " classes"]) -> Float[Tensor, ""]:
    """Entropy of a distribution, in nats."""
    return -torch.special.xlogy(p, p).sum()


def fewer_classes(recent: Float[Tensor, " signals"]) -> Float[Tensor, ""]:
    """Number of classes in recent answers, of the adapted model over the frozen one.

    The number of classes is exp of the entropy of the mean probabilities.

    Args:
        recent: Mean of `signals` over the recent stream.
    """
    frozen, adapted = recent[3:].chunk(2)
    return (entropy(adapted) - entropy(frozen)).exp()


def blank(images: Float[Tensor, "batch channels height width"]) -> Bool[Tensor, " batch"]:
    """Find images whose pixels all have about the same colour, as from a covered camera.

    Such images tell nothing, and they distort the statistics of a batch that others are in.

    ```python
    blank(torch.zeros(1, 3, 32, 32))  # True
    ```

    Args:
        images: uint8 0..255, or floats 0..1.
    """
    low, high = torch.aminmax(images.flatten(2), dim=2)
    spread = (high.float() - low.float()).amax(1)
    return spread <= (_BLANK if images.is_floating_point() else 255 * _BLANK)


def first_of_equals(
    images: Float[Tensor, "batch channels height width"],
) -> Int64[Tensor, " batch"]:
    """For each image the index of the first one in the batch that equals it.

    Frames that a camera repeats are one image: as many, they make up the statistics of a batch.

    ```python
    first = first_of_equals(torch.zeros(3, 3, 32, 32))  # 0, 0, 0
    once = first == torch.arange(len(first))
    ```

    Args:
        images: uint8 0..255, or floats 0..1; at least one.
    """
    flat = images.flatten(1)
    values = at_least_float32(flat) if flat.is_floating_point() else flat.float() / 255
    seen = values @ _directions(flat.shape[1], flat.device).to(values.dtype)
    # Few are alike in all projections; these are compared value by value.
    alike = (seen[:, None] - seen).abs().amax(2) <= _ALIKE  # [batch, batch]
    found = alike.int().argmax(1)
    own = torch.arange(len(flat), device=flat.device)
    return torch.where((flat == flat[found]).all(1), found, own)


@lru_cache(maxsize=4)
def _directions(length: int, device: torch.device) -> Float[Tensor, "length projections"]:
    """Random directions, of unit length in the mean."""
    generator = torch.Generator("cpu").manual_seed(0)
    drawn = torch.randn(length, _PROJECTIONS, generator=generator, device="cpu")
    return drawn.to(device) / length**0.5
