"""CTA's and TTT's own settings on one GPU, in parts that fit into minutes and can be resumed.

    python studies/packed.py cifar10.zip cifar10.packed
    python studies/paper.py --data cifar10.packed --out runs/paper --results results/paper

``--help`` describes the parts, and ``--plan`` says how long each takes. When the time is used up, a
part stops after an epoch or a measurement with exit code 3; the same command goes on from there.
RESULTS gets at most 8 files of at most 15 MiB: the tables, and bundles and measurements in
``state.zip.00`` and so on, from which ``--state`` goes on elsewhere.
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import claims
import luggage
from bundles import PLAIN, was_made
from clock import Clock, OutOfTime
from packed import ENDING, images, unpack
from paper_plan import Arguments, Part, estimate, grids, settings_of
from score import write_summary

from acclimate.bundle import Bundle, read_record
from acclimate.commands.script import recorded_options, start
from acclimate.data import corrupt
from acclimate.errors import InputError
from acclimate.evaluate.grid_run import MANIFEST, RESULTS, GridRun, run_grid
from acclimate.methods import METHODS
from acclimate.runtime import machine
from acclimate.runtime.determinism import repeat_bits
from acclimate.runtime.memory import keep_freed_memory
from acclimate.runtime.progress import live
from acclimate.runtime.workers import here, processes
from acclimate.source.loop import Run
from acclimate.source.presets import SourceSettings
from acclimate.source.train import train
from acclimate.storage.atomic import write_text

ORACLE = "uda-ss"
FILES = 8
"""Largest number of files in the folder of results."""
MORE = 3
"""Exit code where more is to be done."""


def main(arguments: Arguments) -> None:
    """Run the parts until the time is used up, and write what is there."""
    if arguments.plan:
        for part in arguments.parts:
            print(f"{part}: {estimate(part, arguments)}")
        return
    keep_freed_memory()
    repeat_bits()
    os.environ.setdefault("ACCLIMATE_FROST", "synthetic")
    clock, began = Clock(arguments.seconds), time.monotonic()
    if arguments.state:
        luggage.bring(arguments.state, arguments.out)
    if Path(arguments.data).suffix == ENDING:
        unpack(Path(arguments.data), arguments.unpacked)
    seconds = {"unpacking": round(time.monotonic() - began, 1)}
    stopped = None
    for part in arguments.parts:
        print(f"{part}: {estimate(part, arguments)}", flush=True)
        started = time.monotonic()
        try:
            RUN[part](arguments, clock)
        except OutOfTime:
            stopped = part
        seconds[part] = round(time.monotonic() - started, 1)
        print(f"{part}: {'stopped after' if stopped else 'took'} {seconds[part]} s", flush=True)
        if stopped:
            break
    publish(arguments, seconds)
    if stopped:
        print(f"{stopped} is not finished: run the same command again to go on")
        raise SystemExit(MORE)


def cta(arguments: Arguments, clock: Clock) -> None:
    """Train CTA's classifier and twin, and keep the classifier as a bundle of its own, too."""
    make(arguments, clock, "cta", "cta", arguments.model, settings_of(arguments))
    if not arguments.bundle(PLAIN).exists():
        bundle = Bundle.load(arguments.bundle("cta"))
        trust = {name: each for name, each in bundle.trust.items() if name == "classifier"}
        plain = replace(bundle, twin=None, objective=None, options={}, trust=trust)
        replace(plain, method="source", recipe=PLAIN).save(arguments.bundle(PLAIN))


def rivals(arguments: Arguments, clock: Clock) -> None:
    """Train the other methods' networks."""
    for recipe in arguments.rivals:
        make(arguments, clock, recipe, recipe, arguments.model, settings_of(arguments))


def ttt(arguments: Arguments, clock: Clock) -> None:
    """Train TTT's network jointly with the rotation task."""
    make(arguments, clock, "ttt", "ttt", arguments.ttt_model, settings_of(arguments, "ttt"))


def oracles(arguments: Arguments, clock: Clock) -> None:
    """Train TTT's network for each corruption, with its test images but not their labels."""
    test, seed = arguments.test(arguments.images)().images, arguments.seeds[0]
    for name in arguments.corruptions[: arguments.oracles]:
        target = partial(corrupt, test, name, 5, seed=seed)
        settings = settings_of(arguments, "ttt")
        make(arguments, clock, ORACLE, f"{ORACLE}-{name}", arguments.ttt_model, settings, target)


def make(
    arguments: Arguments,
    clock: Clock,
    recipe: str,
    label: str,
    model: str,
    settings: SourceSettings,
    target: Callable | None = None,
) -> None:
    """Train a bundle that does not exist yet."""
    path = arguments.bundle(label)
    source = images(arguments.data, arguments.unpacked, "train", arguments.train_images)
    if was_made(path, model, settings, source.images):
        return
    clock.check()
    own = (name for name, row in METHODS.items() if row.recipe == recipe)
    method = recipe if recipe in METHODS else next(own)
    with live() as progress:
        folder = arguments.out / "stages" / label
        run = Run(arguments.seeds[0], folder, progress=clock.training(progress))
        seen = None if target is None else target()
        train(method, model, source, settings, run, target=seen).save(path)
    clock.finished()


def measure(*labels: str) -> Callable[[Arguments, Clock], None]:
    """A part that measures all methods of these bundles."""

    def run(arguments: Arguments, clock: Clock) -> None:
        given = {label: arguments.bundle(label) for label in labels or arguments.rivals}
        run_all(arguments, clock, grids(arguments, given, arguments.corruptions))

    return run


def measure_oracles(arguments: Arguments, clock: Clock) -> None:
    """Measure each oracle on its own corruption."""
    for name in arguments.corruptions[: arguments.oracles]:
        given = {f"{ORACLE}-{name}": arguments.bundle(f"{ORACLE}-{name}")}
        run_all(arguments, clock, grids(arguments, given, (name,)))


def run_all(arguments: Arguments, clock: Clock, grid_runs: Iterator[GridRun]) -> None:
    """Run grids one after the other until the time is used up."""
    engine = clock.engine(processes(arguments.workers) if arguments.workers > 1 else here)
    for grid_run in grid_runs:
        clock.check()
        with live() as progress:
            _, errors = run_grid(grid_run, arguments.out / "grid", engine=engine, progress=progress)
        if errors:
            raise InputError(f"{errors[0][0]} failed: {errors[0][1]}")
        clock.check()


def gradients(arguments: Arguments, clock: Clock) -> None:
    """TTT's figure 4: inner products of the gradients, against the gains of TTT."""
    from acclimate.evaluate.analyses.kinds import KINDS, Analysis  # needs scikit-learn

    analysis = Analysis(
        bundles={"ttt": arguments.bundle("ttt")},
        source=images(arguments.data, arguments.unpacked, "train", arguments.single_images),
        test=arguments.test(arguments.single_images)(),
        corruptions=arguments.corruptions,
        steps=0,
        batch=128,
        seed=arguments.seeds[0],
        engine=processes(arguments.workers),
    )
    with live() as progress:
        KINDS["gradients"](analysis, arguments.out / "grid", progress)


RUN: dict[Part, Callable[[Arguments, Clock], None]] = {
    "train-cta": cta,
    "measure-cta": measure(PLAIN, "cta"),
    "train-rivals": rivals,
    "measure-rivals": measure(),
    "train-ttt": ttt,
    "measure-ttt": measure("ttt"),
    "train-oracles": oracles,
    "measure-oracles": measure_oracles,
    "gradients": gradients,
}


def publish(arguments: Arguments, seconds: dict[str, float]) -> None:
    """Write what is to come back: tables, settings, and the state in pieces."""
    grid, results = arguments.out / "grid", arguments.results
    commit = {"commit": arguments.commit} if arguments.commit else {}
    log = arguments.out / "log" / "runs.json"  # of all runs, on whatever machine
    runs = json.loads(log.read_text(encoding="utf-8")) if log.exists() else []
    run = {"arguments": recorded_options(arguments), "seconds": seconds}
    run |= {"machine": machine.describe() | commit, "training": trained(arguments)}
    log.parent.mkdir(parents=True, exist_ok=True)
    write_text(log, json.dumps([*runs, run], indent=2, default=str) + "\n")
    measured = (grid / RESULTS).exists()
    if measured:
        write_summary(grid, results or arguments.out, arguments.published)
        claims.main(claims.Arguments(grid, results))
    if not results:
        return
    write_text(results / "settings.json", json.dumps({"runs": [*runs, run]}, indent=2, default=str))
    if measured:
        shutil.copyfile(grid / RESULTS, results / RESULTS)
        manifest = json.loads((grid / MANIFEST).read_text(encoding="utf-8"))
        if arguments.commit:
            manifest |= {"commits": [arguments.commit], "machine": manifest["machine"] | commit}
        write_text(results / MANIFEST, json.dumps(manifest, indent=2) + "\n")
    others = [path for path in results.iterdir() if not path.name.startswith(luggage.NAME)]
    if left_out := luggage.leave(arguments.out, results, FILES - len(others)):
        print(f"too large for {results}, and left out: {', '.join(left_out)}")


def trained(arguments: Arguments) -> dict[str, dict]:
    """What the bundles record of their training: seed, settings, seconds of each stage."""
    paths = sorted((arguments.out / "bundles").glob("*"))
    return {path.name: read_record(path)["provenance"] for path in paths if path.name[0] != "."}


if __name__ == "__main__":
    start(main, Arguments)
