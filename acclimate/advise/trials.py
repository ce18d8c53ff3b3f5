"""Try candidates: on source images under all conditions, and on the target images."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from acclimate.adapt import Adapter
from acclimate.adapt.cost import Cost
from acclimate.advise.candidates import Candidate
from acclimate.advise.streams import CONDITIONS, SourceStream
from acclimate.guard.calibration import Calibration
from acclimate.guard.decide import GuardState, judge
from acclimate.guard.estimate import Estimate
from acclimate.guard.rules import Rules
from acclimate.methods import method

_TIMED = 64  # images at least on which a speed is taken: methods that gather images step by then
_ALL_ALIKE = 1e9  # half-life of an estimate in which all images count alike

Tell = Callable[[int], object]
"""Called with the number of images that have been answered for since the last call."""


@dataclass(frozen=True, eq=False)
class OnTarget:
    """A candidate's answers for the target images, and what a guard makes of them."""

    logits: Float[Tensor, "n classes"]
    """In the order of the stream."""
    estimate: Estimate
    """Accuracies of the frozen and of the adapted model, without labels."""
    guarded: Bool[Tensor, " n"]
    """Which images would get the adapted answer under a guard."""
    frozen_share: float
    """Share of the images for which a guard would give the frozen classifier's answers alone."""


@dataclass(frozen=True, eq=False)
class Trial:
    """What was measured of a candidate."""

    candidate: Candidate
    scores: Float[Tensor, "conditions images"]
    """How well it answers for source images."""
    milliseconds: float
    """Time of an image."""
    cost: Cost
    """Passes and memory."""
    target: OnTarget | None = None
    """What it does on the target images, if there are any."""


@dataclass
class Stopwatch:
    """Seconds and images of each candidate."""

    seconds: dict[Candidate, float] = field(default_factory=dict)
    images: dict[Candidate, int] = field(default_factory=dict)

    def answers(
        self, candidate: Candidate, adapter: Adapter, images: Tensor, tell: Tell
    ) -> Float[Tensor, "n classes"]:
        """Answers of an adapter, which goes on from what it has learned, in the batches it gets."""
        found = []
        started = time.perf_counter()
        for part in images.split(candidate.batch):
            found.append(adapter(part).cpu())
            tell(len(part))
        spent = time.perf_counter() - started
        self.seconds[candidate] = self.seconds.get(candidate, 0.0) + spent
        self.images[candidate] = self.images.get(candidate, 0) + len(images)
        return torch.cat(found)

    def milliseconds(self, candidate: Candidate) -> float:
        """Mean time of an image."""
        return 1000 * self.seconds[candidate] / self.images[candidate]


def seconds_an_image(candidate: Candidate, adapter: Adapter, images: Tensor) -> float:
    """Time of an image, from a few batches after a first one; the adapter begins anew.

    Args:
        candidate: Says how many images come together.
        adapter: Of it.
        images: Some source images, repeated where a batch takes more.
    """
    batch = candidate.batch
    batches = max(1, _TIMED // batch)
    rows = torch.arange((batches + 1) * batch) % len(images)
    first, *rest = images[rows].split(batch)
    adapter(first)
    started = time.perf_counter()
    for part in rest:
        adapter(part).cpu()
    spent = time.perf_counter() - started
    adapter.reset()
    return spent / (batches * batch)


def on_source(
    adapters: Mapping[Candidate, Adapter],
    frozen: Adapter,
    stream: SourceStream,
    watch: Stopwatch,
    tell: Tell,
) -> tuple[dict[Candidate, Float[Tensor, "conditions images"]], Float[Tensor, "conditions images"]]:
    """Scores of each candidate and of the frozen classifier.

    The conditions come one after another and no adapter is told: what its method remembers, it
    takes along.
    """
    scores: dict[Candidate, list[Tensor]] = {candidate: [] for candidate in adapters}
    plain = []
    for condition in CONDITIONS:
        shown = stream.under(condition)
        plain.append(stream.score(frozen_answers(frozen, shown)))
        for candidate, adapter in adapters.items():
            scores[candidate].append(stream.score(watch.answers(candidate, adapter, shown, tell)))
    return {name: torch.stack(each) for name, each in scores.items()}, torch.stack(plain)


def guarded_stream(
    name: str,
    logits: Float[Tensor, "n classes"],
    frozen: Float[Tensor, "n classes"],
    looks: Float[Tensor, "n 5"],
    batch: int,
    statistics: Mapping[str, Tensor],
) -> OnTarget:
    """What a guard makes of both models' answers for a stream; what it rolls back is left out.

    Args:
        name: The method that answered.
        logits: Its answers, in the order of the stream.
        frozen: The frozen classifier's.
        looks: Of `acclimate.guard.looks.looks_as_shown`.
        batch: Images that came together.
        statistics: Of the bundle, with the calibration of a guard.
    """
    calibration = Calibration.of(statistics, method(name).model)
    state, rules = GuardState.new(calibration), Rules(estimate_half_life=_ALL_ALIKE)
    verdicts = []
    for plain, adapted, seen in zip(frozen.split(batch), logits.split(batch), looks.split(batch)):
        every = torch.ones(len(seen), dtype=torch.bool)
        verdicts.append(judge(plain, adapted, seen, every, calibration, state, rules))
    guarded = torch.cat([verdict.use_adapted for verdict in verdicts])
    frozen_alone = sum(len(v.use_adapted) for v in verdicts if v.answer == "frozen")
    return OnTarget(logits, verdicts[-1].estimate, guarded, frozen_alone / len(logits))


def frozen_answers(
    frozen: Adapter, images: UInt8[Tensor, "n channels h w"], batch: int = 128
) -> Float[Tensor, "n classes"]:
    """Logits of a model that remembers nothing."""
    return torch.cat([frozen(part).cpu() for part in images.split(batch)])
