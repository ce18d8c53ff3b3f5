"""What the stages before deployment train on."""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

from jaxtyping import Int64, UInt8
from torch import Tensor

from acclimate.data.fingerprint import fingerprint
from acclimate.errors import InputError
from acclimate.preprocessing import Preprocessing, evenly_spaced


@dataclass(frozen=True, eq=False)
class SourceImages:
    """Images of the source domain, how a network takes them, and their classes if known."""

    images: UInt8[Tensor, "n 3 h w"]
    """0..255, not normalised; may be a read-only memory map."""
    preprocessing: Preprocessing
    labels: Int64[Tensor, " n"] | None = None
    """Only stages with cross entropy look at them: supervised, joint, probe, and an alignment that
    trains the classifier."""

    def __post_init__(self):
        if self.labels is not None and len(self.labels) != len(self.images):
            raise InputError(
                f"{len(self.labels)} labels do not fit {len(self.images)} images; give each one."
            )

    def labels_for(self, purpose: str) -> Int64[Tensor, " n"]:
        """The labels.

        Raises:
            InputError: there are none, and ``purpose`` needs them.
        """
        if self.labels is None:
            raise InputError(f"{purpose} needs labels, and these images have none.")
        return self.labels

    def sample(self, limit: int) -> "SourceImages":
        """At most ``limit`` of the images, evenly spaced."""
        labels = None if self.labels is None else evenly_spaced(self.labels, limit)
        return replace(self, images=evenly_spaced(self.images, limit), labels=labels)

    def identity(self, *, labelled: bool = False) -> list[str]:
        """What tells these from others, for a checkpoint's stamp."""
        found = [self._fingerprint, repr(self.preprocessing)]
        if labelled and self.labels is not None:
            found.append(hashlib.sha256(self.labels.cpu().numpy().tobytes()).hexdigest())
        return found

    @cached_property
    def _fingerprint(self) -> str:
        return fingerprint(self.images)
