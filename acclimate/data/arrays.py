""".npy files of images and labels: opened as memory maps, checked, and never unpickled."""

import tokenize
import warnings
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8

from acclimate.data import decode
from acclimate.errors import InputError


def open_images(
    path: Path, remedy: str, *, channels: tuple[int, ...] = (3,)
) -> UInt8[np.ndarray, "n height width channels"]:
    """Open an array of images as a memory map.

    Args:
        path: The .npy file.
        remedy: What to do if the file cannot be used; the end of the error message.
        channels: Numbers of channels that the array may have.

    Raises:
        InputError: the file is missing, damaged, or not uint8 ``[n, height, width, channels]``.
    """
    array = _open(path, remedy)
    fits = array.ndim == 4 and array.shape[-1] in channels and 0 not in array.shape
    if array.dtype != np.uint8 or not fits:
        expected = " or ".join(map(str, channels))
        raise InputError(
            f"{path} holds {array.dtype} {list(array.shape)}, but images must be uint8 "
            f"[n, height, width, {expected}]: {remedy}."
        )
    return array


def open_labels(path: Path, classes: int, remedy: str) -> Int64[np.ndarray, " n"]:
    """Read an array of labels of any integer type.

    Raises:
        InputError: the file is missing, damaged, not a one-dimensional array of integers, or holds
            values outside 0..classes-1.
    """
    array = _open(path, remedy)
    if not np.issubdtype(array.dtype, np.integer) or array.ndim != 1 or not len(array):
        raise InputError(
            f"{path} holds {array.dtype} {list(array.shape)}, but labels must be integers "
            f"[n]: {remedy}."
        )
    lowest, highest = int(array.min()), int(array.max())  # before the cast, which could overflow
    if lowest < 0 or highest >= classes:
        raise InputError(
            f"{path} holds labels {lowest}..{highest}, but they must lie in "
            f"0..{classes - 1}: {remedy}."
        )
    return array.astype(np.int64)


def _open(path: Path, remedy: str) -> np.ndarray:
    if not path.is_file():
        raise InputError(f"{path} is missing: {remedy}.")
    try:
        with warnings.catch_warnings():
            # Some published files were written by Python 2, and sizes in damaged headers overflow;
            # NumPy warns of both.
            warnings.simplefilter("ignore")
            return np.lib.format.open_memmap(path, mode="r")
    except (*decode.BROKEN, tokenize.TokenError) as error:  # the header is parsed as Python
        reason = " ".join(str(error).split()).rstrip(".")
        raise InputError(f"{path} is not a readable .npy file ({reason}): {remedy}.") from error
