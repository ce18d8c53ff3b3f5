"""``acclimate methods``."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

RECORD = Path(__file__).with_name("methods.json")
"""The table as data, because counting takes a while. ``python docs/build/method_list.py`` writes
it."""


@dataclass(frozen=True)
class Methods:
    """List the methods: what each needs, how it adapts, and what it costs.

    The cost is the number of multiplications for an image in units of one forward pass of the
    classifier, in batches of 128 as published. The time is measured in the same unit, and the state
    is what an adapter remembers. All were found on small untrained networks; with --model or --size
    costs and states are counted anew on yours, which takes from seconds to minutes.

    Example: acclimate methods

    Example: acclimate methods --model torchvision:resnet50 --size 224
    """

    model: str | None = None
    """Classifier to count costs on: torchvision:NAME, timm:NAME or acclimate:NAME; by default the
    counts of acclimate:resnet14-w16 are shown."""
    transformer: str | None = None
    """Classifier for methods that need a vision transformer; default: acclimate:vit6-w192-p4."""
    size: int | None = None
    """Height and width of the images to count on, in pixels; default: 32."""

    def run(self, console: Console) -> None:
        """Run the command."""
        record = json.loads(RECORD.read_text(encoding="utf-8"))
        rows = record["methods"]
        given = {"model": self.model, "transformer": self.transformer, "size": self.size}
        given = {name: value for name, value in given.items() if value is not None}
        network = record["network"] | given
        if given:
            rows = _counted(rows, network, console)
        table = Table("method", "learns", "needs", "cost", "time", "moving", "state KB")
        for name, row in rows.items():
            figures = _cost(row), _time(row), _moving(row), _state(row)
            table.add_row(name, row["learns"], row["needs"], *figures)
        console.print(table)
        console.print(
            f"Costs: forward passes an image, of {network['model']} (or {network['transformer']}) "
            f"at {network['size']} pixels in batches of {record['batch']}.",
            highlight=False,
            markup=False,
        )
        frozen, machine = record["methods"]["source"]["milliseconds"], record["machine"]
        console.print(
            f"Times: over the frozen classifier's, which took {frozen:.2g} ms an image of "
            f"{record['network']['model']} on one core of an {machine['processor']}. State: what "
            f"an adapter remembers of a stream.",
            highlight=False,
            markup=False,
        )
        for name, row in rows.items():
            console.print(f"{name}: {row['summary']} ({row['citation']})", highlight=False)


def _counted(rows: dict[str, Any], network: dict[str, Any], console: Console) -> dict[str, Any]:
    """The rows with costs counted on another network."""
    from acclimate.errors import InputError
    from acclimate.evaluate.costs import check_memory, count_cost
    from acclimate.methods import METHODS
    from acclimate.methods.words import tried_on_transformer
    from acclimate.runtime.progress import live

    needed = check_memory(network["model"], network["size"])
    console.print(f"counting takes about {needed / 2**20:,.0f} MiB of memory", highlight=False)
    counted = {}
    with live() as progress:
        for done, (name, row) in enumerate(rows.items()):
            progress("count costs", done, len(rows), name)
            transformer = tried_on_transformer(METHODS[name])
            model = network["transformer" if transformer else "model"]
            try:
                cost = count_cost(name, model, network["size"])
                counts = cost.forward_equivalents, cost.moving_parameters, cost.state_bytes
            except InputError as error:
                counts = f"not on {model}: {error}", None, None
            names = "forward_equivalents", "moving_parameters", "state_bytes"
            counted[name] = row | {"time": None} | dict(zip(names, counts))
    return counted


def _cost(row: dict[str, Any]) -> str:
    cost = row["forward_equivalents"]
    return cost if isinstance(cost, str) else f"{cost:.1f}"


def _moving(row: dict[str, Any]) -> str:
    moving = row["moving_parameters"]
    return "-" if moving is None else f"{moving:,}"


def _time(row: dict[str, Any]) -> str:
    return "-" if row["time"] is None else f"{row['time']:.1f}"


def _state(row: dict[str, Any]) -> str:
    state = row["state_bytes"]
    return "-" if state is None else f"{state / 1e3:,.1f}"
