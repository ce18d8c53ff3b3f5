"""A stream of the harm suite through an adapter, with a guard or without, and what came of it."""

import time
from dataclasses import dataclass

import torch
from guard_orders import Batches

from acclimate.adapt import Adapter
from acclimate.bundle import Bundle
from acclimate.guard import Guard


@dataclass(frozen=True)
class Answers:
    """What an adapter made of a stream."""

    right: list[int]
    """1 for each right answer, 0 for each wrong one, -1 for images of no class."""
    numbers: list[int]
    """Number of each image."""
    seconds: float
    """Time that the answers took, without making the stream."""
    adapted: int
    """With a guard: how many answers are the adapted model's."""
    rolled_back: int
    """With a guard: how often it took back what was learned."""
    changes: list[int]
    """With a guard: after how many images it found each change."""


def answered(
    bundle: Bundle, method: str, batches: Batches, *, guarded: bool, device: str | None
) -> Answers:
    """Let a new adapter answer for a stream.

    Args:
        bundle: With a calibration, if a guard is wanted.
        method: The adapter's method.
        batches: The stream. Labels only score the answers.
        guarded: Whether a guard calls the adapter.
        device: Where it runs; None finds it.
    """
    adapter = Adapter(bundle, method, device=device, precision="fp32")
    guard = Guard(adapter, bundle) if guarded else None
    answers, changes = [], []
    adapted = rolled_back = since = 0
    began = time.perf_counter()
    for images, *_ in batches:
        answers.append((guard or adapter)(images).argmax(1).cpu())
        if guard is None:
            continue
        verdict, change = guard.verdict, guard.change
        assert verdict is not None and change is not None
        adapted += int(verdict.use_adapted.sum())
        rolled_back += verdict.learning == "roll back"
        if change.found:
            since += change.since
            changes.append(since)
    seconds = time.perf_counter() - began
    labels = torch.cat([labels for _, labels, _ in batches])
    right = (torch.cat(answers) == labels).long().masked_fill(labels < 0, -1)
    numbers = torch.cat([numbers for *_, numbers in batches])
    return Answers(right.tolist(), numbers.tolist(), seconds, adapted, rolled_back, changes)
