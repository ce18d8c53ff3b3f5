"""Measure one variant of a method on one stream; the labels stay on this side."""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy

from acclimate.adapt import Adapter
from acclimate.bundle import Bundle
from acclimate.data import LabelledImages, Shift, Stream
from acclimate.data.classes import match_classes
from acclimate.evaluate.arrival import arrange
from acclimate.evaluate.cell import Answers, Cell
from acclimate.evaluate.metrics import expected_calibration_error
from acclimate.evaluate.variant import Variant
from acclimate.evaluate.window import SlidingWindow
from acclimate.methods import AdapterSettings
from acclimate.parts.answer import After
from acclimate.runtime.memory import PeakMemory
from acclimate.runtime.precision import autocast

_ALONE = 16
"""Number of images that the speed of a method is measured on which learns from each alone."""


def measure(
    bundle: Bundle,
    variant: Variant,
    data: LabelledImages,
    shifts: Sequence[Shift],
    *,
    order: str = "shuffled",
    seed: int = 0,
    batch: int = 128,
    window: int = 0,
    curve: bool = False,
    settings: AdapterSettings | None = None,
    label: str = "",
    advance: Callable[[int], None] = lambda images: None,
    **where: Any,
) -> tuple[Cell, ...]:
    """Let a variant answer for every image of a stream, and score the answers.

    ```python
    (cell,) = measure(bundle, Variant("cta"), data, [Shift("fog", 5)])
    ```

    Args:
        bundle: The bundle that adapts.
        variant: The method and its changes.
        data: The images; the adapter sees them without labels.
        shifts: One shift, or several for an order that takes several.
        order: Order of arrival, a name of `acclimate.data.streams.ORDERS`.
        seed: Seed of order, corruption and views.
        batch: Images that arrive together.
        window: Length of the window that single images pass through, without a curve; or 0.
        curve: Also score the answers before and after each step.
        settings: Used in place of the variant's.
        label: Label of the bundle in the result.
        advance: Called with the number of images done since the last call.
        where: ``device`` and ``memory_limit`` of the `Adapter`.

    Returns:
        A cell for each shift, in the order in which they first come.

    Raises:
        InputError: an unknown name, images of another domain than the shift says, or a bundle for
            other classes or that lacks what the method needs.
    """
    settings = replace(settings or variant.settings, seed=seed)
    match = match_classes(bundle.classes, data.classes, whose="the bundle", data=data.name)
    stream = arrange(order, data, shifts, batch=batch, seed=seed)
    with PeakMemory() as memory:
        adapter = Adapter(bundle, variant.method, settings, **where)
        answer = _answering(adapter, window, curve)
        logits, numbers, places, seconds = _answers(answer, stream, advance)
        refused, rate = adapter.refused, _rate(adapter, stream, seconds, curve)
    common: dict[str, Any] = {"variant": variant, "bundle": label, "dataset": data.name}
    common |= {"order": order, "seed": seed, "batch": batch}
    common |= {"window": window, "steps": settings.steps, "refused_steps": refused}
    common |= {"seconds": seconds, "images_per_second": rate, "peak_memory": memory.most}
    if order == "growing-noise":  # its severity is another for each image
        places = {shifts[0]: range(stream.length)}
    scores = partial(_scores, logits, numbers, match.outputs[data.labels[numbers]], curve)
    return tuple(Cell(**common, **scores(*place)) for place in places.items())


def _answering(adapter: Adapter, window: int, curve: bool) -> Callable[[Tensor], Tensor]:
    """What answers: the adapter, with a curve or in a window."""
    if window:
        return SlidingWindow(adapter, window)
    return adapter.trace if curve else adapter


def _scores(
    logits: Float[Tensor, "steps images classes"],
    numbers: Tensor,
    labels: Tensor,
    curve: bool,
    shift: Shift,
    places: Sequence[int],
) -> dict[str, Any]:
    """The fields of a cell that are of the images at these places of the stream."""
    rows = torch.tensor(places)
    logits, numbers, labels = logits[:, rows], numbers[rows], labels[rows]
    right = logits.argmax(2) == labels
    confidences, predictions = logits[-1].softmax(1).max(1)
    accuracies = right.double().mean(1).tolist()
    answers = (rows, numbers, predictions, confidences, right[-1])
    return {
        "corruption": shift.corruption,
        "severity": shift.severity,
        "domain": shift.domain,
        "accuracy": accuracies[-1],
        "ece": expected_calibration_error(confidences, right[-1]),
        "nll": cross_entropy(logits[-1].double(), labels).item(),
        "n_images": len(rows),
        "curve": tuple(accuracies) if curve else (),
        "answers": Answers(*(np.asarray(values) for values in answers)),
    }


def _answers(
    answer: Callable[[Tensor], Tensor], stream: Stream, advance: Callable[[int], None]
) -> tuple[Float[Tensor, "steps images classes"], Tensor, dict[Shift, list[int]], float]:
    """Answer for a stream, with logits or with those before and after each step.

    Returns:
        Logits in the order of arrival; the index of each image in the data set; the positions of
        each shift; the seconds it took.
    """
    answers, numbers, seconds = [], [], 0.0
    places: dict[Shift, list[int]] = defaultdict(list)
    for arrived in stream:
        started = time.perf_counter()
        logits = answer(arrived.images).cpu()
        answers.append(logits if logits.ndim == 3 else logits[None])
        seconds += time.perf_counter() - started
        numbers.append(arrived.numbers)
        first = arrived.position - len(arrived.numbers)
        for place, shift in enumerate(arrived.shifts, first):
            places[shift].append(place)
        advance(len(arrived.numbers))
    return torch.cat(answers, dim=1), torch.cat(numbers), places, seconds


def _rate(adapter: Adapter, stream: Stream, seconds: float, curve: bool) -> float:
    """Images per second, without the extra answers of a curve.

    One more forward pass tells how long the extra answers took. With images alone, or answers of
    another kind than one pass after the steps, some images are adapted to again.
    """
    if not (curve and adapter.settings.steps):
        return stream.length / seconds
    images = next(iter(stream)).images
    if adapter.settings.one_by_one or adapter.settings.answer != After():
        images = images[:_ALONE] if adapter.settings.one_by_one else images
        adapter.reset()
        started = time.perf_counter()
        adapter(images).cpu()
        return len(images) / (time.perf_counter() - started)
    normalized = adapter.preprocessing(images.to(adapter.device))
    with torch.no_grad(), autocast(adapter.device, adapter.settings.precision):
        started = time.perf_counter()
        adapter.model(normalized).cpu()
        one = (time.perf_counter() - started) / len(images)
    extra = adapter.settings.steps * one * stream.length
    return stream.length / max(seconds - extra, seconds / 2)
