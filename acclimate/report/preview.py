"""One picture of what the corruptions look like."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import interpolate, pad

from acclimate.data.corruptions import corrupt_numbered
from acclimate.errors import InputError
from acclimate.storage.atomic import write_atomically

SUFFIXES = (".png", ".jpg", ".jpeg", ".pdf", ".svg")

_CELL_INCHES, _DPI = 0.75, 120
_GAP = 0.06  # of an image's side


def write_preview(
    images: UInt8[Tensor, "n 3 height width"],
    path: Path,
    corruptions: Sequence[str],
    severities: Sequence[int],
    *,
    seed: int = 0,
) -> None:
    """Write a picture: a row a corruption, a column a severity, of two of the images.

    Args:
        images: The first and the last are shown, with the corruptions that they have in this set.
        path: Ends in .png, .jpg, .pdf or .svg.
        corruptions: Names of corruptions.
        severities: 1..5 each; clean images stand before them.
        seed: Of all that is random.

    Raises:
        InputError: another kind of file, or it cannot be written.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path} is no picture: its name must end in {', '.join(SUFFIXES)}.")
    numbers = torch.tensor([0, len(images) - 1]).unique()
    pair = images[numbers]
    rows = []
    for name in corruptions:
        made = (corrupt_numbered(pair, name, each, numbers, seed=seed) for each in severities)
        rows.append([_small(pair), *map(_small, made)])
    figure = _draw(rows, corruptions, ["clean", *(f"severity {each}" for each in severities)])
    kind = path.suffix.lower().removeprefix(".")
    write_atomically(path, lambda aside: figure.savefig(aside, format=kind, dpi=_DPI))


def _small(images: UInt8[Tensor, "shown 3 h w"]) -> UInt8[Tensor, "shown 3 height width"]:
    """At most twice as high or wide as images are drawn: a sheet of large ones fills the memory."""
    factor = 2 * _CELL_INCHES * _DPI / min(images.shape[2:])
    if factor >= 1:
        return images
    size = [max(1, round(length * factor)) for length in images.shape[2:]]
    return interpolate(images.float(), size, mode="bilinear", antialias=True).round().byte()


def _draw(
    rows: Sequence[Sequence[UInt8[Tensor, "shown 3 height width"]]],
    row_names: Sequence[str],
    column_names: Sequence[str],
) -> Figure:
    """All images in one array, and the names of rows and columns along its edges."""
    height, width = rows[0][0].shape[2:]
    gap = max(1, round(_GAP * min(height, width)))
    strips = [
        [pad(torch.cat([*cell], 2), (0, 2 * gap, 0, gap), value=255) for cell in row]
        for row in rows
    ]
    sheet = torch.cat([torch.cat(row, 2) for row in strips], 1).permute(1, 2, 0).numpy()
    across, down = _CELL_INCHES * sheet.shape[1] / width, _CELL_INCHES * sheet.shape[0] / height
    left, top = 1.4, 0.3
    figure = Figure(figsize=(across + left + 0.05, down + top + 0.05))
    total_width, total_height = figure.get_size_inches()
    axes = figure.add_axes(
        (left / total_width, 0.05 / total_height, across / total_width, down / total_height)
    )
    shrunk = height > _CELL_INCHES * _DPI
    axes.imshow(sheet, interpolation="antialiased" if shrunk else "nearest", aspect="auto")
    step = sheet.shape[1] / len(column_names)
    places = np.arange(len(column_names)) * step + (step - 2 * gap) / 2
    axes.set_xticks(places, column_names, fontsize=9)
    step = sheet.shape[0] / len(row_names)
    places = np.arange(len(row_names)) * step + height / 2
    axes.set_yticks(places, [name.replace("_", " ") for name in row_names], fontsize=9)
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    return figure
