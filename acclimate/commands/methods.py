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
    """List the methods: what each needs, how it adapts, and its cost per image.

    The cost is the number of multiplications in units of one forward pass of the classifier, in
    batches of 128 as published. It was counted on small untrained networks; with --model or --size
    it is counted anew on yours, which takes from seconds to minutes.

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
        table = Table("method", "learns", "needs", "cost", "moving")
        for name, row in rows.items():
            table.add_row(name, row["learns"], row["needs"], _cost(row), _moving(row))
        console.print(table)
        console.print(
            f"Costs: forward passes an image, of {network['model']} (or {network['transformer']}) "
            f"at {network['size']} pixels in batches of {record['batch']}.",
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
    from acclimate.methods.words import needs_transformer
    from acclimate.runtime.progress import live

    needed = check_memory(network["model"], network["size"])
    console.print(f"counting takes about {needed / 2**20:,.0f} MiB of memory", highlight=False)
    counted = {}
    with live() as progress:
        for done, (name, row) in enumerate(rows.items()):
            progress("count costs", done, len(rows), name)
            transformer = needs_transformer(METHODS[name])
            model = network["transformer" if transformer else "model"]
            try:
                cost = count_cost(name, model, network["size"])
                counts = (cost.forward_equivalents, cost.moving_parameters)
            except InputError as error:
                counts = (f"not on {model}: {error}", None)
            counted[name] = row | dict(zip(("forward_equivalents", "moving_parameters"), counts))
    return counted


def _cost(row: dict[str, Any]) -> str:
    cost = row["forward_equivalents"]
    return cost if isinstance(cost, str) else f"{cost:.1f}"


def _moving(row: dict[str, Any]) -> str:
    moving = row["moving_parameters"]
    return "-" if moving is None else f"{moving:,}"
