"""Methods by corruptions, a file a cell: killed, it resumes; a finished cell never reruns."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from acclimate import files
from acclimate.bundle import Bundle, read_record
from acclimate.data import LabelledImages
from acclimate.data.corruptions.frost import frost_source
from acclimate.errors import InputError
from acclimate.evaluate.cell import Cell
from acclimate.evaluate.measure import measure, settings_of
from acclimate.progress import Progress, silent


def compare(
    bundle_path: Path,
    data: LabelledImages,
    *,
    methods: Sequence[str],
    corruptions: Sequence[tuple[str, int]],
    folder: Path,
    seed: int = 0,
    batch: int = 128,
    progress: Progress = silent,
) -> list[Cell]:
    """Measure each method on each corruption.

    Args:
        bundle_path: The bundle that all methods take.
        data: Test images.
        methods: Names; those that take steps record their curves.
        corruptions: Names and severities; ``("none", 0)`` is clean.
        folder: Where cells are kept.
        seed: Of order, corruption and views.
        batch: Images that arrive together.
        progress: Told of images done.

    Returns:
        A cell for each pair, method by method.

    Raises:
        InputError: as `acclimate.evaluate.measure.measure`, or a kept cell is damaged.
    """
    bundle = Bundle.load(bundle_path)
    weights = read_record(bundle_path)["weights_sha256"]
    total = len(methods) * len(corruptions) * len(data.images)
    done, cells = 0, []
    for name in methods:
        for corruption, severity in corruptions:
            identity = [weights, name, asdict(settings_of(name)), data.name, len(data.images)]
            identity += [corruption, severity, seed, batch]
            if corruption == "frost":
                identity.append(frost_source())
            stamp = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
            path = folder / f"{name}-{corruption}-{severity}-{stamp}.json"

            def advance(images: int, remark: str = f"{name} {corruption}") -> None:
                nonlocal done
                done += images
                progress("adapt and answer", done, total, remark)

            cell = read_cell(path)
            if cell is None:
                steps = settings_of(name).steps
                cell = measure(
                    bundle,
                    name,
                    data,
                    corruption,
                    severity,
                    seed=seed,
                    batch=batch,
                    curve=steps > 0,
                    advance=advance,
                )
                files.write_text(path, json.dumps(asdict(cell)))
            else:
                advance(cell.n_images)
            cells.append(cell)
    return cells


def read_cell(path: Path) -> Cell | None:
    """A kept cell, or None where there is none.

    Raises:
        InputError: the file is damaged.
    """
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        sequences = {name: tuple(record[name]) for name in ("predictions", "confidences", "curve")}
        return Cell(**record | sequences)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged; delete it and rerun.") from error
