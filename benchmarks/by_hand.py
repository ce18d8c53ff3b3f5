"""The equations of the methods' parts in plain torch, as one would write them for one method.

The reference of `hot_path.py` is made of them. Each function takes a part's settings, found by the
name of their class, and returns what computes the part.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, cosine_similarity
from torch.nn.modules.batchnorm import _BatchNorm

from acclimate.objectives import Outcome
from acclimate.randomness import key, normal, uniform

Weigh = Callable[[Outcome], Tensor | None]
Penalty = Callable[[], Tensor]


def probabilities(outcome: Outcome) -> tuple[Tensor, Tensor]:
    """Probabilities of an outcome's logits, and the entropy of each image."""
    assert outcome.logits is not None
    logs = outcome.logits.detach().float().log_softmax(1)
    p = logs.exp()
    return p, -(p * logs).sum(1)


def eta(settings: Any, classes: int) -> Weigh:
    """EATA's weights."""
    margin, mean = settings.margin * math.log(classes), None

    def weigh(outcome: Outcome) -> Tensor:
        nonlocal mean
        p, entropy = probabilities(outcome)
        kept = entropy < margin
        if mean is not None:
            kept &= cosine_similarity(mean, p, dim=1).abs() < settings.similarity
        now = p.mean(0)
        mean = now if mean is None else 0.9 * mean + 0.1 * now
        return torch.where(kept, (margin - entropy).exp(), 0)

    return weigh


def sar(settings: Any, classes: int) -> Weigh:
    """SAR's weights."""
    margin = settings.margin * math.log(classes)
    return lambda outcome: (probabilities(outcome)[1] < margin).float()


def deyo(settings: Any, classes: int) -> Weigh:
    """DeYO's weights."""
    margin, reference = (share * math.log(classes) for share in (settings.margin, 0.4))

    def weigh(outcome: Outcome) -> Tensor:
        _, entropy = probabilities(outcome)
        drops = outcome.drops
        assert drops is not None
        weights = (reference - entropy).exp() + drops.exp()
        return torch.where((entropy < margin) & (drops > settings.drop), weights, 0)

    return weigh


def roid(settings: Any, classes: int) -> Weigh:
    """ROID's weights, multiplied by the share of images that have one."""
    mean = torch.full((classes,), 1 / classes)

    def weigh(outcome: Outcome) -> Tensor:
        nonlocal mean
        p, entropy = probabilities(outcome)
        diversity = 1 - cosine_similarity(mean, p, dim=1)
        certainty = -entropy
        diversity, certainty = ((x - x.min()) / (x.max() - x.min()) for x in (diversity, certainty))
        kept = diversity >= diversity.mean()
        mean = settings.momentum * mean + (1 - settings.momentum) * p.mean(0)
        weights = (diversity * certainty / settings.temperature).exp()
        return torch.where(kept, weights, 0) * kept.float().mean()

    return weigh


WEIGHTS: dict[str, Callable[[Any, int], Weigh]] = {
    "ReliableAndNew": eta,
    "Reliable": sar,
    "ReliableByShape": deyo,
    "CertainAndDiverse": roid,
    "All": lambda settings, classes: lambda outcome: None,
}


def weighted(losses: Tensor, weights: Tensor | None) -> Tensor:
    """The mean over the images that have a weight."""
    if weights is None:
        return losses.mean()
    return (losses * weights).sum() / weights.count_nonzero()


def prior(logits: Tensor) -> Tensor:
    """ROID's correction."""
    batch, classes = logits.shape
    mean = logits.softmax(1).mean(0)
    smooth = max(1 / batch, 1 / classes) / mean.max()
    return logits + ((mean + smooth) / (1 + smooth * classes)).log()


def restore(settings: Any, moving: dict[str, Tensor]) -> Callable[[], None]:
    """CoTTA's return of some weights to the source's, with the library's random numbers."""
    source, steps = [p.detach().clone() for p in moving.values()], torch.zeros(1, dtype=torch.int64)
    keys = [key(settings.seed, "restore", name) for name in moving]

    def follow() -> None:
        for own, p, kept in zip(keys, moving.values(), source):
            returns = uniform(own, steps, p.numel()).view_as(p) < settings.probability
            p.copy_(torch.where(returns, kept, p))
        steps.add_(1)

    return follow


def pull(settings: Any, moving: dict[str, Tensor]) -> Callable[[], None]:
    """ROID's pull to the source."""
    source = [p.detach().clone() for p in moving.values()]
    return lambda: torch._foreach_lerp_([*moving.values()], source, settings.rate)


def kalman(settings: Any, moving: dict[str, Tensor]) -> Callable[[], None]:
    """CMF's filter."""
    own = [*moving.values()]
    source, hidden = ([p.detach().clone() for p in own] for _ in range(2))
    noise, variance = settings.noise * sum(p.numel() for p in own) / 38_400, 0.0

    def follow() -> None:
        nonlocal variance
        torch._foreach_lerp_(hidden, source, 1 - settings.drift)
        variance = settings.drift**2 * variance + noise
        kept = max((1 - noise) / (variance + 1 - noise), settings.least)
        kept = kept if kept < 0.9999 else 1.0
        torch._foreach_lerp_(hidden, own, 1 - kept)
        variance *= kept
        torch._foreach_lerp_(own, hidden, 1 - settings.momentum)

    return follow


AFTERMATH = {"Restore": restore, "PullToSource": pull, "KalmanFilter": kalman}


def fisher(moving: dict[str, Tensor], importance: Sequence[Tensor], weight: float) -> Penalty:
    """EATA's penalty."""
    source = [p.detach().clone() for p in moving.values()]

    def penalty() -> Tensor:
        triples = zip(importance, moving.values(), source)
        return weight * torch.stack([(f * (p - s) ** 2).sum() for f, p, s in triples]).sum()

    return penalty


def turned(moving: dict[str, Tensor], drift: "Drift", weight: float) -> Penalty:
    """PeTTA's penalty."""
    source = [p.detach().clone().flatten() for p in moving.values()]

    def penalty() -> Tensor:
        pairs = zip(moving.values(), source)
        cosines = [cosine_similarity(p.flatten(), s, dim=0) for p, s in pairs]
        return -weight * drift.divergence() * torch.stack(cosines).mean()

    return penalty


class Drift:
    """PeTTA's running class means, and how far they are from the source's."""

    def __init__(self, prototypes: dict[str, Tensor], renewal: float):
        self.source, self.means, self.renewal = prototypes, prototypes["mean"].clone(), renewal
        self.features: list[Tensor] = []
        self.labels: list[Tensor] = []

    def sees(self, logits: Tensor, features: Tensor) -> None:
        """Note an answer's features."""
        self.features.append(features.float())
        self.labels.append(logits.argmax(1))

    def divergence(self) -> Tensor:
        """Drift of the classes that were answered since the last step."""
        known = torch.bincount(torch.cat(self.labels), minlength=len(self.means)) > 0
        known &= self.source["images"] > 1
        squares = (self.means - self.source["mean"]) ** 2 / (self.source["variance"] + 1e-6)
        return 1 - (-squares[known].mean()).exp()

    def join(self) -> None:
        """Let what was noted join the means."""
        members = nn.functional.one_hot(torch.cat(self.labels), len(self.means)).float().T
        counts = members.sum(1, keepdim=True)
        newest = members @ torch.cat(self.features) / counts.clamp_min(1)
        self.means = torch.where(counts > 0, self.means.lerp(newest, self.renewal), self.means)
        self.features, self.labels = [], []


def robust(norm: _BatchNorm, x: Tensor, momentum: float) -> Tensor:
    """RoTTA's batch norm in the steps: statistics first enter the averages, then these are used."""
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None and variance is not None
    if norm.training:
        x32 = x.float()
        own, centre = torch.var_mean(x32, (0, 2, 3), correction=0)
        m, v = mean.lerp(centre, momentum), variance.lerp(own, momentum)
        mean.copy_(m.detach())
        variance.copy_(v.detach())
        scale = norm.weight * (v + norm.eps).rsqrt()
        shift = norm.bias - m * scale
        return torch.addcmul(shift[:, None, None], x32, scale[:, None, None]).to(x.dtype)
    return batch_norm(x, mean, variance, norm.weight, norm.bias, False, 0.0, norm.eps)


def blended(norm: _BatchNorm, x: Tensor, share: float) -> Tensor:
    """MEMO's batch norm: the source's statistics and a small share of the input's."""
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None and variance is not None
    own = torch.empty_like(mean), torch.empty_like(variance)
    torch.batch_norm_update_stats(x.detach(), *own, 1.0)  # the variance is unbiased
    mean, variance = mean.lerp(own[0], share), variance.lerp(own[1], share)
    return batch_norm(x, mean, variance, norm.weight, norm.bias, False, 0.0, norm.eps)


class ClassStatistics:
    """Statistics of each class, for one layer; `members` says which images of a pass enter."""

    def __init__(self, norm: _BatchNorm, settings: Any, classes: int):
        assert norm.running_mean is not None and norm.running_var is not None
        self.source = norm.running_mean.clone(), norm.running_var.clone()
        self.mean, self.variance = self.source
        self.counts = torch.zeros(classes, 1)
        self.sums = torch.zeros(classes, 2 * norm.num_features)
        self.settings, self.members = settings, None

    def __call__(self, norm: _BatchNorm, x: Tensor) -> Tensor:
        """Normalise: by the input's own statistics in training mode, else by those of classes."""
        if norm.training:
            return batch_norm(x, None, None, norm.weight, norm.bias, True, 0.0, norm.eps)
        if self.members is not None:
            self.enter(x.float())
        return batch_norm(x, self.mean, self.variance, norm.weight, norm.bias, False, 0.0, norm.eps)

    def enter(self, x: Tensor) -> None:
        """Let the images of a pass enter."""
        members, classes, settings = self.members, len(self.counts), self.settings
        assert members is not None
        mean, square = x.mean((2, 3)), x.square().mean((2, 3))
        new = members.sum(1, keepdim=True)
        room = (settings.horizon / classes - new).clamp_min(0)
        kept = (room / self.counts.clamp_min(1e-6)).clamp_max(1)
        self.counts = kept * self.counts + new
        self.sums = kept * self.sums + members @ torch.cat([mean, square], 1)
        total = self.counts + settings.prior / classes
        m, v = self.source
        rest = 1 - settings.limit * self.counts / total
        found = settings.limit * self.sums / total + rest * torch.cat([m, v + m**2])
        self.mean, second = found.mean(0).chunk(2)
        self.variance = (second - self.mean**2).clamp_min(0)


class PromptSearch:
    """FOA's search by the package cmaes; candidates are drawn with the library's numbers."""

    def __init__(self, prompts: Tensor, settings: Any, seed: int):
        from cmaes import CMA

        self.prompts, self.seed = prompts, seed
        self.strategy = CMA(
            torch.zeros(prompts.numel(), dtype=torch.float64).numpy(),
            settings.spread,
            population_size=settings.population,
        )

    def __call__(self, loss: Callable[[], Tensor]) -> None:
        """Try the candidates and keep the best."""
        cma, best = self.strategy, self.prompts.clone()
        directions, lengths = cma._eigen_decomposition()
        numbers = key(self.seed, "search", cma.generation)
        drawn = normal(numbers, torch.arange(cma.population_size - 1), cma.dim).double().numpy()
        drawn = cma.mean + cma._sigma * (drawn * lengths) @ directions.T
        points: Sequence[Tensor] = [*torch.from_numpy(drawn).float().view(-1, *best.shape), best]
        worth = []
        for point in points:
            self.prompts.copy_(point)
            worth.append(loss().item())
        cma.tell([(p.double().flatten().numpy(), value) for p, value in zip(points, worth)])
        self.prompts.copy_(points[worth.index(min(worth))])
