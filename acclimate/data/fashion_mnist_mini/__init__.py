"""The embedded data set: 10,000 training and 2,000 test images of Fashion-MNIST.

It holds the first images of each of the ten classes of Fashion-MNIST (Xiao, Rasul, Vollgraf,
*Fashion-MNIST*, 2017; MIT licence, see NOTICE.md), the same number of each class.
``scripts/make_fashion_mnist_mini.py`` writes it.
"""

from importlib import resources
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from acclimate.errors import unknown_name


def read(
    split: Literal["train", "test"],
) -> tuple[UInt8[Tensor, "n 3 28 28"], Int64[Tensor, " n"], tuple[str, ...]]:
    """Read one split.

    ```python
    images, labels, classes = read("test")
    ```

    Args:
        split: ``"train"`` (10,000 images) or ``"test"`` (2,000).

    Returns:
        Images, uint8 0..255, whose three equal channels share memory (clone before writing to
        them); labels 0..9; the ten class names.

    Raises:
        InputError: the split is unknown.
    """
    if split not in ("train", "test"):
        raise unknown_name("split", split, ("train", "test"))
    file = resources.files(__name__) / "fashion_mnist_mini.npz"
    with file.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
        images = torch.from_numpy(arrays[f"{split}_images"])
        labels = torch.from_numpy(arrays[f"{split}_labels"]).long()
        classes = tuple(arrays["classes"].tolist())
    return images[:, None].expand(-1, 3, -1, -1), labels, classes
