"""Frost on the lens: a picture of frost laid over the image.

The benchmark's photographs are not ours to pass on. Where the package `imagecorruptions-imaug` is
installed its copies of them are used; otherwise pictures are synthesised whose colours, contrasts
and share of coarse structure are the photographs'. The environment variable ``ACCLIMATE_FROST``
names a folder of other pictures, or is ``synthetic``.
"""

import hashlib
import math
import os
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64, UInt8
from torch import Tensor
from torch.nn import functional

from acclimate import randomness
from acclimate.data import decode
from acclimate.data.corruptions.pixels import Draws, round_levels, to_levels, to_unit
from acclimate.errors import InputError

# The benchmark has six pictures and draws among the first five, of which two are the same.
_FILES = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")
# Of each: mean and standard deviation of red, green and blue, and the share of the standard
# deviation that is coarser than the crystals.
_LOOKS = (
    ((77.7, 149.1, 165.7), (26.9, 16.5, 15.3), 0.9),
    ((200.8, 205.4, 214.5), (21.4, 22.1, 22.6), 0.7),
    ((200.8, 205.4, 214.5), (21.4, 22.1, 22.6), 0.7),
    ((137.6, 152.8, 165.2), (28.5, 28.5, 29.9), 0.6),
    ((112.4, 123.4, 134.8), (44.4, 43.3, 41.7), 0.7),
)
_HEIGHT, _WIDTH = 400, 600
_CRYSTALS = 250


def frost(
    images: UInt8[Tensor, "n 3 h w"],
    constant: tuple[float, float, float],
    scale: float,
    draws: Draws,
) -> UInt8[Tensor, "n 3 h w"]:
    """Add a random piece of one of five pictures of frost.

    ``constant`` is the image's weight, the frost's, and the factor by which the picture is resized
    before a piece of the image's size is cut out of it. Pictures are resized by more where they
    would be smaller than the image.
    """
    image_weight, frost_weight, factor = constant
    height, width = images.shape[2:]
    piece = to_unit(_pieces(draws, height, width, factor * scale)).mul_(frost_weight)
    return to_levels(to_unit(images).mul_(image_weight).add_(piece))


def frost_textures() -> tuple[tuple[UInt8[Tensor, "3 height width"], ...], str]:
    """The pictures of frost, and whence: ``imagecorruptions``, ``synthetic``, or a folder's name.

    Without ``ACCLIMATE_FROST`` they are the benchmark's, as the package `imagecorruptions-imaug`
    installs them (it is not imported), or, where it is absent, synthetic ones. These are the same
    wherever they are made, but for rounding.

    Raises:
        InputError: ``ACCLIMATE_FROST`` names a folder with no picture, or with a damaged one.
    """
    return _textures(os.environ.get("ACCLIMATE_FROST", ""))


def frost_source() -> dict[str, str]:
    """What results on frost depend on: whence the pictures are, and the SHA-256 of their pixels."""
    textures, source = frost_textures()
    pixels = hashlib.sha256()
    for texture in textures:
        pixels.update(texture.contiguous().numpy().data)
    return {"source": source, "sha256": pixels.hexdigest()}


@cache
def _textures(chosen: str) -> tuple[tuple[UInt8[Tensor, "3 height width"], ...], str]:
    package = find_spec("imagecorruptions")
    if chosen and chosen != "synthetic":
        return _from_folder(Path(chosen).expanduser()), Path(chosen).name
    if not chosen and package is not None and package.origin is not None:
        paths = [Path(package.origin).parent / "frost" / name for name in _FILES]
        if all(path.is_file() for path in paths):
            return tuple(_read(path) for path in paths), "imagecorruptions"
    return tuple(_synthesise(number) for number in range(len(_LOOKS))), "synthetic"


def _from_folder(folder: Path) -> tuple[UInt8[Tensor, "3 height width"], ...]:
    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in decode.SUFFIXES)
    if not paths:
        raise InputError(
            f"ACCLIMATE_FROST names {folder}, where there is no picture: "
            "name a folder of pictures of frost, or synthetic."
        )
    return tuple(_read(path) for path in paths)


def _pieces(
    draws: Draws, height: int, width: int, factor: float
) -> UInt8[Tensor, "n 3 height width"]:
    """For each image, a piece of a picture."""
    textures, _ = frost_textures()
    chance = draws.uniform("piece", 3).double()
    which = (chance[:, 0] * len(textures)).long()
    pieces = chance.new_empty(len(chance), 3, height, width, dtype=torch.uint8)
    for number, texture in enumerate(textures):
        rows = (which == number).nonzero()[:, 0]
        tall, wide = texture.shape[1:]
        enough = max(factor, (height + 1) / tall, (width + 1) / wide)
        picture = _resized(texture, enough).to(chance.device)
        windows = picture.unfold(1, height, 1).unfold(2, width, 1)  # [3, down, across, h, w]
        down, across = (
            (chance[rows, axis] * (round(side * enough) - length)).long()
            for axis, side, length in ((1, tall, height), (2, wide, width))
        )
        pieces[rows] = windows[:, down, across].transpose(0, 1)
    return pieces


@lru_cache(maxsize=20)  # five pictures at four sizes
def _resized(
    texture: UInt8[Tensor, "3 height width"], factor: float
) -> UInt8[Tensor, "3 resized_height resized_width"]:
    """A picture resized without a filter, as OpenCV does."""
    top, bottom, lower = (line[:, None] for line in _line(texture.shape[1], factor))
    left, right, righter = _line(texture.shape[2], factor)
    upper_row, lower_row = (
        texture[:, row, left] * (1 - righter) + texture[:, row, right] * righter
        for row in (top, bottom)
    )
    return round_levels(upper_row * (1 - lower) + lower_row * lower)


def _line(length: int, factor: float) -> tuple[Tensor, Tensor, Tensor]:
    """Along one axis: the two pixels that each resized pixel lies between, and where."""
    places = (torch.arange(round(length * factor), dtype=torch.float64) + 0.5) / factor - 0.5
    places = places.clamp_(0, length - 1)
    below = places.long()
    return below, (below + 1).clamp_(max=length - 1), (places - below).float()


def _read(path: Path) -> UInt8[Tensor, "3 height width"]:
    try:
        pixels = np.array(decode.decode(path))
    except InputError as error:
        raise InputError(f"the picture of frost {path} cannot be used: {error}") from error
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _synthesise(number: int) -> UInt8[Tensor, "3 height width"]:
    """Crystals on a cloudy ground, in the colours of one of the benchmark's pictures."""
    mean, deviation, coarse = _LOOKS[number]
    ground = _standardised(_clouds(number))
    pattern = _standardised(_crystals(number))
    pattern = _standardised(ground * coarse + pattern * math.sqrt(1 - coarse**2))
    mean, deviation = (torch.tensor(v).double()[:, None, None] for v in (mean, deviation))
    return (pattern * deviation + mean).round_().clamp_(0, 255).to(torch.uint8)


def _clouds(number: int) -> Float64[Tensor, "height width"]:
    """Smooth noise in three octaves."""
    total = torch.zeros(_HEIGHT, _WIDTH, dtype=torch.float64)
    for octave, cells in enumerate((3, 6, 12)):
        points = _chances(number, f"clouds {octave}", cells * cells * 2).view(1, 1, cells, -1)
        total += functional.interpolate(points, total.shape, mode="bicubic")[0, 0] / 2**octave
    return total


def _crystals(number: int) -> Float64[Tensor, "height width"]:
    """Stars of six arms with branches at 60 degrees; brightest at their centres."""
    y, x, turn, size = (
        _chances(number, purpose, _CRYSTALS)[:, None, None, None]
        for purpose in ("y", "x", "turn", "size")
    )
    size = 20 + 60 * size**2
    arm = (turn + torch.arange(6.0).double()[:, None, None]) * (math.pi / 3)
    root = torch.linspace(0, 1, 17).double()[:, None]  # where along the arm a branch begins
    along = torch.linspace(0, 1, 24).double()  # where along the branch
    side = torch.where(torch.arange(17) % 2 == 0, 1, -1)[:, None] * (math.pi / 3)
    length = 0.5 * (1 - root)
    down = y * _HEIGHT + size * (root * arm.sin() + along * length * (arm + side).sin())
    across = x * _WIDTH + size * (root * arm.cos() + along * length * (arm + side).cos())
    light = (1 - 0.5 * root) * (1 - 0.6 * along)
    # The pattern continues on the opposite side.
    place = down.long().remainder(_HEIGHT) * _WIDTH + across.long().remainder(_WIDTH)
    field = torch.zeros(_HEIGHT * _WIDTH, dtype=torch.float64)
    field.scatter_reduce_(0, place.flatten(), light.expand_as(place).flatten(), "amax")
    field = field.view(1, 1, _HEIGHT, _WIDTH)
    soft = functional.avg_pool2d(functional.pad(field, (1, 1, 1, 1), mode="circular"), 3, 1)
    return (field + soft)[0, 0]


def _chances(number: int, purpose: str, count: int) -> Float64[Tensor, " count"]:
    key = randomness.key(0, "frost picture", number, purpose)
    return randomness.uniform(key, torch.zeros(1, dtype=torch.long), count)[0].double()


def _standardised(field: Float64[Tensor, "h w"]) -> Float64[Tensor, "h w"]:
    return (field - field.mean()) / field.std()
