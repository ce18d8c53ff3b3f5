"""Peak memory and seconds of an adapted batch of photographs, without and with a memory limit."""

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from acclimate.commands.script import finish, start

PLAIN = "1TB"
"""A limit that nothing reaches: all activations are kept."""
_CHILD = """
import json, sys, time
import torch
from acclimate.adapt import Adapter
from acclimate.errors import InputError
from acclimate.runtime.memory import PeakMemory, keep_freed_memory
from acclimate.source.train import untrained
options = json.loads(sys.argv[1])
torch.set_num_threads(options["threads"])
keep_freed_memory()
bundle = untrained(options["method"], options["model"], options["size"], classes=1000)
shape = (options["batch"], 3, options["size"], options["size"])
images = torch.randint(0, 256, shape, dtype=torch.uint8)
limited = {} if options["limit"] is None else {"memory_limit": options["limit"]}
adapter = Adapter(bundle, device="cpu", precision=options["precision"], **limited)
with PeakMemory() as before:
    pass
started = time.perf_counter()
try:
    adapter(images)
except InputError as error:
    print(json.dumps({"refused": str(error)}))
    raise SystemExit
first, processor = time.perf_counter() - started, time.process_time()
for _ in range(options["batches"]):
    adapter(images)
seconds = (time.process_time() - processor) / options["batches"] / len(images)
with open("/proc/self/status") as status:
    peak = next(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM"))
assert not adapter.refused
print(json.dumps({"peak": peak, "before": before.most, "seconds": seconds, "first": first}))
"""


@dataclass
class Options:
    """Adapt batches in a process of their own, for each method and memory limit."""

    methods: tuple[str, ...] = ("ptbn", "tent", "cta")
    limits: tuple[str, ...] = (PLAIN, "default", "3.2GB", "2.2GB")
    """Memory limits of the process; default goes by the memory that is free."""
    model: str = "timm:tf_efficientnet_lite0"
    size: int = 224
    """Side of the images, in pixels."""
    batch: int = 64
    batches: int = 2
    """Batches that are timed, after one that is not."""
    precision: str = "auto"
    threads: int = 1
    seed: int = 0
    out: Path | None = None
    """A JSON file."""


def measured(options: Options, method: str, limit: str) -> dict:
    """One method under one limit."""
    wanted = asdict(options) | {"method": method, "out": None}
    wanted["limit"] = None if limit == "default" else limit
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, json.dumps(wanted)], capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main(options: Options) -> None:
    """Each method under each limit."""
    print(f"{'':8} {'limit':>8} {'peak GB':>8} {'before':>7} {'s/image':>8} {'ratio':>6}")
    rows = []
    for method in options.methods:
        plain = None
        for limit in options.limits:
            row = measured(options, method, limit)
            rows.append({"method": method, "limit": limit, **row})
            if "refused" in row:
                print(f"{method:8} {limit:>8} {row['refused']}", flush=True)
                continue
            plain = plain or row["seconds"]
            row["ratio"] = rows[-1]["ratio"] = row["seconds"] / plain
            print(
                f"{method:8} {limit:>8} {row['peak'] / 1e9:8.2f} {row['before'] / 1e9:7.2f} "
                f"{row['seconds']:8.3f} {row['ratio']:6.2f}",
                flush=True,
            )
    names = ("model", "size", "batch", "batches", "precision", "threads")
    settings = {name: getattr(options, name) for name in names}
    result = {"benchmark": "image_memory", "settings": settings, "rows": rows}
    finish(result, options.seed, options.out)


if __name__ == "__main__":
    start(main, Options)
