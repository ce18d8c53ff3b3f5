"""Decode image files of any mode to 8-bit RGB."""

import io
import lzma
import struct
import zlib
from functools import cache
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, features

from acclimate.errors import InputError
from acclimate.preprocessing import Preprocessing

VERSION = 2
"""Part of the cache's key. Increase it whenever the same file would give other pixels."""

_NAMES = """.jpg .jpeg .jpe .jfif .png .apng .bmp .dib .gif .webp .tif .tiff .ppm .pgm .pbm .pnm
    .avif .heic .heif .hif .jp2 .j2k .jpx .jpf .jpc"""
SUFFIXES = frozenset(_NAMES.split())
"""File suffixes of images. Files with other suffixes are not opened."""

MAX_FILE_BYTES = 256 * 2**20
"""Largest size of an image file in bytes."""
MAX_PIXELS = 89_478_485
"""Largest width × height. Pillow warns above this threshold (256 MiB in RGB); here it is an
error."""

# Without this list Pillow would also try formats that start other programs, such as EPS.
_FORMATS = ("JPEG", "PNG", "BMP", "DIB", "GIF", "WEBP", "TIFF", "PPM")

_OPTIONAL = {
    "AVIF": "upgrade Pillow to 11.3 or newer, with AVIF, to read it",
    "HEIF": "pip install 'acclimate[heif]' to read it",
    "JPEG2000": "install a Pillow with JPEG 2000 to read it",
}
"""Formats that an installation may lack, and what to do then."""

_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")

BROKEN = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BadZipFile,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
    lzma.LZMAError,
    struct.error,
    zlib.error,
)
"""Exceptions that readers raise on damaged files. MemoryError is not among them, since a valid
file may cause it."""


def decode(file: Path | bytes) -> Image.Image:
    """Decode an image as 8-bit RGB and apply its EXIF orientation.

    Transparent images are composited over white. 16-bit grey is scaled from 0..65535 and float
    grey from 0..1. Animations give their first frame. Colour profiles are ignored.

    Args:
        file: A path, or the content of the file.

    Returns:
        An image of mode ``RGB``.

    Raises:
        InputError: the file is no image, damaged, too large, or has grey values outside their
            range. The message does not name the file.
    """
    try:
        data = file if isinstance(file, bytes) else _read(file)
        if (special := _optional_format(data)) and special not in formats():
            raise InputError(f"it is in the format {special}; {_OPTIONAL[special]}.")
        with Image.open(io.BytesIO(data), formats=formats()) as image:
            _check_pixels(*image.size)
            return upright_rgb(image)
    except InputError:
        raise
    except Image.UnidentifiedImageError as error:
        raise InputError("it is not an image in a known format.") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"it has more than {MAX_PIXELS:,} pixels.") from error
    except BROKEN as error:
        raise damaged(error) from error


@cache
def formats() -> tuple[str, ...]:
    """The formats that this installation reads, by Pillow's names."""
    found = [*_FORMATS]
    if "avif" in features.modules and features.check("avif"):  # not in older versions of Pillow
        found.append("AVIF")
    if features.check("jpg_2000"):
        found.append("JPEG2000")
    try:
        import pillow_heif

        pillow_heif.register_heif_opener()
        found.append("HEIF")
    except ImportError:
        pass
    return tuple(found)


def _optional_format(data: bytes) -> str | None:
    """The format of `_OPTIONAL` that a file is in by its first bytes, whatever its name."""
    if data[4:8] == b"ftyp":
        if data[8:12] in (b"avif", b"avis") or b"avif" in data[16:48]:
            return "AVIF"
        return "HEIF" if data[8:12] in _HEIF_BRANDS else None
    if data[:4] == b"\xff\x4f\xff\x51" or data[4:12] == b"jP  \r\n\x87\n":
        return "JPEG2000"
    return None


def damaged(error: Exception) -> InputError:
    """Build the error for a file that a reader failed on."""
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return InputError(f"it cannot be read ({reason}).")


def resize_and_crop(
    image: Image.Image, preprocessing: Preprocessing
) -> UInt8[np.ndarray, "height width channels"]:
    """The pixels that a network sees of an image, not yet normalised.

    Raises:
        InputError: the image is so narrow that it would have more than `MAX_PIXELS` after resizing,
            or the network takes neither grey nor RGB images.
    """
    height, width = preprocessing.resized(image.height, image.width)
    _check_pixels(width, height)
    pixels = np.asarray(preprocessing.crop(image))
    return pixels.reshape(*pixels.shape[:2], -1)  # grey images have no axis of channels


def check_file_size(size: int) -> None:
    """Raise an error if a file is too large for an image, before it is read into memory."""
    if size > MAX_FILE_BYTES:
        raise InputError(f"it is larger than {MAX_FILE_BYTES // 2**20} MiB.")


def _read(path: Path) -> bytes:
    check_file_size(path.stat().st_size)
    return path.read_bytes()


def _check_pixels(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise InputError(f"at {width} x {height} it has more than {MAX_PIXELS:,} pixels.")


def upright_rgb(image: Image.Image) -> Image.Image:
    """An image as `decode` gives it, of one that was opened and is not too large.

    Raises:
        InputError: grey values lie outside their range; other errors are Pillow's, see `BROKEN`.
    """
    image.load()  # its file may be closed before it is used
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode == "F":
        return _grey(np.asarray(image), highest=1.0)
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _grey(np.asarray(image), highest=65535)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _grey(values: np.ndarray, *, highest: float) -> Image.Image:
    # The negated comparison is also true for NaN.
    if not (values.min() >= 0 and values.max() <= highest):
        raise InputError(f"its grey values are not all in 0..{highest:g}.")
    scaled = np.rint(values.astype(np.float64) * (255 / highest))
    return Image.fromarray(scaled.astype(np.uint8)).convert("RGB")
