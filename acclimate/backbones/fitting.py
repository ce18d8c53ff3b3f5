"""How passes of a network fit into a given memory: measured on a few images, then scaled."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from acclimate.backbones.recompute import Thrift, partitions
from acclimate.runtime.live import most_bytes

Run = Callable[[int], Any]
"""Passes of so many images."""


@dataclass(frozen=True)
class Need:
    """Memory of passes as a straight line over the number of images."""

    fixed: float
    """Bytes that do not depend on the images: gradients of the weights."""
    image: float
    """Bytes of each image."""

    def of(self, images: int) -> float:
        """Bytes of so many images."""
        return self.fixed + self.image * images

    def images_in(self, budget: float) -> int:
        """How many images a budget is enough for."""
        return max(0, int((budget - self.fixed) / max(self.image, 1)))


def measured(run: Run, few: int) -> Need:
    """The need of passes, from two numbers of images.

    Args:
        run: The passes, which must leave nothing behind.
        few: The smaller number; the other is twice that.
    """
    small, large = most_bytes(lambda: run(few)), most_bytes(lambda: run(2 * few))
    image = max(0, large - small) / few
    return Need(max(0.0, small - image * few), image)


def fitted(
    run: Run, network: nn.Module, *, few: int, images: int, budget: float, mixes: bool
) -> tuple[Thrift, Need]:
    """The cheapest way to run passes with gradients in a memory; the thriftiest if none fits.

    ```python
    thrift, need = fitted(run, encoder, few=2, images=64, budget=1e9, mixes=True)
    ```

    Args:
        run: The passes of so many images, which must leave nothing behind.
        network: The network in them, mapping images to features; its activations are what counts.
        few: Number of images that is enough for a pass.
        images: Number of images that are to fit.
        budget: Bytes that they may take.
        mixes: Whether images of a batch depend on each other in the network.
    """
    ways: list[tuple[Thrift, Need]] = [(Thrift(), measured(run, few))]
    if ways[0][1].of(images) <= budget:
        return ways[0]
    if not mixes:
        return _few_at_a_time(run, network, few=few, images=images, budget=budget)
    for modules in partitions(network, lambda: run(few)):
        thrift = Thrift(modules)
        with thrift.applied():
            ways.append((thrift, measured(run, few)))
        if ways[-1][1].of(images) <= budget:
            return ways[-1]
    return min(ways, key=lambda way: way[1].of(images))


def _few_at_a_time(
    run: Run, network: nn.Module, *, few: int, images: int, budget: float
) -> tuple[Thrift, Need]:
    """The network on as many images at a time as fit, each time with its own backward pass."""
    one = Thrift((network,), images=1)
    with one.applied():
        need = measured(run, few)
        single = most_bytes(lambda: run(2 * few))
    with Thrift((network,), images=2).applied():
        step = max(1, most_bytes(lambda: run(2 * few)) - single)
    at_once = 1 + int(max(0.0, budget - need.of(images)) / step)
    return Thrift((network,), images=at_once), need
