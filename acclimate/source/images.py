"""The images of source training."""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Int64, Shaped, UInt8
from torch import Tensor

from acclimate.data.fingerprint import fingerprint
from acclimate.errors import InputError
from acclimate.preprocessing import Preprocessing, evenly_spaced

_SHARE = 0.25
"""Share of a GPU's free memory that a data set may take there."""
_MOST, _FEWEST = 256, 16
_PIXELS = _MOST * 96 * 96


class Rows:
    """Rows of a tensor, on the device of their indices; on a GPU all of them, if they fit.

    ```python
    labels = Rows(labels)
    labels(index)  # those of a batch, where index is
    ```
    """

    def __init__(self, values: Shaped[Tensor, "n ..."]):
        self._values = values

    def __call__(self, index: Int64[Tensor, " batch"]) -> Shaped[Tensor, "batch ..."]:
        """The rows of some indices."""
        if index.device not in (self._values.device, torch.device("cpu")) and self._fits(index):
            self._values = self._values.to(index.device)
        return self._values[index.to(self._values.device)].to(index.device)

    def _fits(self, index: Tensor) -> bool:
        if not index.is_cuda:
            return True
        free, _ = torch.cuda.mem_get_info(index.device)
        return self._values.nbytes <= _SHARE * free


@dataclass(frozen=True, eq=False)
class SourceImages:
    """Images of the source domain, their preprocessing, and their labels if known."""

    images: UInt8[Tensor, "n 3 h w"]
    """Images in 0..255, not normalised; may be a read-only memory map."""
    preprocessing: Preprocessing
    """Normalisation that the network expects."""
    labels: Int64[Tensor, " n"] | None = None
    """Class indices. Only stages with cross entropy use them: supervised, joint, probe, and an
    alignment that trains the classifier."""

    def __post_init__(self) -> None:
        if self.labels is not None and len(self.labels) != len(self.images):
            raise InputError(
                f"{len(self.labels)} labels do not fit {len(self.images)} images; give one each."
            )

    def labels_for(self, purpose: str) -> Int64[Tensor, " n"]:
        """The labels.

        Raises:
            InputError: there are no labels; the message names the ``purpose`` that needs them.
        """
        if self.labels is None:
            raise InputError(
                f"{purpose} needs labels, and these images have none; give labelled images."
            )
        return self.labels

    @cached_property
    def rows(self) -> Rows:
        """The images of indices, on their device."""
        return Rows(self.images)

    @cached_property
    def label_rows(self) -> Rows:
        """The labels of indices, on their device.

        Raises:
            InputError: there are no labels.
        """
        return Rows(self.labels_for("training"))

    @property
    def at_once(self) -> int:
        """Number of images in a pass without gradients: 256, or fewer of more than 96 pixels."""
        pixels = self.preprocessing.height * self.preprocessing.width
        return max(_FEWEST, min(_MOST, _PIXELS // pixels))

    def sample(self, limit: int) -> "SourceImages":
        """A subset of at most ``limit`` images, evenly spaced."""
        labels = None if self.labels is None else evenly_spaced(self.labels, limit)
        return replace(self, images=evenly_spaced(self.images, limit), labels=labels)

    def part(self, chosen: Bool[Tensor, " n"] | Int64[Tensor, " part"]) -> "SourceImages":
        """The images of a mask or of indices, copied."""
        labels = None if self.labels is None else self.labels[chosen]
        return replace(self, images=self.images[chosen], labels=labels)

    def identity(self, *, labelled: bool = False) -> list[str]:
        """Hashes of images, preprocessing and (optionally) labels, for a checkpoint's stamp."""
        parts = [self._fingerprint, repr(self.preprocessing)]
        if labelled and self.labels is not None:
            parts.append(hashlib.sha256(self.labels.cpu().numpy().tobytes()).hexdigest())
        return parts

    @cached_property
    def _fingerprint(self) -> str:
        return fingerprint(self.images)
