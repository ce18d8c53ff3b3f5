"""What a gradient step reports."""

from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor


@dataclass(frozen=True)
class Step:
    """One gradient step, or one of each image where images are learned from alone.

    The values stay on their device; reading one there waits for the step.

    ```python
    adapter(images)
    for step in adapter.steps:
        print(float(step.loss), int(step.images), step.reason or "taken")
    ```
    """

    loss: Float[Tensor, "*alone"]
    """The loss that was minimised, with SAM at the worst point; NaN if none was computed."""
    gradient_norm: Float[Tensor, "*alone"]
    """Length of the gradient of all parameters that move."""
    images: Int64[Tensor, "*alone"]
    """The images that were learned from; 0 if the step was skipped."""
    finite: Bool[Tensor, "*alone"]
    """Whether loss and gradient were finite; if not, the step was refused."""

    def __repr__(self) -> str:
        loss, images = self.loss.nanmean().item(), int(self.images.sum())
        return f"Step({self.reason or 'taken'}, loss {loss:.4g}, {images} images)"

    @property
    def taken(self) -> Bool[Tensor, "*alone"]:
        """Whether parameters moved."""
        return self.finite & (self.images > 0)

    @property
    def skipped(self) -> Bool[Tensor, "*alone"]:
        """Whether there was no image to learn from."""
        return self.finite & (self.images == 0)

    @property
    def refused(self) -> Bool[Tensor, "*alone"]:
        """Whether the step was undone."""
        return ~self.finite

    @property
    def reason(self) -> str:
        """Why no parameter moved, in words; empty if one did."""
        if bool(self.taken.any()):
            return ""
        if bool(self.skipped.all()):
            few = bool(self.loss.isnan().all())
            return "too few images for a step" if few else "no image was selected"
        return (
            "the gradient was not finite"
            if bool(self.loss.isfinite().all())
            else "the loss was not finite"
        )


def too_few(device: torch.device) -> Step:
    """The report of a step for which there were too few images."""
    nan = torch.full((), torch.nan, device=device)
    none = torch.zeros((), dtype=torch.int64, device=device)
    return Step(nan, nan, none, torch.ones((), dtype=torch.bool, device=device))


def refused(device: torch.device) -> Step:
    """The report of a step that ended in an error."""
    return replace(too_few(device), finite=torch.zeros((), dtype=torch.bool, device=device))


def stacked(steps: list[Step]) -> Step:
    """The reports of one step of several images that were learned from alone."""
    return Step(*(torch.stack([getattr(s, f.name) for s in steps]) for f in fields(Step)))
