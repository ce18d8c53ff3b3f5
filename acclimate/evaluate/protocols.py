"""The protocols of the field by name: how images arrive, and what is forgotten between shifts."""

from dataclasses import dataclass, replace

from acclimate.errors import unknown_name
from acclimate.evaluate.task import Grid


@dataclass(frozen=True)
class NamedProtocol:
    """How images arrive. Which images, corruptions and severities come is the grid's."""

    summary: str
    """One line for people."""
    citation: str
    """Authors and year."""
    order: str
    """Order of arrival: a name of `acclimate.data.streams.ORDERS`."""
    window: int = 0
    """Length of the sliding window that single images pass through; 0 for batches."""


PROTOCOLS: dict[str, NamedProtocol] = {
    "reset": NamedProtocol(
        "one shift, random order; adapters begin anew with each shift",
        "Wang et al. 2021",
        "shuffled",
    ),
    "continual": NamedProtocol(
        "one shift after another, without a reset", "Wang et al. 2022", "continual"
    ),
    "gradual": NamedProtocol(
        "severities that rise and fall, one corruption after another, without a reset",
        "Wang et al. 2022",
        "gradual",
    ),
    "mixed": NamedProtocol("all shifts in one random order", "Marsden et al. 2024", "mixed"),
    "recurring": NamedProtocol(
        "the continual stream 20 times, without a reset", "Hoang et al. 2024", "recurring"
    ),
    "class-correlated": NamedProtocol(
        "one shift, images of a class close together; adapters begin anew with each shift",
        "Gong et al. 2022",
        "class-correlated",
    ),
    "class-correlated-continual": NamedProtocol(
        "one shift after another, images of a class close together, without a reset",
        "Yuan et al. 2023",
        "class-correlated-continual",
    ),
    "class-correlated-gradual": NamedProtocol(
        "severities that rise and fall, images of a class close together, without a reset",
        "Marsden et al. 2024",
        "class-correlated-gradual",
    ),
    "class-correlated-mixed": NamedProtocol(
        "all shifts in one order, images of a class close together",
        "Marsden et al. 2024",
        "class-correlated-mixed",
    ),
    "single-images": NamedProtocol(
        "single images of one shift, each answered for in a window of the last 16",
        "Marsden et al. 2024",
        "shuffled",
        window=16,
    ),
}
"""Every protocol by its name. Seeds, batch sizes and images are chosen beside it."""


def under(name: str, grid: Grid) -> Grid:
    """A grid under a protocol.

    ```python
    grid = under("continual", Grid(("fog", "snow"), methods=("source", "tent"), batch=200))
    ```

    Args:
        name: A name of `PROTOCOLS`.
        grid: Its orders are replaced; for single images its batch and, if it has none, its window.

    Raises:
        InputError: an unknown name.
    """
    if name not in PROTOCOLS:
        raise unknown_name("protocol", name, PROTOCOLS)
    protocol = PROTOCOLS[name]
    grid = replace(grid, orders=(protocol.order,))
    if not protocol.window:
        return grid
    return replace(grid, batch=1, window=grid.window or protocol.window)


def protocol_name(order: str, window: int) -> str:
    """The protocol of an order and a window; the order's own name where the field has none.

    ```python
    protocol_name("shuffled", 0)  # "reset"
    ```
    """
    for name, protocol in PROTOCOLS.items():
        if (protocol.order, bool(protocol.window)) == (order, bool(window)):
            return name
    return order
