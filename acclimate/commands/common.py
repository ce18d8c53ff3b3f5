"""Functions that several commands share: checks of output paths, and messages."""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console

from acclimate.errors import InputError
from acclimate.storage.atomic import only_writer
from acclimate.storage.targets import check_writable, open_descriptor

if TYPE_CHECKING:
    from torch import Tensor

    from acclimate.bundle import Bundle
    from acclimate.data import Skipped
    from acclimate.source.loop import Run


STANDARD_OUTPUT = Path("-")
"""What a path is called that stands for standard output."""


def output(out: Path, console: Console) -> tuple[Path, Console]:
    """The file to write, and where to print what is said of it.

    ``-`` is standard output. What goes there is the file alone: the rest goes to standard error.
    """
    path = Path("/dev/stdout") if out == STANDARD_OUTPUT else out
    return path, Console(stderr=True) if open_descriptor(path) == 1 else console


def check_named(out: Path, option: str = "--out") -> None:
    """Raise an InputError for ``-`` where standard output cannot hold what is written."""
    if out == STANDARD_OUTPUT:
        raise InputError(f"this cannot be written to standard output; give a path as {option}.")


def check_absent(out: Path) -> None:
    """Raise an InputError if a file or folder would be overwritten, or cannot be made."""
    check_named(out)
    if out.exists() or out.is_symlink():
        raise InputError(f"{out} exists already; choose another --out or remove it first.")
    check_parent(out)


def check_parent(out: Path) -> None:
    """Raise an InputError, before any work, if nothing can be written at a path."""
    parent = next(parent for parent in out.absolute().parents if parent.exists())
    if not parent.is_dir():
        raise InputError(f"cannot write {out}: {parent} is no folder; choose another --out.")
    check_writable(out)


def check_file(out: Path) -> None:
    """Raise an InputError, before any work, if no file can be written at a path."""
    if out.is_dir():
        raise InputError(f"{out} is a folder; give the file to write as --out.")
    check_parent(out)


def check_apart(**paths: Path | None) -> None:
    """Raise an InputError if two options, by their names, would write the same file."""
    seen: dict[Path, str] = {}
    for name, path in paths.items():
        flag = f"--{name.replace('_', '-')}"
        if path is not None and (other := seen.setdefault(path.resolve(), flag)) != flag:
            raise InputError(f"{other} and {flag} are the same file, {path}; give two files.")


def check_folder(out: Path) -> None:
    """Raise an InputError, before any work, if a folder cannot be written, or another run does."""
    check_named(out)
    if out.exists() and not out.is_dir():
        raise InputError(f"cannot write {out}: it is something else; choose another --out.")
    check_parent(out)
    if out.is_dir():
        with only_writer(out):
            pass


@contextmanager
def new_bundle(out: Path) -> Iterator[None]:
    """While a bundle is made: checks that it can be, and keeps other runs from making it too.

    Raises:
        InputError: it exists already, cannot be written, or another run is making it.
    """
    check_absent(out)
    stages = stages_of(out)
    # Of several ranks the first writes; torchrun ends the others when it is refused.
    with only_writer(stages) if os.environ.get("RANK", "0") == "0" else nullcontext():
        try:
            check_absent(out)  # the run that held the lock may just have made it
            yield
        finally:
            with suppress(OSError):
                stages.rmdir()  # unless there are checkpoints to resume from


def stages_of(out: Path) -> Path:
    """Folder of the training checkpoints, beside the bundle."""
    return out.with_name(f"{out.name}.stages")


def shown(name: str) -> str:
    """A file name as it is printed: what cannot be, or would move the cursor, is escaped."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in name)


def report_skipped(skipped: "Iterable[Skipped]", console: Console) -> None:
    """Print the images that could not be read, with the reasons."""
    for path, reason in skipped:
        console.print(f"skipped {shown(path)}: {reason}", markup=False)


def make_bundle(
    make: Callable[[Any], Any],
    out: Path,
    console: Console,
    *,
    seed: int,
    device: Literal["cpu"] | None,
    memory_limit: str | None,
    batches: Mapping[str, int],
    images: "Tensor",
    guard: int | None,
) -> None:
    """Run the stages with checkpoints beside the bundle, save it, then delete the checkpoints.

    ``batches`` are the batch sizes of the stages: what is too large for the memory is named as the
    options that say it. ``guard`` is how many of the source ``images`` a guard is calibrated on.
    """
    from acclimate.runtime import ranks
    from acclimate.runtime.progress import live
    from acclimate.source.loop import Run
    from acclimate.source.room import DoesNotFitError

    stages = stages_of(out)
    settings = {"seed": seed, "folder": stages, "device": device, "memory_limit": memory_limit}
    with live() as progress:
        run = Run(progress=progress, **settings)
        try:
            bundle = make(run)
        except DoesNotFitError as error:
            large = [stage for stage, batch in batches.items() if batch > error.fits]
            flags = " ".join(f"--{stage}.batch {error.fits}" for stage in large)
            raise InputError(error.told(flags or f"--{error.stage}.batch {error.fits}")) from error
        if not ranks.first():
            return
        bundle = with_guard(bundle, images, guard, run, console)
    bundle.save(out)
    shutil.rmtree(stages, ignore_errors=True)
    console.print(f"{out} is ready: acclimate adapt {out} FOLDER --out predictions.csv")


def with_guard(
    bundle: "Bundle", images: "Tensor", count: int | None, run: "Run", console: Console
) -> "Bundle":
    """A bundle with the calibration of a guard; tells why where there is none.

    ``count`` is the number of images, as for `acclimate.guard.measure_guard`; 0 leaves it out.
    """
    from acclimate.guard import measure_guard

    if count == 0:
        return bundle
    try:
        return measure_guard(bundle, images, run, count=count)
    except InputError as error:
        console.print(f"the bundle has no guard: {error}", markup=False, soft_wrap=True)
        return bundle


def check_guard(count: int | None) -> None:
    """Raise an InputError, before any work, if a guard cannot be calibrated on so many images."""
    from acclimate.guard.measure import FEWEST

    if count and count < FEWEST:
        raise InputError(f"--guard must be 0 or at least {FEWEST} images, not {count}.")


def check_limit(memory_limit: str | None) -> None:
    """Raise an InputError, before any work, if a memory limit is no size."""
    from acclimate.runtime.budget import parse_bytes

    if memory_limit is not None:
        parse_bytes(memory_limit)


def check_settings_file(path: Path | None, *bundles: Path) -> None:
    """Raise an InputError, before any work, if a settings file is not for these bundles."""
    if path is not None:
        from acclimate.advise.settings_file import load

        for bundle in bundles:
            load(path).check(bundle)


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
