"""Costs of methods on untrained networks, counted on a few images and scaled to a batch."""

import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median

import torch

from acclimate.adapt import Adapter, Cost
from acclimate.errors import InputError
from acclimate.methods import changed, method
from acclimate.parts.banks import Balanced, Reservoir
from acclimate.runtime.budget import free_bytes
from acclimate.source.train import untrained

BATCH = 128
"""Images in a batch: as published."""
_ALONE = 2
"""Images by which a method is timed that adapts to each alone."""
_LONGEST = 16
"""The most steps that are timed; the time of more is in proportion. A round of WATT has as many."""
_VIEWS = 32
"""The most views of images that a method learns from at a time while it is counted."""


def count_cost(name: str, model: str, size: int, batch: int = BATCH) -> Cost:
    """Cost of an image for a method on an untrained network.

    ```python
    count_cost("cta", "torchvision:resnet50", 224).forward_equivalents
    ```

    A batch of images of 224 pixels takes much memory, so a few images are counted. Similarities
    between all images grow with the batch, and so does their cost for each image, in proportion.

    Args:
        name: A name of `acclimate.methods.METHODS`.
        model: Name of a classifier, as for `acclimate.build`.
        size: Height and width of the images, in pixels.
        batch: Images in a batch.

    Raises:
        InputError: a name is unknown, or the method cannot use the model.
    """
    adapter = Adapter(untrained(name, model, size), name, device="cpu")
    if batch <= 4 or adapter.settings.one_by_one:
        return adapter.cost(batch)
    memory = adapter.settings.memory
    if isinstance(memory, Balanced | Reservoir):  # its steps are on so many images
        few, batch = 2, memory.images
        first, second = (
            Adapter(
                untrained(name, model, size),
                name,
                device="cpu",
                memory={"images": count, "every": count},
            ).cost(count)
            for count in (few, few + 2)
        )
    else:
        few = max(2, memory.images)
        first, second = adapter.cost(few), adapter.cost(few + 2)
    further = (batch - few) / 2

    def at_batch(name: str) -> float:
        before, after = getattr(first, name), getattr(second, name)
        return before + further * (after - before)

    return replace(
        first,
        forward_equivalents=at_batch("forward_equivalents"),
        held_bytes=round(at_batch("held_bytes")),
        activation_bytes=round(at_batch("activation_bytes")),
        state_bytes=round(at_batch("state_bytes")),
    )


def time_over_frozen(name: str, model: str, size: int, *, rounds: int = 3) -> tuple[float, float]:
    """Time of an image over that of the frozen classifier, and this one's in milliseconds.

    Both take a batch in turn, after a first round that does not count; the median of the ratios is
    taken. It is time of one core, whatever else the machine does.

    ```python
    ratio, milliseconds = time_over_frozen("tent", "acclimate:resnet26", 32)
    ```

    Args:
        name: A name of `acclimate.methods.METHODS`.
        model: Name of a classifier, as for `acclimate.build`.
        size: Height and width of the images, in pixels.
        rounds: Number of rounds.

    Raises:
        InputError: a name is unknown, or the method cannot use the model.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        bundle = untrained(name, model, size)
        steps = method(name).settings.steps
        settings = changed(method(name).settings, {"steps": min(steps, _LONGEST)})
        adapter = Adapter(bundle, name, settings, device="cpu")
        frozen = Adapter(bundle, "source", device="cpu")
        images = torch.rand(BATCH, 3, size, size, generator=torch.Generator().manual_seed(0))
        few = images[: _ALONE if adapter.settings.one_by_one else BATCH]
        pairs = [(_seconds(adapter, few), _seconds(frozen, images)) for _ in range(rounds + 1)][1:]
    finally:
        torch.set_num_threads(threads)
    longer = max(1, steps / _LONGEST)
    return longer * median(mine / its for mine, its in pairs), 1e3 * median(its for _, its in pairs)


def _seconds(answer: Callable[[torch.Tensor], object], images: torch.Tensor) -> float:
    """Processor time of an image."""
    began = time.process_time()
    answer(images)
    return (time.process_time() - began) / len(images)


def memory_to_count(model: str, size: int) -> int:
    """About how many bytes `count_cost` takes on a model, whatever the method.

    Raises:
        InputError: the name is unknown, or the model takes no such images.
    """
    adapter = Adapter(
        untrained("tent", model, size), "tent", device="cpu", update={"parameters": "all"}
    )
    return _VIEWS * adapter.cost(2).activation_bytes // 2


def check_memory(model: str, size: int) -> int:
    """The bytes of `memory_to_count`, if the machine has them.

    Raises:
        InputError: it has not; the message says how many are needed and free.
    """
    needed, free = memory_to_count(model, size), free_bytes(torch.device("cpu"))
    if needed > free:
        raise InputError(
            f"counting costs of {model} at {size} pixels needs about {needed / 2**30:.1f} GiB of "
            f"memory, and {free / 2**30:.1f} are free; give a smaller --size."
        )
    return needed
