"""Measure one method on one stream; the labels stay on this side."""

import time
from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from acclimate.adapt import Adapter
from acclimate.bundle import Bundle
from acclimate.data import LabelledImages, Shift, Stream, streams
from acclimate.evaluate.cell import Cell
from acclimate.evaluate.metrics import expected_calibration_error
from acclimate.methods import AdapterSettings, method

LR0 = "-lr0"
"""``cta-lr0`` is ``cta`` with learning rate 0: what is left without the gradient steps."""


def settings_of(name: str) -> AdapterSettings:
    """The settings of a method, or of a method at learning rate 0."""
    settings = method(name.removesuffix(LR0)).settings
    return replace(settings, learning_rate=0.0) if name.endswith(LR0) else settings


def measure(
    bundle: Bundle,
    name: str,
    data: LabelledImages,
    corruption: str,
    severity: int,
    *,
    seed: int = 0,
    batch: int = 128,
    curve: bool = False,
    settings: AdapterSettings | None = None,
    advance: Callable[[int], None] = lambda images: None,
) -> Cell:
    """Let a method answer for every image once, in a seeded random order, and score it.

    Images are corrupted as they arrive, so that one batch of pixels is held at a time.

    Args:
        bundle: What adapts.
        name: A method, or ``METHOD-lr0``.
        data: The images; the adapter sees these without labels.
        corruption: Its name, or ``"none"``.
        severity: 1..5, or 0 with ``"none"``.
        seed: Of order, corruption and views.
        batch: Images that arrive together.
        curve: Also score the answers before and after each step; ``seconds`` then includes these
            extra forward passes.
        settings: Instead of the method's own.
        advance: Called with the number of images done since the last call.

    Returns:
        The measurement.

    Raises:
        InputError: an unknown method or corruption, or a bundle that lacks what the method needs.
    """
    settings = replace(settings or settings_of(name), seed=seed)
    adapter = Adapter(bundle, name.removesuffix(LR0), settings)
    shift = Shift(corruption, severity)
    stream = streams.shuffled(data.images, shift, batch=batch, seed=seed)
    logits, seconds = _answers(adapter, stream, curve, advance)
    correct = logits.argmax(2) == data.labels
    confidence, predictions = logits[-1].softmax(1).max(1)
    accuracies = correct.double().mean(1).tolist()
    return Cell(
        method=name,
        dataset=data.name,
        corruption=corruption,
        severity=severity,
        order="shuffled",
        seed=seed,
        accuracy=accuracies[-1],
        ece=expected_calibration_error(confidence, correct[-1]),
        n_images=stream.length,
        steps=settings.steps,
        seconds=seconds,
        images_per_second=stream.length / seconds,
        refused_steps=adapter.refused,
        predictions=tuple(predictions.tolist()),
        confidences=tuple(round(value, 4) for value in confidence.tolist()),
        curve=tuple(accuracies) if curve else (),
    )


def _answers(
    adapter: Adapter, stream: Stream, curve: bool, advance: Callable[[int], None]
) -> tuple[Float[Tensor, "steps images classes"], float]:
    """Logits in the images' own order, before and after each step with ``curve``; and seconds.

    Of a stream in which every image comes once.
    """
    answers, numbers, seconds = [], [], 0.0
    for arrived in stream:
        started = time.perf_counter()
        logits = adapter.trace(arrived.images) if curve else adapter(arrived.images)[None]
        seconds += time.perf_counter() - started
        answers.append(logits.cpu())
        numbers.append(arrived.numbers)
        advance(len(arrived.numbers))
    given = torch.cat(answers, dim=1)
    logits = torch.empty_like(given)
    logits[:, torch.cat(numbers)] = given
    return logits, seconds
