"""Write what ``acclimate methods`` lists, costs included, as data of the package.

    python docs/build/method_list.py

Run it after a change of a method, its settings or its words. The costs take some seconds.
"""

import json
from typing import Any

from acclimate.commands.methods import RECORD
from acclimate.evaluate.costs import BATCH, count_cost
from acclimate.methods import METHODS
from acclimate.methods.words import learns, needs, needs_transformer

NETWORK = {"model": "acclimate:resnet14-w16", "transformer": "acclimate:vit6-w192-p4", "size": 32}


def words(name: str) -> dict[str, str]:
    """What is said about a method."""
    row = METHODS[name]
    return {
        "summary": row.summary,
        "citation": row.citation,
        "learns": learns(row),
        "needs": needs(row),
    }


def cost(name: str) -> dict[str, Any]:
    """What a method costs on the network of the record."""
    transformer = needs_transformer(METHODS[name])
    found = count_cost(name, NETWORK["transformer" if transformer else "model"], NETWORK["size"])
    return {
        "forward_equivalents": round(found.forward_equivalents, 3),
        "moving_parameters": found.moving_parameters,
    }


if __name__ == "__main__":
    rows = {name: words(name) | cost(name) for name in METHODS}
    record = {"network": NETWORK, "batch": BATCH, "methods": rows}
    RECORD.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
