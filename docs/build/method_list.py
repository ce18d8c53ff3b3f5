"""Write what ``acclimate methods`` lists, costs included, as data of the package.

    python docs/build/method_list.py

Run it after a change of a method, its settings or its words. Costs are counted in seconds. Times
take some minutes; only those are measured that the list lacks, or all with ``--times``.
"""

import json
import sys
from typing import Any

from acclimate.commands.methods import RECORD
from acclimate.evaluate.costs import BATCH, count_cost, time_over_frozen
from acclimate.methods import METHODS
from acclimate.methods.words import learns, needs, tried_on_transformer
from acclimate.runtime.machine import describe

NETWORK = {"model": "acclimate:resnet14-w16", "transformer": "acclimate:vit6-w192-p4", "size": 32}
TIMES = ("time", "milliseconds")
MACHINE = ("processor", "torch", "commit")


def words(name: str) -> dict[str, str]:
    """What is said about a method."""
    row = METHODS[name]
    return {
        "summary": row.summary,
        "citation": row.citation,
        "learns": learns(row),
        "needs": needs(row),
    }


def network(name: str) -> str:
    """The network of the record that a method is tried on."""
    return NETWORK["transformer" if tried_on_transformer(METHODS[name]) else "model"]


def cost(name: str) -> dict[str, Any]:
    """What a method costs on the network of the record."""
    found = count_cost(name, network(name), NETWORK["size"])
    return {
        "forward_equivalents": round(found.forward_equivalents, 3),
        "moving_parameters": found.moving_parameters,
        "state_bytes": found.state_bytes,
    }


def timed(name: str) -> dict[str, float]:
    """How long an image takes on this machine: over the frozen classifier, and in milliseconds."""
    print("time", name, flush=True)
    ratio, frozen = time_over_frozen(name, network(name), NETWORK["size"])
    return {"time": round(ratio, 2), "milliseconds": round(ratio * frozen, 3)}


def written(old: dict[str, Any], anew: bool) -> dict[str, Any]:
    """The record, with the times of an old one for the methods that this has."""
    kept = {} if anew else old["methods"]
    times = {n: {k: r[k] for k in TIMES} for n, r in kept.items() if n in METHODS and "time" in r}
    rows = {n: words(n) | cost(n) | (times.get(n) or timed(n)) for n in METHODS}
    machine = {name: describe()[name] for name in MACHINE} if len(times) == 0 else old["machine"]
    return {"network": NETWORK, "batch": BATCH, "machine": machine, "methods": rows}


if __name__ == "__main__":
    before = json.loads(RECORD.read_text(encoding="utf-8"))
    record = written(before, "--times" in sys.argv[1:])
    RECORD.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
