r"""The harm suite: is a guarded adapter ever worse than the frozen classifier?

    python studies/harm.py --data cifar10.zip --bundle runs/ours/resnet20 --network resnet20 \
        --out runs/harm --results results/harm

The streams of `harm_streams` go through the frozen classifier, and through each method with and
without a guard. Images are the odd ones of the test images; the guard's rules were chosen with even
ones. ``--kind last`` is a third of the streams, named beforehand, to be measured once, at the end;
``--kind choosing`` are streams that the rules were chosen with, for comparison. A bundle without
calibration of a guard gets one first, from held-out training images. An interrupted study resumes:
each stream, method and guard is one file. ``--plan`` says what is missing and how long it takes;
``--no-measure`` writes the results of what is there.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import torch
from bundles import in_processes
from harm_answers import Answers, answered
from harm_rows import changes, compared, totals
from harm_streams import CHOSEN_ON, REPORTED, Harm
from rich.console import Console
from rich.table import Table

from acclimate.backbones.code import trusted_code
from acclimate.bundle import Bundle
from acclimate.commands.script import finish, recorded_options, start, write_table
from acclimate.data import LabelledImages, hold_out, load
from acclimate.errors import InputError
from acclimate.evaluate.task import checksum_of
from acclimate.guard import Rules, measure_guard
from acclimate.methods import METHODS as ROWS
from acclimate.methods.changes import settings_record
from acclimate.runtime.memory import keep_freed_memory
from acclimate.source.loop import Run
from acclimate.storage.atomic import write_text

Kind = Literal["choosing", "reporting", "last"]

FROZEN = "source"
METHODS = ("acclimate", "tent", "roid", "aligned-bn", "ptbn")
"""Beside the frozen classifier; they are measured in this order, all streams of one first."""
LONG = 20_000
"""Streams of more images come last."""
EVERY = 5
"""One of so many training images is held out, for the calibration."""


@dataclass(frozen=True)
class Arguments:
    """A bundle, data, and what is measured."""

    data: str
    """CIFAR-10 as train/CLASS/IMAGE and test/CLASS/IMAGE: a folder or a zip."""
    bundle: Path
    """Folder of the bundle."""
    out: Path
    """Folder for the calibrated bundle and the measurements."""
    results: Path | None = None
    """Folder for the results that are kept; each network has a folder in it."""
    network: str = "resnet20"
    """Name of the bundle."""
    kind: Kind = "reporting"
    """Which streams."""
    methods: tuple[str, ...] = METHODS
    """Methods beside the frozen classifier, each with and without a guard."""
    streams: tuple[str, ...] = ()
    """Names of streams; all of the kind without it."""
    share: float = 1.0
    """Share of each stream's images."""
    device: str = "auto"
    """Where adapters run: ``auto``, ``cpu`` or ``cuda``."""
    workers: int = 2
    """Processes, each with one thread."""
    plan: bool = False
    """Only say how many images are missing, and how long they take."""
    measure: bool = True
    """Measure what is missing; without it, results are those of what is there."""


@dataclass(frozen=True)
class Unit:
    """One stream through one adapter."""

    stream: str
    method: str
    guarded: bool = False

    def __str__(self) -> str:
        return f"{self.stream}, {'guarded ' if self.guarded else ''}{self.method}"

    def path(self, arguments: Arguments) -> Path:
        """The file of its answers: another for other settings, images, rules or bundle."""
        settings = settings_record(ROWS[self.method].settings)
        rules = asdict(Rules()) if self.guarded else {}
        bundle, share = checksum_of(_calibrated(arguments)), arguments.share
        made = [settings, rules, arguments.kind, Path(arguments.data).name, bundle, share]
        name = self.stream.replace(" ", "-").replace(",", "")
        guarded = "_guarded" if self.guarded else ""
        mark = sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:12]
        return arguments.out / arguments.network / f"{name}_{self.method}{guarded}_{mark}.json"


def main(arguments: Arguments) -> None:
    """Measure what is missing, and write what is kept."""
    keep_freed_memory()
    torch.set_num_threads(1)
    make_calibrated(arguments)
    todo = [unit for unit in units(arguments) if not unit.path(arguments).exists()]
    say_plan(arguments, todo)
    if arguments.plan:
        return
    if todo and arguments.measure:
        in_processes(partial(measure, arguments), todo, arguments.workers, "streams")
    found = read(arguments)
    rows = list(compared(found, arguments.methods))
    if not rows:
        raise InputError("nothing is measured yet; run without --no-measure.")
    sums = list(totals(rows))
    table = Table(*sums[0])
    for row in sums:
        table.add_row(*map(str, row.values()))
    Console(width=200).print(table)
    if arguments.results:
        keep(arguments, rows, sums, found)


def keep(
    arguments: Arguments,
    rows: Sequence[Mapping[str, Any]],
    sums: Sequence[Mapping[str, Any]],
    found: Mapping[str, Mapping[str, Answers]],
) -> None:
    """Write the results."""
    assert arguments.results
    folder = arguments.results / arguments.network
    write_table(folder / f"{arguments.kind}.csv", rows)
    write_table(folder / f"{arguments.kind}_summary.csv", sums)
    if judged := list(changes(found, streams(arguments))):
        write_table(folder / f"{arguments.kind}_changes.csv", judged)
    settings = {name: settings_record(ROWS[name].settings) for name in arguments.methods}
    record = {"options": recorded_options(arguments), "rules": asdict(Rules())} | settings
    finish(record, 0, folder / f"{arguments.kind}.json")


def streams(arguments: Arguments) -> dict[str, Harm]:
    """The streams of the kind, by name.

    Raises:
        InputError: a name is unknown.
    """
    kinds = {
        "choosing": CHOSEN_ON,
        "reporting": {name: each for name, each in REPORTED.items() if not each.last},
        "last": {name: each for name, each in REPORTED.items() if each.last},
    }
    known = kinds[arguments.kind]
    if unknown := set(arguments.streams) - known.keys():
        raise InputError(f"unknown streams: {', '.join(sorted(unknown))}; give some of {[*known]}.")
    return {name: known[name] for name in arguments.streams or known}


def units(arguments: Arguments) -> Iterator[Unit]:
    """All that is measured, what matters most first."""
    long = {n for n, s in streams(arguments).items() if s.images(arguments.share) > LONG}
    for names in ([n for n in streams(arguments) if n not in long], sorted(long)):
        for method in arguments.methods:
            for name in names:
                if method == arguments.methods[0]:
                    yield Unit(name, FROZEN)
                yield Unit(name, method)
                yield Unit(name, method, guarded=True)


def make_calibrated(arguments: Arguments) -> None:
    """Measure the calibration of a guard, unless the bundle has one."""
    path = _calibrated(arguments)
    if any(".guard." in name for name in _load(path).statistics):
        return
    held = hold_out(load(arguments.data, "train"), EVERY)[1]
    measure_guard(_load(arguments.bundle), held.images, Run(device="cpu")).save(
        arguments.out / f"{arguments.network}.bundle"
    )


def say_plan(arguments: Arguments, todo: Sequence[Unit]) -> None:
    """Say what is missing. The time is that of like streams that were measured before."""
    taken: dict[tuple, list[float]] = defaultdict(list)
    for unit in units(arguments):
        if unit.path(arguments).exists():
            answers = json.loads(unit.path(arguments).read_text())
            taken[unit.method, unit.guarded].append(answers["seconds"] / len(answers["right"]))
    images, seconds, unknown = 0, 0.0, 0
    for unit in todo:
        count = streams(arguments)[unit.stream].images(arguments.share)
        images += count
        known = taken.get((unit.method, unit.guarded))
        if known:
            seconds += count * sum(known) / len(known)
        unknown += not known
    without = f"; {unknown} streams of methods that were not timed yet come on top"
    print(
        f"{len(todo)} of {len(list(units(arguments)))} streams are missing: {images:,} images, "
        f"about {seconds / 60 / arguments.workers:.0f} minutes{without if unknown else ''}"
    )


def measure(arguments: Arguments, unit: Unit) -> None:
    """Let an adapter answer for a stream, and store what was right."""
    images = _images(arguments.data, arguments.kind), _foreign()
    batches = streams(arguments)[unit.stream].batches(*images, arguments.share)
    device = None if arguments.device == "auto" else arguments.device
    bundle = _load(_calibrated(arguments))
    found = answered(bundle, unit.method, batches, guarded=unit.guarded, device=device)
    path = unit.path(arguments)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(asdict(found)))


def read(arguments: Arguments) -> dict[str, dict[str, Answers]]:
    """What was measured: of each stream by method, with ``guarded`` before those of a guard."""
    found: dict[str, dict[str, Answers]] = defaultdict(dict)
    for unit in units(arguments):
        if (path := unit.path(arguments)).exists():
            name = f"guarded {unit.method}" if unit.guarded else unit.method
            found[unit.stream][name] = Answers(**json.loads(path.read_text()))
    return found


@cache
def _images(data: str, kind: Kind) -> LabelledImages:
    """The test images that rules were chosen with, or the others.

    They are sorted by class, and the guard's study takes every second one.
    """
    test = load(data, "test")
    # Of the even ones `guard_streams` chooses with every second one, and checks with the others.
    rows = slice(0, None, 4) if kind == "choosing" else slice(1, None, 2)
    return LabelledImages(test.images[rows], test.labels[rows], test.classes, test.name)


@cache
def _foreign() -> LabelledImages:
    return load("fashion-mnist-mini", "train")


@cache
def _load(path: Path) -> Bundle:
    with trusted_code():  # of this repository: a public network's own
        return Bundle.load(path)


def _calibrated(arguments: Arguments) -> Path:
    """The bundle with a calibration."""
    own = arguments.out / f"{arguments.network}.bundle"
    return own if own.exists() else arguments.bundle


if __name__ == "__main__":
    start(main, Arguments)
