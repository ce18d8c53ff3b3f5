r"""Small batches and streams of one class at a time: is anything worse than the frozen classifier?

    python studies/small_batches.py --data cifar10.zip --weights resnet20.safetensors \
        --out runs/ours --results results/ours

The public ResNet-20 of ours.py, whose folder OUT is used. Batches of 16, 4, 1 and 200 images arrive
in random order, class-correlated (Dirichlet 0.1) and sorted by class, clean and under each of the
15 corruptions at severity 5. Adapters begin anew with each stream. An interrupted study resumes;
``--plan`` says what is missing.
"""

import json
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from ours import Network, make_twin, test
from rich.console import Console
from rich.table import Table

from acclimate.adapt import Adapter
from acclimate.backbones.code import trusted_code
from acclimate.bundle import Bundle
from acclimate.commands.script import finish, recorded_options, start, write_table
from acclimate.data import LabelledImages, Shift
from acclimate.data.corruptions import PUBLISHED
from acclimate.data.streams import shuffled
from acclimate.data.streams.labelled import correlated_order
from acclimate.evaluate.cell import CLEAN
from acclimate.evaluate.task import checksum_of
from acclimate.methods import METHODS
from acclimate.methods.changes import settings_record
from acclimate.report.intervals import paired_interval
from acclimate.storage.atomic import write_text

FROZEN = "source"
ORDERS = ("shuffled", "class-correlated", "sorted")
TOLERANCE = 0.01
"""A stream counts as lost where accuracy is by more below that of the frozen classifier."""


@dataclass(frozen=True)
class Arguments(Network):
    """Data, weights, and what is measured."""

    methods: tuple[str, ...] = ("aligned-bn", "roid", "acclimate")
    """Methods beside the frozen classifier."""
    batches: tuple[int, ...] = (16, 4, 1, 200)
    """Images that arrive together."""
    images: int = 500
    """Test images of each stream."""
    single_images: int = 300
    """The same where images arrive one at a time."""
    corruptions: tuple[str, ...] = (CLEAN, *PUBLISHED)
    """Corruptions at severity 5; ``none`` is clean images."""
    seed: int = 0
    """Seed of orders and corruptions."""
    plan: bool = False
    """Only say how many streams are to be measured, and which time those so far took."""


@dataclass(frozen=True)
class Stream:
    """One stream through one adapter."""

    corruption: str
    order: str
    batch: int
    images: int
    """Number of images."""
    method: str

    def path(self, arguments: Arguments, checksum: str) -> Path:
        """The file of its answers: another for other settings, another bundle or another seed."""
        settings = settings_record(METHODS[self.method].settings)
        text = json.dumps([settings, checksum, arguments.data, arguments.seed], sort_keys=True)
        mark = sha256(text.encode()).hexdigest()[:12]
        name = f"{self.corruption}_{self.order}_{self.batch}_{self.images}_{self.method}_{mark}"
        return arguments.out / "small_batches" / f"{name}.json"


def main(arguments: Arguments) -> None:
    """Measure what is missing, and write what is kept."""
    torch.set_num_threads(1)
    with trusted_code():  # of this repository: the network's own
        make_twin(arguments)
        bundle = Bundle.load(arguments.out / arguments.network)
    checksum = checksum_of(arguments.out / arguments.network)
    paths = {stream: stream.path(arguments, checksum) for stream in streams(arguments)}
    missing = [stream for stream, path in paths.items() if not path.exists()]
    taken = [json.loads(path.read_text())["seconds"] for path in paths.values() if path.exists()]
    print(f"{len(missing)} of {len(paths)} streams are missing; the others took {sum(taken):.0f} s")
    if arguments.plan:
        return
    arrivals = Arrivals(arguments)
    for stream in missing:
        write_text(paths[stream], json.dumps(answered(bundle, arrivals, stream)))
    found = {stream: json.loads(path.read_text()) for stream, path in paths.items()}
    rows = list(compared(found))
    table = Table(*next(totals(rows)))
    for row in totals(rows):
        table.add_row(*map(str, row.values()))
    Console(width=160).print(table)
    if arguments.results:
        write_table(arguments.results / "streams.csv", rows)
        write_table(arguments.results / "streams_summary.csv", list(totals(rows)))
        options = recorded_options(arguments)
        settings = {name: settings_record(METHODS[name].settings) for name in arguments.methods}
        finish({"options": options} | settings, arguments.seed, arguments.results / "streams.json")


def streams(arguments: Arguments) -> Iterator[Stream]:
    """All streams. The frozen classifier answers alike in any order and batch."""
    for corruption in arguments.corruptions:
        for batch in arguments.batches:
            count = arguments.single_images if batch == 1 else arguments.images
            yield Stream(corruption, ORDERS[0], 1, count, FROZEN)
            for order in ORDERS:
                for method in arguments.methods:
                    yield Stream(corruption, order, batch, count, method)


class Arrivals:
    """The images of streams in their order; those of the last corruption are kept."""

    def __init__(self, arguments: Arguments):
        self._arguments = arguments
        self._clean: dict[int, LabelledImages] = {}
        self._kept: tuple[Any, Any] = None, None

    def of(self, stream: Stream) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Images, labels and the number of each image, as they arrive."""
        count, seed = stream.images, self._arguments.seed
        if count not in self._clean:
            self._clean[count] = test(self._arguments.data, count)
        clean = self._clean[count]
        shift = Shift(stream.corruption, 5 if stream.corruption != CLEAN else 0)
        if self._kept[0] != (stream.corruption, count):
            (batch,) = shuffled(clean.images, shift, batch=count, seed=seed)
            self._kept = (stream.corruption, count), batch
        _, batch = self._kept
        numbers = batch.numbers
        if stream.order == "class-correlated":
            numbers = correlated_order(clean.labels.numpy(), shift, seed=seed, concentration=0.1)
            numbers = torch.as_tensor(numbers)
        elif stream.order == "sorted":
            numbers = numbers[clean.labels[numbers].argsort(stable=True)]
        places = torch.empty_like(numbers)
        places[batch.numbers] = torch.arange(count)
        return batch.images[places[numbers]], clean.labels[numbers], numbers


def answered(bundle: Bundle, arrivals: Arrivals, stream: Stream) -> dict[str, Any]:
    """Which images of a stream are answered rightly, in the order of their numbers."""
    images, labels, numbers = arrivals.of(stream)
    adapter = Adapter(bundle, stream.method, device="cpu", precision="fp32")
    began = time.perf_counter()
    size = 100 if stream.method == FROZEN else stream.batch
    answers = torch.cat([adapter(part).argmax(1) for part in images.split(size)])
    right = torch.empty(len(images), dtype=torch.int64)
    right[numbers] = (answers == labels).long()
    return {"right": right.tolist(), "seconds": time.perf_counter() - began}


def compared(found: dict[Stream, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The accuracy of each stream beside that of the frozen classifier, in percent; paired."""
    frozen = {(s.corruption, s.images): v["right"] for s, v in found.items() if s.method == FROZEN}
    for stream, value in found.items():
        if stream.method == FROZEN:
            continue
        mine = np.array(value["right"], bool)
        base = np.array(frozen[stream.corruption, stream.images], bool)
        gain, low, high = paired_interval(mine, base, groups=np.arange(len(mine)))
        numbers = {"accuracy": mine.mean(), "frozen": base.mean(), "gain": gain}
        numbers |= {"low": low, "high": high}
        yield vars(stream) | {name: round(100 * float(v), 2) for name, v in numbers.items()}


def totals(rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, object]]:
    """Means over the corruptions of each method, order and batch, and how many of them lost."""
    groups: dict[tuple, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["method"], row["order"], row["batch"]].append(row)
    for (method, order, batch), mine in groups.items():
        corrupted = [row for row in mine if row["corruption"] != CLEAN]
        clean = [row["gain"] for row in mine if row["corruption"] == CLEAN]
        lost = [row for row in corrupted if row["gain"] < -100 * TOLERANCE]
        yield {
            "method": method,
            "order": order,
            "batch": batch,
            "images": mine[0]["images"],
            "clean_gain": round(clean[0], 2) if clean else "",
            "mean": round(mean(row["accuracy"] for row in corrupted), 2) if corrupted else "",
            "gain": round(mean(row["gain"] for row in corrupted), 2) if corrupted else "",
            "lost": len(lost),
            "surely": sum(row["high"] < 0 for row in lost),
            "where": " ".join(row["corruption"] for row in lost),
        }


if __name__ == "__main__":
    start(main, Arguments)
