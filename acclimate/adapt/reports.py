"""The reports of gradient steps: of a pass, of several passes, and as a row of tensors."""

from collections.abc import Iterable, Sequence
from dataclasses import fields, replace

import torch
from torch import Tensor

from acclimate.parts.step import Step


def values_of(steps: Sequence[Step]) -> tuple[Tensor, ...]:
    """The values of reports in a row, as a recorder passes them on."""
    return tuple(getattr(step, field.name) for step in steps for field in fields(Step))


def steps_of(values: Sequence[Tensor]) -> list[Step]:
    """The reports whose values `values_of` gave."""
    width = len(fields(Step))
    return [Step(*values[start : start + width]) for start in range(0, len(values), width)]


def report_of(moving: Iterable[Tensor], loss: Tensor, weights: Tensor | None, count: int) -> Step:
    """The report of one pass, whose gradients are in the parameters."""
    gradients = [p.grad for p in moving if p.grad is not None]
    norms = torch.stack(torch._foreach_norm(gradients))
    if weights is None:
        images = torch.full((), count, device=loss.device)
    else:
        images = weights.count_nonzero()
    finite = torch.isfinite(loss + norms.sum())
    return Step(loss, torch.linalg.vector_norm(norms), images, finite)


def merged(reports: Sequence[Step]) -> Step:
    """The report of a step of one or more passes: each must be finite and have images."""
    last = reports[-1]
    for other in reports[:-1]:
        images = torch.minimum(last.images, other.images)
        loss = torch.where(other.loss.isfinite(), last.loss, other.loss)
        last = replace(last, loss=loss, images=images, finite=last.finite & other.finite)
    return last
