"""Advice: try what a bundle can run on source images held out, and on unlabelled target images."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from jaxtyping import Float, UInt8
from torch import Tensor

from acclimate.adapt import Adapter
from acclimate.advise.candidates import Candidate, candidates
from acclimate.advise.choose import Choice, Option, alike, choose
from acclimate.advise.judges import Judges, TargetStream
from acclimate.advise.plan import FEWEST, Plan, plan_of
from acclimate.advise.streams import CONDITIONS, ORDERS, SHIFTED, Order, SourceStream
from acclimate.advise.trials import Stopwatch, Trial, guarded_stream, on_source
from acclimate.bundle import Bundle
from acclimate.errors import InputError, unknown_name
from acclimate.guard.calibration import is_calibrated
from acclimate.guard.measure import measure_guard
from acclimate.preprocessing import check_images
from acclimate.runtime.precision import usual_defaults
from acclimate.runtime.progress import Progress
from acclimate.source.loop import Run

Say = Callable[[str], object]
_DOUBT = 0.5  # share of the target's images from which on the guard's frozen answers are a refusal


@dataclass(frozen=True, eq=False)
class Advice:
    """What was tried, and what is advised."""

    choice: Choice[Candidate]
    """The method, or none; and all gains."""
    trials: tuple[Trial, ...]
    """What was measured of each candidate."""
    refused: Mapping[Candidate, str]
    """Why some may not be chosen, whatever they gain on source images."""
    frozen: Float[Tensor, "conditions images"]
    """Scores of the frozen classifier on source images."""
    weights: Float[Tensor, " conditions"]
    """How much each condition counted."""
    order: Order
    """How images come."""
    by_class: bool
    """Whether source images came by class."""
    target: TargetStream | None
    """The target images that were tried on; None without."""
    left_out: tuple[str, ...] = ()
    """Why other methods were not tried."""
    guard: str = "off"
    """Mode of the guard that is advised."""
    seconds: float = 0.0
    """Time that the advice took."""

    def __repr__(self) -> str:
        chosen = self.choice.chosen
        what = f"{chosen}: {self.choice.gains[chosen]} points" if chosen else "do not adapt"
        return f"Advice({what}, {len(self.trials)} tried)"

    @property
    def chosen(self) -> Trial | None:
        """The trial of the method that is advised; None for the frozen classifier."""
        found = (trial for trial in self.trials if trial.candidate == self.choice.chosen)
        return next(found, None)


@usual_defaults()
def advise(
    bundle: Bundle,
    source: UInt8[Tensor, "n channels h w"],
    target: UInt8[Tensor, "m channels h w"] | None = None,
    *,
    batches: Sequence[int] = (128,),
    order: Order = "shuffled",
    methods: Sequence[str] = (),
    minutes: float = 5.0,
    run: Run | None = None,
    say: Say = lambda sentence: None,
) -> Advice:
    """Which method gains on a bundle, by source images and unlabelled target images.

    `acclimate.advise.choose.choose` is the rule, and docs/advise.md explains it.

    ```python
    advice = advise(bundle, source_images, batches=(16,))
    print(advice.choice.chosen, advice.choice.gains)
    ```

    Args:
        bundle: The bundle.
        source: Unlabelled source images, uint8; better ones that nothing was trained on.
        target: Unlabelled images of the deployment, uint8, in the order of their arrival.
        batches: Sizes of batches that the deployment can have.
        order: ``"shuffled"``, or ``"arrival"``: target images as they are given, and source images
            by class if those come so; without target images, source images as they are given.
        methods: Names or variants to choose among; none takes a short list for the bundle.
        minutes: About how long it may take. Fewer source images are tried on where time is short,
            but those of two batches, or of four where they come in order, if there are so many;
            never more than 512.
        run: Device, memory and progress.
        say: Told beforehand how long it takes.

    Raises:
        InputError: too few source images, or images that the bundle does not take; nothing to
            choose among; an unknown method or order.
    """
    started, run = time.perf_counter(), run or Run()
    _check(bundle, source, target, order)
    adapters, left_out = candidates(bundle, batches, methods, run)
    if not adapters:
        raise InputError(f"there is nothing to choose among; {'; '.join(left_out)}")
    calibrated = has_calibration(bundle)
    plan = plan_of(adapters, source, target, calibrated=calibrated, minutes=minutes, order=order)
    say(str(plan))
    judges = Judges(measure_guard(bundle, source, run) if plan.calibrates else bundle, run)
    found = _followed(plan, adapters, judges, order, run.progress)
    guard = "bounded" if found.choice.chosen and calibrated else "off"
    spent = time.perf_counter() - started
    return replace(found, left_out=tuple(left_out), guard=guard, seconds=spent)


def has_calibration(bundle: Bundle) -> bool:
    """Whether a guard can be put around the bundle's adapters."""
    return any(is_calibrated(bundle, name) for name in ("source", "aligned"))


def _followed(
    plan: Plan,
    adapters: Mapping[Candidate, Adapter],
    judges: Judges,
    order: Order,
    progress: Progress,
) -> Advice:
    """Try what is planned, and choose."""
    seen = judges.target(plan.target, plan.rows, order) if len(plan.target) else None
    stream = judges.source(plan.source, order, None if seen is None else seen.by_class)
    trials, plain = _tried(adapters, judges, stream, seen, progress)
    weights = SHIFTED / SHIFTED.sum() if seen is None else alike(plain.mean(1), seen.estimated)
    refused = dict(_refused(trials))
    choice = choose([_option(trial, refused) for trial in trials], plain, weights)
    return Advice(choice, tuple(trials), refused, plain, weights, order, stream.by_class, seen)


def _tried(
    adapters: Mapping[Candidate, Adapter],
    judges: Judges,
    stream: SourceStream,
    seen: TargetStream | None,
    progress: Progress,
) -> tuple[list[Trial], Float[Tensor, "conditions images"]]:
    """A trial of each candidate, and the frozen classifier's scores."""
    each = len(CONDITIONS) * len(stream.images) + (0 if seen is None else len(seen.images))
    done = 0

    def tell(images: int) -> None:
        nonlocal done
        done += images
        progress("trying methods", done, each * len(adapters), "")

    watch = Stopwatch()
    scores, plain = on_source(adapters, judges.frozen, stream, watch, tell)
    trials = []
    for candidate, adapter in adapters.items():
        found = None
        if seen is not None:
            adapter.reset()
            logits = watch.answers(candidate, adapter, seen.images, tell)
            given = logits, seen.frozen, seen.looks, candidate.batch, judges.statistics
            found = guarded_stream(candidate.variant.method, *given)
        cost = adapter.cost(candidate.batch)
        spent = watch.milliseconds(candidate)
        trials.append(Trial(candidate, scores[candidate], spent, cost, found))
    return trials, plain


def _option(trial: Trial, refused: Mapping[Candidate, str]) -> Option[Candidate]:
    """A trial as the rule takes it."""
    candidate = trial.candidate
    cost = trial.cost.forward_equivalents
    return Option(candidate, trial.scores, cost, refused.get(candidate, ""))


def _refused(trials: Sequence[Trial]) -> Iterator[tuple[Candidate, str]]:
    """What speaks against candidates on the target images."""
    for trial in trials:
        if trial.target is not None and trial.target.frozen_share > _DOUBT:
            share = f"{trial.target.frozen_share:.0%}"
            yield (
                trial.candidate,
                f"a guard would give the frozen classifier's answers for {share} of the target "
                "images",
            )


def _check(bundle: Bundle, source: Tensor, target: Tensor | None, order: str) -> None:
    """Refuse what cannot be tried on."""
    if order not in ORDERS:
        raise unknown_name("order", order, ORDERS)
    for images in (source, *(() if target is None else (target,))):
        check_images(images, bundle.preprocessing.channels)
    if len(source) < FEWEST or source.shape[1] not in (1, 3):
        raise InputError(
            f"advice takes at least {FEWEST} grey or RGB source images, not {len(source)} of "
            f"{source.shape[1]} channels; give more of them."
        )
