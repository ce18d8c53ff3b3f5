"""Pack a zip of small JPEG images into a third of its size, with the same pixels, for a journey.

    python studies/packed.py cifar10.zip cifar10.packed

The zip holds ``train/CLASS/IMAGE`` and ``test/CLASS/IMAGE``. Files of one encoder begin with the
same tables: compressed as a whole, they take no space. `unpack` decodes all images once; `read`
then gives them as `acclimate.data.load` would, and `images` takes either kind of data.
"""

import json
import lzma
import os
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from jaxtyping import UInt8
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as tensors_of
from safetensors.torch import save, save_file

from acclimate.commands.script import start
from acclimate.data import LabelledImages, load, subset
from acclimate.data.decode import decode
from acclimate.data.folders import Split
from acclimate.errors import InputError
from acclimate.storage.atomic import write_atomically

ENDING = ".packed"
SPLITS: tuple[Split, ...] = ("train", "test")
_PRESET = 1  # a higher one takes three times as long and saves 1 %


@dataclass(frozen=True)
class Arguments:
    """The zip, and the file to write."""

    data: tyro.conf.Positional[Path]
    """Zip of split/class/image."""
    out: tyro.conf.Positional[Path]
    """File to write; its name ends in .packed."""


def main(arguments: Arguments) -> None:
    """Pack a zip and print both sizes."""
    if arguments.out.suffix != ENDING:
        raise InputError(f"{arguments.out} must end in {ENDING}.")
    size = pack(arguments.data, arguments.out)
    print(f"{arguments.out}: {size:,} bytes, {size / arguments.data.stat().st_size:.0%} of the zip")


def pack(data: Path, out: Path) -> int:
    """Write the files of a zip's images, in the loader's order, compressed as a whole.

    Returns:
        The packed size in bytes.

    Raises:
        InputError: the data is no zip of images that `acclimate.data.load` takes, or some of its
            images cannot be used.
    """
    tensors, classes = {}, ()
    for split in SPLITS:
        loaded = load(data, split)
        if not zipfile.is_zipfile(data) or loaded.skipped:
            raise InputError(f"{data} is no zip, or has images that cannot be used; pack another.")
        with zipfile.ZipFile(data) as archive:
            files = [archive.read(path) for path in loaded.paths]
        tensors[f"{split}.files"] = torch.frombuffer(bytearray().join(files), dtype=torch.uint8)
        tensors[f"{split}.sizes"] = torch.tensor([len(each) for each in files])
        tensors[f"{split}.labels"] = loaded.labels
        classes = loaded.classes
    about = {"name": data.stem, "classes": json.dumps(classes)}
    packed = lzma.compress(save(tensors, about), preset=_PRESET)
    write_atomically(out, lambda temporary: temporary.write_bytes(packed))
    return len(packed)


def unpack(packed: Path, out: Path) -> None:
    """Decode all images of a packed file into a file for `read`, unless it is there already.

    Raises:
        InputError: the file is missing or damaged, or the images differ in size.
    """
    if out.exists():
        return
    try:
        content = lzma.decompress(packed.read_bytes())
        length = int.from_bytes(content[:8], "little")  # of safetensors' header
        about = json.loads(content[8 : 8 + length])["__metadata__"]
        tensors = tensors_of(content)
    except (OSError, lzma.LZMAError, SafetensorError, ValueError, LookupError) as error:
        raise InputError(f"{packed} is missing or damaged; pack it again.") from error
    decoded = {}
    for split in SPLITS:
        files = tensors[f"{split}.files"].numpy()
        ends = tensors[f"{split}.sizes"].cumsum(0).tolist()
        decoded[f"{split}.images"] = _decoded(files, ends)
        decoded[f"{split}.labels"] = tensors[f"{split}.labels"]
    write_atomically(out, lambda temporary: save_file(decoded, temporary, about))


def read(unpacked: Path, split: Split) -> LabelledImages:
    """The images of a split, as `acclimate.data.load` gives them, but without paths.

    Raises:
        InputError: the file is missing or damaged.
    """
    try:
        with safe_open(unpacked, framework="pt") as file:
            about = file.metadata()
            images, labels = (file.get_tensor(f"{split}.{kind}") for kind in ("images", "labels"))
        classes = tuple(json.loads(about["classes"]))
        return LabelledImages(images.permute(0, 3, 1, 2), labels, classes, about["name"])
    except (OSError, SafetensorError, ValueError, LookupError, TypeError) as error:
        raise InputError(
            f"{unpacked} is missing or damaged; delete it and unpack again."
        ) from error


def images(data: str, unpacked: Path, split: Split, count: int) -> LabelledImages:
    """Images of a packed file that `unpack` has decoded, or of other data, evenly spaced."""
    packed = Path(data).suffix == ENDING
    return subset(read(unpacked, split) if packed else load(data, split), count)


def _decoded(
    files: UInt8[np.ndarray, " bytes"], ends: list[int]
) -> UInt8[torch.Tensor, "n height width 3"]:
    """The pixels of files that lie one after the other."""
    first = np.asarray(decode(files[: ends[0]].tobytes()))
    pixels = np.empty((len(ends), *first.shape), np.uint8)

    def decode_some(numbers: range) -> None:
        for number in numbers:
            begin = ends[number - 1] if number else 0
            image = np.asarray(decode(files[begin : ends[number]].tobytes()))
            if image.shape != first.shape:
                raise InputError("the packed images differ in size; pack images of one size.")
            pixels[number] = image

    blocks = [range(n, min(n + 512, len(ends))) for n in range(0, len(ends), 512)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(decode_some, blocks):
            pass
    return torch.from_numpy(pixels)


if __name__ == "__main__":
    start(main, Arguments)
