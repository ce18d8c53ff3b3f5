"""One adapted batch: what is learned from, the steps, the answer."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from acclimate.adapt.learner import Learner
from acclimate.adapt.passes import evaluated
from acclimate.adapt.reports import merged, report_of, steps_of, values_of
from acclimate.adapt.search import search_step
from acclimate.objectives import Outcome
from acclimate.parts.answer import Predict, Prediction
from acclimate.parts.banks import Bank
from acclimate.parts.class_balanced import ClassNorms
from acclimate.parts.memory import GatheredImages
from acclimate.parts.search import Search
from acclimate.parts.step import Step, refused, too_few
from acclimate.randomness import key
from acclimate.runtime.precision import autocast


def adapt(
    learner: Learner,
    images: Float[Tensor, "batch 3 size size"],
    index: Int64[Tensor, " batch"],
    *,
    every: bool = False,
) -> tuple[list[Float[Tensor, "batch classes"]], list[Step]]:
    """Learn from a batch, and answer for it.

    Args:
        learner: The model and the parts that adapt it; changed in place.
        images: 0..1, not normalised.
        index: Index of each image in the stream.
        every: Answer before the first step and after each one, not only after the last.

    Returns:
        The logits of each answer, and a report of each step.
    """
    if isinstance(learner.memory, Bank):
        return _with_bank(learner, images, index, every=every)
    count = len(images)
    with _still_waiting(learner.memory):
        context, index = learner.memory.remember(images, index)
        if every:
            return _learn(learner, context, index, count, every=True, wait=True)
        run = partial(_without_waiting, learner, count)
        logits, *reports = learner.recorder(run, context, index, constants=count)
    if not torch.isfinite(logits).all():  # the only time that a batch waits for its device
        logits = _recovered(learner, partial(predict, learner, context, count))
    return [logits], steps_of(reports)


@contextmanager
def _still_waiting(memory: object) -> Iterator[None]:
    """If a batch within it ends in an error, the images that waited for it wait for another."""
    waiting = int(memory.count) if isinstance(memory, GatheredImages) else 0
    try:
        yield
    except BaseException:
        if isinstance(memory, GatheredImages):
            memory.count.fill_(waiting)
        raise


def _with_bank(
    learner: Learner, images: Tensor, index: Tensor, *, every: bool
) -> tuple[list[Tensor], list[Step]]:
    """As `adapt`, where answers decide which images are kept, and updates come at intervals.

    The batch is cut where an update is due, so that results do not depend on the batch size, unless
    the answer uses statistics of the batch.
    """
    bank = learner.memory
    learner.reset.before(learner.state.forget)
    answers, steps = [], []
    while len(images):
        count = bank.until_update()
        part = images[:count]
        logits, told = learner.recorder(partial(_told, learner), part, constants="answer")
        values = told.cpu().tolist()  # waits for the device: what is kept decides shapes
        if not all(map(math.isfinite, values[1])):
            learner.recover()
            logits, told = _told(learner, part)
            values = told.cpu().tolist()
        answers.append(logits)
        labels, uncertainties = [*map(int, values[0])], values[1]
        if bank.offer(part, index[:count], labels, uncertainties):
            reports = learner.recorder(
                partial(_reports, learner), *bank.context(), constants="step"
            )
            steps = steps_of(reports)
        images, index = images[count:], index[count:]
    answers = [torch.cat(answers)]
    return answers * (learner.settings.steps + 1 if every else 1), steps


def _told(learner: Learner, images: Tensor) -> tuple[Tensor, Tensor]:
    """Answers, and of each the class and the uncertainty, which is not finite if a logit is not."""
    forward = partial(predict, learner, images, len(images))
    early = learner.answer.early(forward, False)
    logits = _corrected(learner, learner.answer.late(forward, early))
    p = logits.softmax(1)
    uncertainty = -(p * (p + 1e-6).log()).sum(1) + 0 * logits.sum(1)
    return logits, torch.stack([logits.argmax(1).to(logits.dtype), uncertainty])


def _reports(
    learner: Learner, context: Tensor, index: Tensor, weights: Tensor
) -> tuple[Tensor, ...]:
    """Learn from a bank; the values of each step's report."""
    numbers = range(learner.settings.steps)
    return values_of([_step(learner, context, index, n, weights)[0] for n in numbers])


def _without_waiting(
    learner: Learner, count: int, context: Tensor, index: Tensor
) -> tuple[Tensor, ...]:
    """The last answer, not checked, and the values of each step's report."""
    (logits,), steps = _learn(learner, context, index, count, every=False, wait=False)
    return logits, *values_of(steps)


def _learn(
    learner: Learner, context: Tensor, index: Tensor, count: int, *, every: bool, wait: bool
) -> tuple[list[Tensor], list[Step]]:
    """As `adapt`, for the last images of a context; waits for the device only if asked to."""
    learner.reset.before(learner.state.forget)
    forward = partial(predict, learner, context, count)
    early = learner.answer.early(forward, learner.gives_logits)
    logits, steps = [], []
    for number in range(learner.settings.steps):
        if every:
            with learner.passing():
                logits.append(_answer(learner, forward, early, wait))
        step, outcome = _step(learner, context, index, number)
        if early is None and outcome is not None and outcome.logits is not None:
            early = _last(outcome.logits.detach(), outcome.features, count)
        steps.append(step)
    last = _answer(learner, forward, early, wait)
    if learner.answer.fixed:
        logits = [last] * len(logits)
    return [*logits, last], steps


def _step(
    learner: Learner, context: Tensor, index: Tensor, number: int, weights: Tensor | None = None
) -> tuple[Step, Outcome | None]:
    """A gradient step, and what follows it."""
    step, outcome = take_step(learner, context, index, number, weights)
    for aftermath in learner.aftermath:
        aftermath(step.taken)
    learner.reset.after(step, learner.state.forget)
    return step, outcome


def take_step(
    learner: Learner,
    context: Float[Tensor, "context 3 size size"],
    index: Int64[Tensor, " context"],
    number: int,
    importance: Float[Tensor, " context"] | None = None,
) -> tuple[Step, Outcome | None]:
    """One gradient step on the objective.

    Where loss or gradient is not finite, or no image is selected, nothing moves. That is decided
    on the device: the optimiser's own ``found_inf`` keeps it from moving anything.

    Args:
        learner: Changed in place.
        context: The images that are learned from, 0..1, not normalised.
        index: Index of each image in the stream.
        number: Number of the step on this batch: each draws other views.
        importance: A weight of each image, beside what the selection gives; None weighs all alike.

    Returns:
        The report, and what the objective computed in the first pass; None if it made none.
    """
    if len(context) < max(learner.min_images, getattr(learner.memory, "least", 1)):
        return learner.counted(too_few(context.device)), None
    learner.room.step(len(context))  # refuses what does not fit before anything moves
    objective, optimizer = learner.objective, learner.optimizer
    assert objective is not None
    views, *drawn = objective.draw(context, key(learner.settings.seed, "adapt", number), index)
    views = learner.preprocessing.normalize(views)
    learner.keep()
    if isinstance(optimizer, Search):
        step = learner.counted(search_step(learner, views, drawn, len(context), importance))
        learner.undo(step)
        return step, None
    outcomes, selected, reports = [], [], []

    def backward() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        again = bool(reports)  # a second pass leaves running statistics alone
        thrift = learner.room.step(len(context))
        with learner.norms.learning(apart=again), thrift, torch.enable_grad():
            outcome, weights, loss = evaluated(learner, views, drawn, importance, selected)
            loss.backward()
        outcomes.append(outcome)
        selected.append(weights)
        reports.append(report_of(learner.moving.values(), loss.detach(), weights, len(context)))
        wanted = torch.stack([each.taken for each in reports]).all()
        optimizer.found_inf = 1 - wanted.float()  # read by the fused step
        return reports[-1].loss

    try:
        optimizer.step(backward)
    except BaseException:  # out of memory, say: nothing of half a step stays
        learner.undo(refused(context.device))
        raise
    finally:
        optimizer.zero_grad(set_to_none=True)
    step = learner.counted(merged(reports))
    learner.undo(step)
    return step, outcomes[0]


def answer_only(
    learner: Learner, images: Float[Tensor, "batch 3 size size"]
) -> Float[Tensor, "batch classes"]:
    """The answer of the model as it is now; the state is left as it was.

    Args:
        learner: Its state is written back: an answer may move statistics or a correction.
        images: 0..1, not normalised.
    """
    before = learner.state.copy()
    forward = partial(predict, learner, images, len(images))
    try:
        return _answer(learner, forward, learner.answer.early(forward, False), wait=True)
    finally:
        learner.state.load(before)


def _answer(
    learner: Learner, forward: Predict, early: Prediction | None, wait: bool
) -> Float[Tensor, "batch classes"]:
    """The corrected answer; if checked and not finite, from the source weights."""
    logits = _corrected(learner, learner.answer.late(forward, early))
    return _recovered(learner, forward) if wait and not torch.isfinite(logits).all() else logits


def _recovered(learner: Learner, forward: Predict) -> Float[Tensor, "batch classes"]:
    """The answer from the source weights, in place of one that was not finite."""
    learner.recover()
    return _corrected(learner, learner.answer.late(forward, None))


def _corrected(learner: Learner, prediction: Prediction) -> Float[Tensor, "batch classes"]:
    """The corrected logits; parts that watch answers see the prediction before."""
    for part in learner.watching:
        part.sees(prediction)
    return learner.correction(prediction)


def predict(
    learner: Learner, context: Float[Tensor, "context 3 size size"], count: int, mirrored: bool
) -> Prediction:
    """A forward pass of the answering model.

    Args:
        learner: Its answering model is the adapted one, or a teacher.
        context: The images, 0..1, not normalised.
        count: Only the last so many images are answered for; the others count in statistics.
        mirrored: Whether the images are mirrored left to right.
    """
    norms = learner.norms if isinstance(learner.norms, ClassNorms) else None
    if norms is not None:  # which have seen earlier images
        context = context[-count:]
    images = learner.preprocessing.normalize(context.flip(-1) if mirrored else context)

    def run(few: int) -> tuple[Tensor, Tensor | None]:
        with autocast(learner.device, learner.settings.precision):
            return learner.answering(images[:few])

    with learner.room.answer(len(images), run):
        logits, features = run(len(images))
        if norms is not None and norms.kept and not mirrored:
            for keep in norms.namings(len(images)):
                with norms.entering(logits.argmax(1), keep=keep):
                    logits, features = run(len(images))
    return _last(logits, features, count)


def _last(logits: Tensor, features: Tensor | None, count: int) -> Prediction:
    """The prediction of the last images alone."""
    kept = None if features is None else features.detach()[-count:]
    return Prediction(logits.float()[-count:], kept)
