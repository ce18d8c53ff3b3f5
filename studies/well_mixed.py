r"""What a guard gains by knowing that all classes come as among source images.

    python studies/well_mixed.py --data cifar10.zip --bundle runs/estimates/bundle \
        --label resnet20 --out runs/well_mixed --results results/well-mixed

Test images under the 15 corruptions and none, in random order, where that is so, and sorted by
class, where it is not. Each stream goes through an adapter, and through one with a guard that knows
nothing (``any``) and one that was told so (``as-source``). The bundle needs the calibration of a
guard. An interrupted study resumes: each stream and method is one file. Another run with another
label adds to the results.
"""

import csv
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from hashlib import sha256
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, get_args

import torch
from bundles import in_processes
from rich.console import Console
from rich.table import Table
from torch import Tensor

from acclimate.adapt import Adapter
from acclimate.backbones.code import trusted_code
from acclimate.bundle import Bundle
from acclimate.commands.script import finish, recorded_options, start, write_table
from acclimate.data import LabelledImages, corrupt, load
from acclimate.data.corruptions import PUBLISHED
from acclimate.evaluate.cell import CLEAN
from acclimate.evaluate.task import checksum_of
from acclimate.guard import Guard, Rules
from acclimate.guard.rules import ClassShares
from acclimate.runtime.memory import keep_freed_memory
from acclimate.storage.atomic import write_text

Order = Literal["shuffled", "sorted"]
TOLD: tuple[ClassShares, ...] = get_args(ClassShares)
SEVERITY = 5


@dataclass(frozen=True)
class Arguments:
    """A bundle, data, and what is measured."""

    data: str
    """Name of a data set, or train/CLASS/IMAGE and test/CLASS/IMAGE: a folder or a zip."""
    bundle: Path
    """Folder of the bundle."""
    label: str
    """What the bundle is called in the results."""
    out: Path
    """Folder for the measurements."""
    results: Path | None = None
    """Folder for the results that are kept."""
    methods: tuple[str, ...] = ("acclimate", "aligned-bn", "tent")
    """Methods beside the frozen classifier."""
    corruptions: tuple[str, ...] = (CLEAN, *PUBLISHED)
    """Corruptions at severity 5; ``none`` is clean images."""
    orders: tuple[Order, ...] = get_args(Order)
    """Orders of arrival."""
    images: int = 512
    """Test images of each stream."""
    batch: int = 64
    """Images that arrive together."""
    seed: int = 0
    """Seed of the images, their order and the corruptions."""
    workers: int = 2
    """Processes, each with one thread."""


@dataclass(frozen=True)
class Unit:
    """One stream and one method."""

    order: Order
    corruption: str
    method: str

    def path(self, arguments: Arguments) -> Path:
        """The file of its measures: another for other images, rules or bundle."""
        made = [arguments.data, arguments.images, arguments.batch, arguments.seed]
        made += [checksum_of(arguments.bundle), asdict(Rules())]
        mark = sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:12]
        name = f"{self.order}_{self.corruption}_{self.method}_{mark}.json"
        return arguments.out / arguments.label / name


def main(arguments: Arguments) -> None:
    """Measure what is missing, and write what is kept."""
    keep_freed_memory()
    torch.set_num_threads(1)
    every = [
        Unit(order, corruption, method)
        for order in arguments.orders
        for method in arguments.methods
        for corruption in arguments.corruptions
    ]
    if todo := [unit for unit in every if not unit.path(arguments).exists()]:
        in_processes(partial(measure, arguments), todo, arguments.workers, "streams")
    rows = [
        {"bundle": arguments.label, **asdict(unit), **json.loads(unit.path(arguments).read_text())}
        for unit in every
    ]
    sums = list(totals(rows))
    table = Table(*sums[0])
    for row in sums:
        table.add_row(*map(str, row.values()))
    Console(width=200).print(table)
    if folder := arguments.results:
        write_table(folder / "streams.csv", _others(folder / "streams.csv", arguments) + rows)
        write_table(folder / "summary.csv", _others(folder / "summary.csv", arguments) + sums)
        record = {"options": recorded_options(arguments), "rules": asdict(Rules())}
        finish(record, arguments.seed, folder / f"{arguments.label}.json")


def measure(arguments: Arguments, unit: Unit) -> None:
    """Accuracies of a stream in percent, and errors of the guards' estimates in points."""
    images, labels = stream(arguments, unit.order, unit.corruption)
    bundle = _bundle(arguments.bundle)

    def made() -> Adapter:
        return Adapter(bundle, unit.method, precision="fp32")

    def right(answers: Sequence[Tensor]) -> float:
        return round(100 * float((torch.cat(list(answers)) == labels).double().mean()), 2)

    adapter, found = made(), {}
    batches = images.split(arguments.batch)
    found["adapted"] = right([adapter(batch).argmax(1).cpu() for batch in batches])
    for told in TOLD:
        guard = Guard(made(), bundle, rules=Rules(class_shares=told))
        answers = []
        for batch in batches:
            given = guard(batch)
            assert guard.both is not None
            answers.append([each.argmax(1).cpu() for each in (*guard.both, given)])
        frozen, adapted, guarded = (right(each) for each in zip(*answers, strict=True))
        assert guard.verdict is not None
        guess = guard.verdict.estimate
        found = {"frozen": frozen} | found | {told: guarded}
        found[f"{told}_frozen_error"] = round(100 * guess.frozen.value - frozen, 2)
        found[f"{told}_adapted_error"] = round(100 * guess.adapted.value - adapted, 2)
    path = unit.path(arguments)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(found))


def stream(arguments: Arguments, order: Order, corruption: str) -> tuple[Tensor, Tensor]:
    """Images in their order, and labels, which only score the answers."""
    test = _test(arguments.data)
    draw = torch.Generator().manual_seed(arguments.seed)
    rows = torch.randperm(len(test.images), generator=draw)[: arguments.images]
    if order == "sorted":
        rows = rows[test.labels[rows].argsort(stable=True)]
    images = test.images[rows]
    if corruption != CLEAN:
        images = corrupt(images, corruption, SEVERITY, seed=arguments.seed)
    return images, test.labels[rows]


def totals(rows: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Means over the corruptions of each order and method.

    Gains are over the frozen classifier, and the lowest one is of a single stream; errors are
    absolute.
    """
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["bundle"], row["order"], row["method"]].append(row)
    for (bundle, order, method), mine in groups.items():
        total: dict[str, Any] = {"case": f"{bundle}, {order}, {method}", "bundle": bundle}
        shifted = [row for row in mine if row["corruption"] != CLEAN] or mine
        total["frozen"] = round(fmean(row["frozen"] for row in shifted), 1)
        for name in ("adapted", *TOLD):
            gains = [row[name] - row["frozen"] for row in shifted]
            total[name] = round(fmean(gains), 1)
            total[f"{name}_lowest"] = round(min(row[name] - row["frozen"] for row in mine), 1)
        for name in (f"{told}_{model}_error" for told in TOLD for model in ("frozen", "adapted")):
            total[name] = round(fmean(abs(row[name]) for row in shifted), 1)
        yield total


def _others(path: Path, arguments: Arguments) -> list[dict[str, Any]]:
    """Rows of other bundles that a table holds."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["bundle"] != arguments.label]


@cache
def _test(data: str) -> LabelledImages:
    return load(data, "test")


@cache
def _bundle(path: Path) -> Bundle:
    with trusted_code():  # of this repository: a public network's own
        return Bundle.load(path)


if __name__ == "__main__":
    start(main, Arguments)
