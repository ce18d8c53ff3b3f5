"""Room for training: how the steps of a stage keep within the memory that there is."""

from collections.abc import Callable

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from acclimate.backbones.fitting import fitted, measured
from acclimate.backbones.recompute import Thrift
from acclimate.errors import InputError
from acclimate.randomness import Key
from acclimate.runtime.budget import for_passes, show_bytes
from acclimate.runtime.live import most_bytes
from acclimate.runtime.memory import return_freed_memory
from acclimate.runtime.precision import Precision, autocast
from acclimate.runtime.ranks import agree

_FEW, _ENOUGH = 2, 8
"""Images of a trial, and of one that shows what each image takes."""
_SPARE = 1.4
"""How much more than planned steps may take before they are refused, where no limit is given."""


class DoesNotFitError(InputError):
    """A step does not fit into the memory.

    Args:
        reason: What does not fit.
        stage: Name of the stage.
        fits: Number of images in a batch of this process that fits; fewer than 2 where none does.
    """

    def __init__(self, reason: str, stage: str, fits: int):
        self.reason: str = reason
        self.stage: str = stage
        self.fits: int = fits
        super().__init__(self.told(f"{stage}.batch={fits}"))

    def told(self, settings: str) -> str:
        """The message, with how a batch that fits is given."""
        smaller = f"a batch of {self.fits} images ({settings}), " if self.fits >= 2 else ""
        return f"{self.reason}; choose {smaller}smaller images, or more memory."


def room_for(
    name: str,
    module: nn.Module,
    loss: Callable[[nn.Module, Int64[Tensor, " batch"], Key], Tensor],
    *,
    batch: int,
    count: int,
    precision: Precision,
    limit: int | None,
) -> Thrift:
    """How a stage's steps fit into the memory: small ones are left as they are.

    A trial on a few images shows it, which leaves nothing behind.

    Args:
        name: Name of the stage.
        module: What is trained, in training mode.
        loss: The loss of the images of some indices.
        batch: Images in a step of this process.
        count: Number of images in all.
        precision: Precision of the forward passes.
        limit: The most bytes that the process may hold; None goes by what is free.

    Raises:
        DoesNotFitError: a step does not fit; with a batch that does.
    """
    device = next(module.parameters()).device

    def trial(images: int) -> None:
        before = [(buffer, buffer.clone()) for buffer in module.buffers()]
        with torch.random.fork_rng():
            with autocast(device, precision):
                value = loss(module, torch.arange(images, device=device) % count, 0)
            value.backward()
        for parameter in module.parameters():
            parameter.grad = None
        for buffer, kept in before:
            buffer.data.copy_(kept)

    few = min(_FEW, batch)
    budget = _budget(limit, device)
    if most_bytes(lambda: trial(few)) / few * batch <= budget:
        return Thrift()
    if measured(trial, few).of(batch) <= budget:
        return Thrift()
    if device.type == "cpu":
        return_freed_memory()
        budget = _budget(limit, device)
    few = max(few, min(_ENOUGH, batch // 2))
    thrift, need = fitted(trial, module, few=few, images=batch, budget=budget, mixes=True)
    if need.of(batch) > budget * (1 if limit else _SPARE):
        raise DoesNotFitError(
            f"a step of the stage {name} on {batch} images needs about "
            f"{show_bytes(need.of(batch))}, and {show_bytes(budget)} are left",
            name,
            need.images_in(budget),
        )
    return thrift


def check_room(
    passes: Callable[[int], object], *, images: int, device: torch.device, limit: int | None
) -> None:
    """Refuse passes without gradients that do not fit into the memory, before they start.

    Args:
        passes: Such passes of so many images.
        images: Number of images that come together.
        device: Where they run.
        limit: As for `room_for`.

    Raises:
        InputError: they do not fit.
    """
    need, budget = measured(passes, _FEW), for_passes(limit, device)
    if need.of(images) > budget * (1 if limit else _SPARE):
        raise InputError(
            f"a pass of {images} images, with which it is measured how far a batch is trusted, "
            f"needs about {show_bytes(need.of(images))}, and {show_bytes(budget)} are left; give "
            "more memory, or no images, which takes a rule of thumb."
        )


def _budget(limit: int | None, device: torch.device) -> float:
    """The same in all processes, for they must decide alike."""
    budget = torch.tensor(for_passes(limit, device), dtype=torch.float64, device=device)
    agree([budget])
    return float(budget)
