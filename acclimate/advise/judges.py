"""The models that judge: the frozen classifier, and one with statistics of the batch beside it."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from acclimate.adapt import Adapter
from acclimate.advise.streams import Order, SourceStream, comes_by_class, source_stream
from acclimate.advise.trials import frozen_answers, guarded_stream
from acclimate.backbones.batch_norm import batch_norms
from acclimate.bundle import Bundle
from acclimate.guard.looks import looks_as_shown
from acclimate.randomness import key, permutation
from acclimate.source.loop import Run

_BATCH = 128  # shuffled images that come together, as in a guard's calibration


@dataclass(frozen=True, eq=False)
class TargetStream:
    """Target images as they come, and the frozen classifier's answers for them."""

    images: UInt8[Tensor, "n channels h w"]
    """In the order of the stream."""
    rows: Int64[Tensor, " n"]
    """Where each of them stands among the target images that were given."""
    frozen: Float[Tensor, "n classes"]
    """Logits of the frozen classifier."""
    looks: Float[Tensor, "n 5"]
    """How each looks; see `acclimate.guard.looks.looks`."""
    estimated: float
    """Accuracy of the frozen classifier, estimated without labels."""
    by_class: bool
    """Whether images of one class come together."""


class Judges:
    """The two models, which remember nothing.

    Args:
        bundle: With the calibration of a guard if there are target images.
        run: Device and memory.

    Attributes:
        frozen: The frozen classifier.
        statistics: Of the bundle.
    """

    def __init__(self, bundle: Bundle, run: Run):
        where = {"device": run.device, "memory_limit": run.memory_limit}
        self.statistics: dict[str, Tensor] = bundle.statistics
        self.frozen: Adapter = Adapter(bundle, "source", **where)
        norms = bool(batch_norms(bundle.classifier.encoder))
        with_twin, without = ("aligned-bn", "ptbn") if norms else ("aligned", "source")
        self._name = without if bundle.twin is None else with_twin
        self._beside = Adapter(bundle, self._name, **where)

    def source(
        self, images: UInt8[Tensor, "n c h w"], order: Order, by_class: bool | None
    ) -> SourceStream:
        """Source images as they come; see `source_stream`."""
        mixed = permutation(key(0, "advise", "judges"), len(images))
        frozen = frozen_answers(self.frozen, images, _BATCH)
        return source_stream(images, frozen, self._mixed(images, mixed), order, by_class)

    def target(
        self, images: UInt8[Tensor, "n c h w"], rows: Int64[Tensor, " n"], order: Order
    ) -> TargetStream:
        """Target images as they come."""
        if order == "shuffled":
            mixed = permutation(key(0, "advise", "target"), len(images))
            images, rows = images[mixed], rows[mixed]
        frozen = frozen_answers(self.frozen, images, _BATCH)
        mixed = permutation(key(0, "advise", "estimate"), len(images))
        beside = self._mixed(images, mixed)
        logits = beside[mixed], frozen[mixed]
        looked = looks_as_shown(images, self.frozen.preprocessing)
        found = guarded_stream(self._name, *logits, looked[mixed], _BATCH, self.statistics)
        by_class = order == "arrival" and any(
            comes_by_class(answers.argmax(1)) for answers in (frozen, beside)
        )
        return TargetStream(images, rows, frozen, looked, found.estimate.frozen.value, by_class)

    def _mixed(self, images: Tensor, mixed: Int64[Tensor, " n"]) -> Float[Tensor, "n classes"]:
        """The other model's answers to shuffled images: batches of one class would mislead it."""
        answers = frozen_answers(self._beside, images[mixed], _BATCH)
        found = torch.empty_like(answers)
        found[mixed] = answers
        return found
