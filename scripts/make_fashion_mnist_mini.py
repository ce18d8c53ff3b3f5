"""Make the embedded data set ``fashion-mnist-mini`` from the four files of Fashion-MNIST.

The first 1,000 training and 200 test images of each class, in their original order:

    apt-get download dataset-fashion-mnist && dpkg -x dataset-fashion-mnist_*.deb fashion-mnist
    python scripts/make_fashion_mnist_mini.py fashion-mnist/usr/share/datasets/fashion-mnist

The same files always give the same bytes.
"""

import argparse
import gzip
from pathlib import Path
from typing import Any

import numpy as np

from acclimate.errors import InputError
from acclimate.storage.atomic import sha256, write_atomically

OUT = Path(__file__).parents[1] / "acclimate/data/fashion_mnist_mini/fashion_mnist_mini.npz"
CLASSES = (
    "t-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
# split -> (prefix of its files, images a class)
SPLITS = {"train": ("train", 1000), "test": ("t10k", 200)}


def read_idx(path: Path) -> np.ndarray:
    """Read a gzipped IDX file of bytes: two zeros, type 8, dimensions, their sizes, the values."""
    if not path.is_file():
        raise InputError(f"{path} is missing: give the folder with Fashion-MNIST's four .gz files.")
    content = gzip.decompress(path.read_bytes())
    dimensions = content[3]
    shape = np.frombuffer(content, ">u4", dimensions, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def first_of_each_class(labels: np.ndarray, count: int) -> np.ndarray:
    """Positions of the first ``count`` items of each class, in ascending order."""
    chosen = [np.flatnonzero(labels == label)[:count] for label in range(len(CLASSES))]
    return np.sort(np.concatenate(chosen))


def main() -> None:
    """Read the four files, choose, write."""
    parser = argparse.ArgumentParser(description="Make the data set fashion-mnist-mini.")
    parser.add_argument("folder", type=Path, help="holds train-images-idx3-ubyte.gz and the others")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    arrays: dict[str, Any] = {"classes": np.array(CLASSES)}
    for split, (prefix, count) in SPLITS.items():
        images = read_idx(arguments.folder / f"{prefix}-images-idx3-ubyte.gz")
        labels = read_idx(arguments.folder / f"{prefix}-labels-idx1-ubyte.gz")
        chosen = first_of_each_class(labels, count)
        arrays[f"{split}_images"], arrays[f"{split}_labels"] = images[chosen], labels[chosen]

    def write(path: Path) -> None:
        with path.open("wb") as file:
            np.savez_compressed(file, **arrays)

    write_atomically(arguments.out, write)
    size = arguments.out.stat().st_size / 1e6
    print(f"{arguments.out}: {size:.2f} MB, sha256 {sha256(arguments.out)}")


if __name__ == "__main__":
    main()
