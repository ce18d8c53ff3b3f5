"""Functions that several commands share: checks of output paths, and messages."""

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from acclimate.data import Skipped
from acclimate.errors import InputError


def check_absent(out: Path) -> None:
    """Raise an InputError if a file or folder would be overwritten."""
    if out.exists():
        raise InputError(f"{out} exists already; choose another --out or remove it first.")
    check_parent(out)


def check_parent(out: Path) -> None:
    """Raise an InputError, before any work, if nothing can be written at a path."""
    parent = next(parent for parent in out.absolute().parents if parent.exists())
    if not parent.is_dir():
        raise InputError(f"{out} cannot be made: {parent} is no folder; choose another --out.")


def report_skipped(skipped: Iterable[Skipped], console: Console) -> None:
    """Print the images that could not be read, with the reasons."""
    for path, reason in skipped:
        console.print(f"skipped {path}: {reason}", markup=False)


def make_bundle(
    make: Callable[[Any], Any],
    out: Path,
    console: Console,
    *,
    seed: int,
    device: Literal["cpu"] | None,
    memory_limit: str | None,
) -> None:
    """Run the stages with checkpoints beside the bundle, save it, then delete the checkpoints."""
    from acclimate.runtime import ranks
    from acclimate.runtime.progress import live
    from acclimate.source.loop import Run

    stages = out.with_name(f"{out.name}.stages")
    with live() as progress:
        bundle = make(
            Run(
                seed=seed,
                folder=stages,
                progress=progress,
                device=device,
                memory_limit=memory_limit,
            )
        )
    if not ranks.first():
        return
    bundle.save(out)
    shutil.rmtree(stages, ignore_errors=True)
    console.print(f"{out} is ready: acclimate adapt {out} FOLDER --out predictions.csv")


def labelled(bundles: tuple[Path, ...]) -> dict[str, Path]:
    """Bundles by the names of their folders, which identify them in results."""
    if not bundles:
        raise InputError("there is no bundle; make one with acclimate train or acclimate align.")
    labelled = {path.resolve().name: path for path in bundles}
    if len(labelled) < len(bundles):
        raise InputError(
            "two bundles have the same name; rename a folder, because results carry the name."
        )
    return labelled
