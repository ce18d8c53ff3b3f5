"""Images of requests: files and arrays, checked and brought to the network's input size."""

import binascii
import io
import math
from base64 import b64decode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.lib import format as npy
from PIL import Image
from torch import Tensor

from acclimate.data.decode import BROKEN, MAX_PIXELS, damaged, resize_and_crop, upright_rgb
from acclimate.errors import InputError
from acclimate.preprocessing import Preprocessing, check_images
from acclimate.serve.refused import RefusedError
from acclimate.serve.settings import ServeSettings

_FORMATS = ("JPEG", "PNG")
_FILES = 4  # files of the largest size in a request
_HEADER = 1024  # characters of an array's header: a type and a shape are some dozens
_DTYPES = ("uint8", "float16", "float32", "float64")


def of_files(
    files: Sequence[bytes], preprocessing: Preprocessing, settings: ServeSettings
) -> UInt8[Tensor, "n channels height width"]:
    """Decode JPEG and PNG files, as `acclimate adapt` does.

    ```python
    images = of_files([Path("cat.jpg").read_bytes()], bundle.preprocessing, ServeSettings())
    ```

    Raises:
        RefusedError: too many files, too many pixels (before they are decoded), or no such images.
    """
    check_count(len(files), settings)
    room = _FILES * settings.image_pixels
    pixels = []
    for number, file in enumerate(files, 1):
        name = f"image {number}"
        with _told(name), Image.open(io.BytesIO(file), formats=_FORMATS) as image:
            _check_pixels(*image.size, settings, name)
            room -= math.prod(image.size)
            if room < 0:
                most = _FILES * settings.image_pixels
                sentence = (
                    f"the images have more than {most:,} pixels together; send fewer at a time."
                )
                raise RefusedError("too_large", sentence)
            pixels.append(resize_and_crop(upright_rgb(image), preprocessing))
    # NumPy's copy is by this thread alone. PyTorch's would start threads beside the model's.
    return torch.from_numpy(np.ascontiguousarray(np.stack(pixels).transpose(0, 3, 1, 2)))


def of_array(
    array: np.ndarray, preprocessing: Preprocessing, settings: ServeSettings
) -> UInt8[Tensor, "n channels height width"] | Float[Tensor, "n channels height width"]:
    """Take an array of one image, or of several, as images of the network's input size.

    Images of this size keep their type; others are resized, and are floats then.

    Args:
        array: ``[n, channels, height, width]`` or ``[channels, height, width]``, uint8 0..255 or
            float 0..1.
        preprocessing: The network's.
        settings: With the limits.

    Raises:
        RefusedError: another shape or type, NaN, values beyond their range, or too many.
    """
    if array.dtype.name not in _DTYPES:
        kinds = "uint8 (0..255) or float (0..1)"
        raise RefusedError(
            "bad_images", f"arrays of images must be {kinds}, not {array.dtype.name}."
        )
    if array.ndim == 3:
        array = array[None]
    if array.ndim == 4:
        check_count(len(array), settings)
        _check_pixels(array.shape[3], array.shape[2], settings, "an image of the array")
    try:
        native = np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
        images = torch.from_numpy(native)
        check_images(images, preprocessing.channels)
        if images.dtype == torch.uint8 and images.shape[2:] == (
            preprocessing.height,
            preprocessing.width,
        ):
            return images
        return preprocessing.unit(images)
    except InputError as error:
        raise RefusedError("bad_images", str(error)) from error


def of_npy(data: bytes) -> np.ndarray:
    """Read the content of an .npy file without running or trusting anything in it.

    ```python
    array = of_npy(Path("images.npy").read_bytes())
    ```

    Raises:
        RefusedError: it is none, holds objects, or is longer or shorter than it says.
    """
    file = io.BytesIO(data)
    try:
        version = npy.read_magic(file)
        read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
        shape, columns_first, dtype = read(file, max_header_size=_HEADER)
    except (*BROKEN, MemoryError, RecursionError) as error:
        raise RefusedError(
            "bad_images", "the body is no .npy array; write it with numpy.save."
        ) from (error)
    rest = memoryview(data)[file.tell() :]
    if dtype.name not in _DTYPES or columns_first:
        raise RefusedError(
            "bad_images",
            f"the array must be of {', '.join(_DTYPES)} in C order, not {dtype.name}.",
        )
    if min(shape, default=1) < 0 or math.prod(shape) * dtype.itemsize != len(rest):
        raise RefusedError("bad_images", "the array is longer or shorter than its header says.")
    return np.frombuffer(rest, dtype).reshape(shape)


def of_json(
    value: Any, preprocessing: Preprocessing, settings: ServeSettings
) -> UInt8[Tensor, "n channels height width"] | Float[Tensor, "n channels height width"]:
    """Read the images of a JSON body: base64 strings of files, or nested lists of numbers.

    Whole numbers above 1 are 0..255; else numbers are 0..1.

    Raises:
        RefusedError: something else, or images that cannot be used.
    """
    if not isinstance(value, list) or not value:
        raise RefusedError("bad_images", "images must be a list of at least one image.")
    if all(isinstance(each, str) for each in value):
        check_count(len(value), settings)
        try:
            files = [b64decode(each, validate=True) for each in value]
        except (binascii.Error, ValueError) as error:
            raise RefusedError("bad_images", "an image is no base64 text of a file.") from error
        return of_files(files, preprocessing, settings)
    return of_array(numbers(value), preprocessing, settings)


def numbers(value: Any) -> np.ndarray:
    """An array of nested lists of numbers: uint8 if all are whole and one is above 1, else float.

    Raises:
        RefusedError: lists of different lengths, or something that is no number.
    """
    try:
        array = array_of(value)
    except (ValueError, OverflowError, RecursionError) as error:
        raise RefusedError(
            "bad_images",
            "images must be base64 strings of files, or numbers in lists that are nested evenly, "
            "[n][channels][height][width].",
        ) from error
    whole = array.dtype.kind in "iu"
    if whole and array.size and (array.min() < 0 or array.max() > 255):
        raise RefusedError("bad_images", "whole numbers of images must lie in 0..255.")
    if whole and array.size and array.max() > 1:
        return array.astype(np.uint8)
    return array.astype(np.float32) if np.isfinite(array).all() else array.astype(np.float64)


def array_of(value: Any) -> np.ndarray:
    """An array of nested lists of numbers.

    NumPy would take text too, and give each number the room of the longest text.

    Raises:
        ValueError, OverflowError, RecursionError: there is something else, or no even nesting.
    """
    if not {type(each) for each in np.array(value, dtype=object).flat} <= {int, float}:
        raise ValueError("not all are numbers")
    array = np.array(value)
    if array.dtype.kind not in "iuf":
        raise OverflowError("a number is too large")
    return array


def check_count(count: int, settings: ServeSettings) -> None:
    """Refuse a request without images, or with too many.

    Raises:
        RefusedError: no image, or more than `ServeSettings.request_images`.
    """
    if count < 1:
        raise RefusedError("bad_images", "the request has no image; send at least one.")
    if count > settings.request_images:
        raise RefusedError(
            "too_large",
            f"the request has {count:,} images; send at most {settings.request_images:,}.",
        )


def joined(images: Sequence[Tensor], preprocessing: Preprocessing) -> Tensor:
    """One batch of the images of several requests.

    Raises:
        InputError: images for another network, from before the bundle was exchanged.
    """
    if len(images) == 1:
        return images[0]
    if len({(each.dtype, each.shape[1:]) for each in images}) > 1:
        for each in images:
            check_images(each, preprocessing.channels)
        images = [preprocessing.unit(each) for each in images]
    return torch.cat(list(images))


@contextmanager
def _told(name: str) -> Iterator[None]:
    """What is wrong with a file becomes a refusal that names it."""
    try:
        yield
    except RefusedError:
        raise
    except Image.UnidentifiedImageError as error:
        raise RefusedError("bad_images", f"{name} is no JPEG or PNG file.") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise RefusedError("too_large", f"{name} has too many pixels.") from error
    except InputError as error:
        raise RefusedError("bad_images", f"{name} cannot be used: {error}") from error
    except BROKEN as error:
        raise RefusedError("bad_images", f"{name} cannot be used: {damaged(error)}") from error


def _check_pixels(width: int, height: int, settings: ServeSettings, name: str) -> None:
    most = min(settings.image_pixels, MAX_PIXELS)
    if width * height > most:
        sentence = f"{name} has {width} x {height} pixels; send at most {most:,}."
        raise RefusedError("too_large", sentence)
