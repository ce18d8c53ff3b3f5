"""A chance that depends on a few numbers: logistic regression."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.nn.functional import softplus

from acclimate.guard.named import Named

RIDGE = 1.0
"""Penalty of the squared weights of standardised numbers, against the sum of log-likelihoods."""
CORRECTION = 10.0
"""Penalty of the squared corrections, in log-odds."""
_ROUNDS, _SMALL = 30, 1e-6


@dataclass(frozen=True)
class Curve(Named):
    """P = sigmoid(offset + weights · (x − mean) / spread), x kept within what was measured."""

    weights: Float[Tensor, " numbers"]
    """Weight of each standardised number."""
    offset: Float[Tensor, ""]
    """Log-odds at the mean."""
    mean: Float[Tensor, " numbers"]
    """Mean of each number."""
    spread: Float[Tensor, " numbers"]
    """Standard deviation of each number."""
    low: Float[Tensor, " numbers"]
    """Least value that was measured of each number; lower ones count as this."""
    high: Float[Tensor, " numbers"]
    """Largest value that was measured of each number."""

    def log_odds(self, x: Float[Tensor, "batch numbers"]) -> Float[Tensor, " batch"]:
        """Log-odds of each row."""
        kept = x.to(self.mean.dtype).clamp(self.low, self.high)
        return (kept - self.mean) / self.spread @ self.weights + self.offset

    def __call__(self, x: Float[Tensor, "batch numbers"]) -> Float[Tensor, " batch"]:
        """Chance of each row."""
        return self.log_odds(x).sigmoid()


@dataclass(frozen=True)
class Corrected:
    """A curve whose log-odds are corrected where a stream looks like a set of images."""

    curve: Curve
    """The curve for streams that look like none of them."""
    by_set: Float[Tensor, " sets"]
    """Log-odds that each set adds where a stream looks just like it."""

    def log_odds(
        self, x: Float[Tensor, "batch numbers"], alike: Float[Tensor, "*batch sets"]
    ) -> Float[Tensor, " batch"]:
        """Log-odds of each row.

        Args:
            x: Numbers of each row.
            alike: How much the stream looks like each set, 0..1.
        """
        return self.curve.log_odds(x) + alike @ self.by_set

    def __call__(
        self, x: Float[Tensor, "batch numbers"], alike: Float[Tensor, "*batch sets"]
    ) -> Float[Tensor, " batch"]:
        """Chance of each row."""
        return self.log_odds(x, alike).sigmoid()

    def tensors(self, prefix: str) -> dict[str, Tensor]:
        """The tensors by name."""
        return self.curve.tensors(prefix) | {f"{prefix}by_set": self.by_set}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], prefix: str) -> "Corrected":
        """What `tensors` gave.

        Raises:
            KeyError: a tensor is missing.
        """
        return cls(Curve.of(tensors, prefix), tensors[f"{prefix}by_set"])


def fitted(
    x: Float[Tensor, "rows numbers"],
    chance: Float[Tensor, " rows"],
    count: Float[Tensor, " rows"],
    ridge: float = RIDGE,
) -> Curve:
    """The curve that fits best: the weighted log-likelihood less a penalty of the weights.

    ```python
    x = torch.randn(100, 1)
    curve = fitted(x, (x[:, 0] > 0).float(), torch.ones(100))
    ```

    Newton's method, in float64; the penalty makes the problem strictly convex. A step that would
    make the loss larger is halved.

    Args:
        x: Numbers of each row.
        chance: What is to be fitted, 0..1: 0 and 1 are outcomes, values between are probabilities.
        count: How much a row counts; 0 or more.
        ridge: Penalty of each squared weight.

    Returns:
        In float32. Without rows, a curve that gives one half everywhere.
    """
    width = x.shape[1]
    if not len(x):
        zero, one = torch.zeros(width), torch.ones(width)
        return Curve(zero, torch.zeros(()), zero, one, zero, zero)
    x = x.double()
    mean = x.mean(0)
    spread = (x - mean).square().mean(0).sqrt()
    spread = spread.where(spread > 1e-6, torch.ones_like(spread))
    design = torch.cat([(x - mean) / spread, torch.ones_like(x[:, :1])], 1)  # [rows, numbers + 1]
    penalty = torch.full((width + 1,), ridge, dtype=x.dtype)
    penalty[-1] = 1e-3 * ridge  # the offset of rows that all went one way stays finite
    found = _solved(design, torch.zeros_like(x[:, 0]), chance, count, penalty)
    own = (found[:-1], found[-1], mean, spread, x.amin(0), x.amax(0))
    return Curve(*(value.float() for value in own))


def corrected(
    curve: Curve,
    x: Float[Tensor, "rows numbers"],
    alike: Float[Tensor, "rows sets"],
    chance: Float[Tensor, " rows"],
    count: Float[Tensor, " rows"],
) -> Corrected:
    """The curve with the correction that fits best, as `fitted`; the curve stays as it is.

    Args:
        curve: What holds where nothing looks alike.
        x: Numbers of each row.
        alike: How much the stream of each row looks like each set, 0..1.
        chance: What is to be fitted, 0..1.
        count: How much a row counts; 0 or more.
    """
    if not len(x):
        return Corrected(curve, torch.zeros(alike.shape[1]))
    offset = curve.log_odds(x).double()
    penalty = torch.full((alike.shape[1],), CORRECTION, dtype=torch.float64)
    return Corrected(curve, _solved(alike.double(), offset, chance, count, penalty).float())


def _solved(
    design: Float64[Tensor, "rows numbers"],
    offset: Float64[Tensor, " rows"],
    chance: Float[Tensor, " rows"],
    count: Float[Tensor, " rows"],
    penalty: Float64[Tensor, " numbers"],
) -> Float64[Tensor, " numbers"]:
    """Weights of the least penalised loss, by Newton's method."""
    chance, count = chance.double(), count.double()
    found = torch.zeros_like(penalty)

    def loss(weights: Tensor) -> Tensor:
        odds = design @ weights + offset
        return (count * (softplus(odds) - chance * odds)).sum() + penalty @ weights.square() / 2

    now = loss(found)
    for _ in range(_ROUNDS):
        p = (design @ found + offset).sigmoid()
        gradient = design.T @ (count * (p - chance)) + penalty * found
        weighted = design * (count * p * (1 - p))[:, None]
        step = torch.linalg.solve(design.T @ weighted + penalty.diag(), gradient)
        # Where a curve is certain and wrong, the loss is nearly straight: a whole step overshoots.
        while (then := loss(found - step)) > now and step.abs().amax() >= _SMALL:
            step = step / 2
        found, now = found - step, then
        if step.abs().amax() < _SMALL:
            break
    return found
