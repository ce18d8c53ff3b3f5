"""Frost on the lens: a texture of frost added to the image.

The benchmark's photographs are not ours to distribute. If the package `imagecorruptions-imaug` is
installed, its copies of them are used. Otherwise textures are synthesised with the colours,
contrasts and share of coarse structure of the photographs. The environment variable
``ACCLIMATE_FROST`` may name a folder of other textures, or be ``synthetic``.
"""

import hashlib
import math
import os
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64, Int64, UInt8
from torch import Tensor
from torch.nn import functional

from acclimate import randomness
from acclimate.data import decode
from acclimate.data.corruptions.pixels import Draws, round_levels, to_levels, to_unit
from acclimate.errors import InputError

# The benchmark has six photographs and draws from the first five, of which two are the same.
_FILES = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")
# Statistics of each: mean and standard deviation of red, green and blue, and the share of the
# standard deviation in structure coarser than the crystals.
_STATISTICS = (
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
    """Add a random crop of one of five textures of frost.

    ``constant`` is the weight of the image, the weight of the frost, and the factor by which the
    texture is resized before it is cropped to the image's size. Textures that would be smaller than
    the image are resize_factor further.
    """
    image_weight, frost_weight, factor = constant
    height, width = images.shape[2:]
    crops = to_unit(_crops(draws, height, width, factor * scale)).mul_(frost_weight)
    return to_levels(to_unit(images).mul_(image_weight).add_(crops))


def frost_textures() -> tuple[tuple[UInt8[Tensor, "3 height width"], ...], str]:
    """The textures of frost and their source: ``imagecorruptions``, ``synthetic``, or a folder.

    Without ``ACCLIMATE_FROST``, they are the benchmark's photographs as installed by the package
    `imagecorruptions-imaug`, which is not imported. Without the package they are synthetic, which
    are equal on all machines except for rounding.

    ```python
    textures, source = frost_textures()
    ```

    Raises:
        InputError: ``ACCLIMATE_FROST`` names a folder without images or with a damaged one.
    """
    return _textures(os.environ.get("ACCLIMATE_FROST", ""))


def frost_source() -> dict[str, str]:
    """The source of the textures and the SHA-256 of their pixels; results on frost depend on both.

    ```python
    frost_source()["source"]  # "synthetic"
    ```
    """
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
    return tuple(_synthesise(texture) for texture in range(len(_STATISTICS))), "synthetic"


def _from_folder(folder: Path) -> tuple[UInt8[Tensor, "3 height width"], ...]:
    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in decode.SUFFIXES)
    if not paths:
        raise InputError(
            f"ACCLIMATE_FROST names {folder}, which holds no images: "
            "name a folder of images of frost, or synthetic."
        )
    return tuple(_read(path) for path in paths)


def _crops(
    draws: Draws, height: int, width: int, factor: float
) -> UInt8[Tensor, "n 3 height width"]:
    """A random crop of a random texture for each image."""
    textures, _ = frost_textures()
    uniform = draws.uniform("piece", 3).double()
    chosen = (uniform[:, 0] * len(textures)).long()
    pixels, table = _all_resized(textures, factor, height, width, uniform.device)
    begin, rows, columns = table.index_select(0, chosen)[:, :, None, None].unbind(1)  # [n, 1, 1]
    down = (uniform[:, 1, None, None] * (rows - height)).long()
    across = (uniform[:, 2, None, None] * (columns - width)).long()
    y, x, channel = (torch.arange(size, device=uniform.device) for size in (height, width, 3))
    place = begin + across + (down + y[:, None]) * columns + x  # [n, h, w]
    return pixels.take(place[:, None] + channel[:, None, None] * (rows * columns)[:, None])


@lru_cache(maxsize=20)
def _all_resized(
    textures: tuple[UInt8[Tensor, "3 height width"], ...],
    factor: float,
    height: int,
    width: int,
    device: torch.device,
) -> tuple[UInt8[Tensor, " pixels"], Int64[Tensor, "textures 3"]]:
    """The pixels of all resized textures in one row, and where each begins, its height and width.

    A texture that would be smaller than the images is resized further.
    """
    factors = (max(factor, (height + 1) / t.shape[1], (width + 1) / t.shape[2]) for t in textures)
    resized = [_resized(texture, own) for texture, own in zip(textures, factors)]
    sizes = torch.tensor([0, *(texture.numel() for texture in resized)])
    sides = torch.tensor([texture.shape[1:] for texture in resized])
    table = torch.cat([sizes.cumsum(0)[:-1, None], sides], dim=1)
    return torch.cat([texture.flatten() for texture in resized]).to(device), table.to(device)


@lru_cache(maxsize=20)  # five textures at four sizes
def _resized(
    texture: UInt8[Tensor, "3 height width"], factor: float
) -> UInt8[Tensor, "3 resized_height resized_width"]:
    """Resize a texture bilinearly without antialiasing, as OpenCV does."""
    top, bottom, down = (line[:, None] for line in _neighbours(texture.shape[1], factor))
    left, right, across = _neighbours(texture.shape[2], factor)
    upper_row, lower_row = (
        texture[:, row, left] * (1 - across) + texture[:, row, right] * across
        for row in (top, bottom)
    )
    return round_levels(upper_row * (1 - down) + lower_row * down)


def _neighbours(length: int, factor: float) -> tuple[Tensor, Tensor, Tensor]:
    """Along one axis: the two old pixels around each new pixel, and the weight of the second."""
    places = (torch.arange(round(length * factor), dtype=torch.float64) + 0.5) / factor - 0.5
    places = places.clamp_(0, length - 1)
    below = places.long()
    return below, (below + 1).clamp_(max=length - 1), (places - below).float()


def _read(path: Path) -> UInt8[Tensor, "3 height width"]:
    try:
        pixels = np.array(decode.decode(path))
    except InputError as error:
        raise InputError(f"the texture of frost {path} cannot be used: {error}") from error
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _synthesise(texture: int) -> UInt8[Tensor, "3 height width"]:
    """Crystals on a cloudy ground, with the statistics of one of the benchmark's photographs."""
    mean, deviation, coarse = _STATISTICS[texture]
    ground = _standardised(_clouds(texture))
    pattern = _standardised(_crystals(texture))
    pattern = _standardised(ground * coarse + pattern * math.sqrt(1 - coarse**2))
    mean, deviation = (torch.tensor(v).double()[:, None, None] for v in (mean, deviation))
    return (pattern * deviation + mean).round_().clamp_(0, 255).to(torch.uint8)


def _clouds(texture: int) -> Float64[Tensor, "height width"]:
    """Smooth noise in three octaves."""
    total = torch.zeros(_HEIGHT, _WIDTH, dtype=torch.float64)
    for octave, cells in enumerate((3, 6, 12)):
        points = _uniform(texture, f"clouds {octave}", cells * cells * 2).view(1, 1, cells, -1)
        total += functional.interpolate(points, total.shape, mode="bicubic")[0, 0] / 2**octave
    return total


def _crystals(texture: int) -> Float64[Tensor, "height width"]:
    """Stars of six arms with branches at 60 degrees, brightest at their centres."""
    y, x, turn, size = (
        _uniform(texture, purpose, _CRYSTALS)[:, None, None, None]
        for purpose in ("y", "x", "turn", "size")
    )
    size = 20 + 60 * size**2
    arm = (turn + torch.arange(6.0).double()[:, None, None]) * (math.pi / 3)
    root = torch.linspace(0, 1, 17).double()[:, None]  # position along the arm of a branch's root
    along = torch.linspace(0, 1, 24).double()  # position along the branch
    side = torch.where(torch.arange(17) % 2 == 0, 1, -1)[:, None] * (math.pi / 3)
    length = 0.5 * (1 - root)
    down = y * _HEIGHT + size * (root * arm.sin() + along * length * (arm + side).sin())
    across = x * _WIDTH + size * (root * arm.cos() + along * length * (arm + side).cos())
    light = (1 - 0.5 * root) * (1 - 0.6 * along)
    # Crystals that cross an edge continue at the opposite edge.
    place = down.long().remainder(_HEIGHT) * _WIDTH + across.long().remainder(_WIDTH)
    field = torch.zeros(_HEIGHT * _WIDTH, dtype=torch.float64)
    field.scatter_reduce_(0, place.flatten(), light.expand_as(place).flatten(), "amax")
    field = field.view(1, 1, _HEIGHT, _WIDTH)
    soft = functional.avg_pool2d(functional.pad(field, (1, 1, 1, 1), mode="circular"), 3, 1)
    return (field + soft)[0, 0]


def _uniform(texture: int, purpose: str, count: int) -> Float64[Tensor, " count"]:
    key = randomness.key(0, "frost picture", texture, purpose)
    return randomness.uniform(key, torch.zeros(1, dtype=torch.long), count)[0].double()


def _standardised(field: Float64[Tensor, "h w"]) -> Float64[Tensor, "h w"]:
    return (field - field.mean()) / field.std()
