"""Source images that a twin is not trained on: what a model does well is measured on them.

No label is needed. The frozen classifier's probabilities for the clean image stand for the truth,
also where the image is corrupted. For clean images, another model may judge, too. The corruptions
are the benchmark's four extra ones, which are in no reported mean.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from acclimate.backbones import Classifier
from acclimate.backbones.batch_norm import Control, Trust, exchange
from acclimate.data.corruptions import corrupt
from acclimate.parts.normalisation import BatchStatistics, replace_batch_norms
from acclimate.preprocessing import Preprocessing
from acclimate.randomness import key, permutation
from acclimate.resizing import both
from acclimate.runtime.graphs import Recorder
from acclimate.runtime.precision import Precision, autocast
from acclimate.source.images import SourceImages

SHIFTS = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
"""Corruptions that stand for the shifts to come."""
SEVERITY = 4
CLEAN = "none"
FEWEST, FEW, MOST = 16, 128, 512
"""From fewer images nothing is measured; small batches are tried with so many, since they take
long; more are not needed."""
LARGE = 64 * 64
"""Images with more pixels are large: `FEW` of them must do."""
BATCH = 64
_MANY = 10_000


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Source images, clean and corrupted, and what stands for the truth about them."""

    images: Mapping[str, UInt8[Tensor, "n 3 h w"]]
    """The images by corruption; ``"none"`` is clean."""
    target: Float[Tensor, "n classes"]
    """The frozen classifier's probabilities for the clean images: the truth about the others."""
    target_clean: Float[Tensor, "n classes"]
    """The truth about the clean images: the same, or see `judged_by_both`."""
    preprocessing: Preprocessing
    precision: Precision

    def first(self, count: int) -> "HeldOut":
        """The first images; `hold_out` gives them a random order."""
        images = {name: each[:count] for name, each in self.images.items()}
        target, target_clean = self.target[:count], self.target_clean[:count]
        return replace(self, images=images, target=target, target_clean=target_clean)


@dataclass(frozen=True)
class Agreement:
    """Mean probability, 0..1, that stands for the truth about a model's answers.

    It is of the clean image, whatever the model sees. Where the frozen classifier judges alone, it
    has its mean confidence on clean images, the largest value there is.
    """

    of_clean: Float[Tensor, " images"]
    """For each image, clean."""
    of_shifted: Float[Tensor, " images"]
    """For each image, corrupted: the mean over `SHIFTS`."""

    @property
    def clean(self) -> float:
        """On clean images: the mean over all."""
        return float(self.of_clean.mean())

    @property
    def shifted(self) -> float:
        """On corrupted images: the mean over all."""
        return float(self.of_shifted.mean())


class _Rest:
    """Images without those held out. They are looked up, for they may be too many to copy.

    Args:
        images: All images.
        kept: The indices of those that are left.
    """

    def __init__(self, images: UInt8[Tensor, "n 3 h w"], kept: Int64[Tensor, " rest"]):
        self._images, self._kept = images, kept
        self.shape, self.device = torch.Size((len(kept), *images.shape[1:])), images.device
        self.nbytes = self.shape.numel() * images.element_size()

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: Int64[Tensor, " part"] | slice) -> UInt8[Tensor, "part 3 h w"]:
        return self._images[self._kept[index]]

    def to(self, device: torch.device) -> UInt8[Tensor, "rest 3 h w"]:
        """A copy on a device."""
        return self[:].to(device)

    def split(self, size: int) -> Iterator[UInt8[Tensor, "part 3 h w"]]:
        """As `Tensor.split`."""
        return (self._images[part] for part in self._kept.split(size))

    def tensor_split(self, parts: int) -> Iterator[UInt8[Tensor, "part 3 h w"]]:
        """As `Tensor.tensor_split`."""
        return (self._images[part] for part in self._kept.tensor_split(parts))


def enough(images: UInt8[Tensor, "n channels h w"], preprocessing: Preprocessing) -> int:
    """How many images are measured on: 512, or 128 where they or the network's are large.

    Each takes some 100 forward passes: more of large images would take hours on a CPU.
    """
    pixels = images.shape[-2] * images.shape[-1], math.prod(both(preprocessing.size))
    return FEW if max(pixels) > LARGE else MOST


def part_of(source: SourceImages, *, chooses: bool) -> tuple[SourceImages, SourceImages]:
    """Split into images to train on and images held out, evenly spaced: a fifth, at most `enough`.

    Where a fifth is fewer than 16 images, all images are in both.

    Args:
        source: All images.
        chooses: Whether something is chosen by the images held out. Otherwise sets from 10,000
            images on are trained on whole, and what is measured is measured on some of these.
    """
    images = source.images
    most = enough(images, source.preprocessing)
    count = min(most, len(images) // 5)
    if count < FEWEST or (len(images) >= _MANY and not chooses):
        return source, source.sample(most)
    held = torch.zeros(len(images), dtype=torch.bool)
    held[torch.arange(count) * len(images) // count] = True
    if len(images) < _MANY:
        return source.part(~held), source.part(held)
    kept = (~held).nonzero().squeeze(1)
    labels = None if source.labels is None else source.labels[kept]
    rest: Any = _Rest(images, kept)  # has what training asks of a tensor
    return replace(source, images=rest, labels=labels), source.part(held)


def hold_out(classifier: Classifier, source: SourceImages, precision: Precision) -> HeldOut | None:
    """Corrupt images, and let the classifier answer for the clean ones.

    The images come in a fixed random order: in class folders neighbours are of one class, and
    batches of one class have other statistics.

    Args:
        classifier: h∘f, frozen, in evaluation mode.
        source: The images; labels are not used.
        precision: Precision of the forward passes.

    Returns:
        None if there are fewer than 16 images, or if they are not RGB and cannot be corrupted.
    """
    if len(source.images) < FEWEST or source.images.shape[1] != 3:
        return None
    source = source.part(permutation(key(0, "held out"), len(source.images)))
    clean = source.images
    images = {CLEAN: clean} | {name: corrupt(clean, name, SEVERITY) for name in SHIFTS}
    unknown = torch.empty(0)
    held = HeldOut(images, unknown, unknown, source.preprocessing, precision)
    target = _logits(classifier, held, CLEAN, BATCH).softmax(1)
    return replace(held, target=target, target_clean=target)


def judged_by_both(held: HeldOut, model: Classifier, trust: Trust | None) -> HeldOut:
    """Held-out images with a second judge of the clean ones, as weighty as the classifier.

    A frozen classifier that judges alone counts each answer that is changed on clean images as a
    loss, also where the change is right, and the more so the more certain it is. About corrupted
    images it still judges alone, for a second judge favours answers like its own.

    Args:
        held: The images, with the classifier's probabilities.
        model: In evaluation mode; as before on return.
        trust: How far the model trusts the batch's statistics here; None takes the source's alone.

    Raises:
        InputError: a layer that computes batch norm in a way of its own.
    """
    with _trusting(model, trust):
        own = _logits(model, held, CLEAN, BATCH).softmax(1)
    return replace(held, target_clean=held.target.lerp(own, 0.5))


def corrupted(
    images: UInt8[Tensor, "n channels h w"], name: str, severity: int
) -> UInt8[Tensor, "n channels h w"]:
    """Images under a corruption, or clean ones as they are; grey images stay grey.

    ```python
    corrupted(images, "spatter", 4)
    ```

    Args:
        images: Of one or three channels.
        name: A corruption, or ``"none"``.
        severity: 1..5.
    """
    if name == CLEAN:
        return images
    found = corrupt(images.expand(-1, 3, -1, -1), name, severity)
    return found if images.shape[1] == 3 else found.float().mean(1, keepdim=True).round().byte()


def agreement(
    model: Classifier, held: HeldOut, trust: Trust | None, *, batch: int = BATCH
) -> Agreement:
    """How well a model answers for held-out images.

    Args:
        model: In evaluation mode; as before on return.
        held: The images.
        trust: How far the batch's statistics are trusted; None takes the source's alone.
        batch: Number of images that come together.

    Raises:
        InputError: a layer that computes batch norm in a way of its own.
    """
    with _trusting(model, trust):
        answers = {name: _logits(model, held, name, batch).argmax(1) for name in held.images}
    scores = {
        name: _score(found, held.target_clean if name == CLEAN else held.target)
        for name, found in answers.items()
    }
    shifted = torch.stack([scores[name] for name in SHIFTS])  # [shifts, images]
    return Agreement(scores[CLEAN], shifted.mean(0))


@contextmanager
def _trusting(model: Classifier, trust: Trust | None) -> Iterator[None]:
    """Within it, the model trusts the batch's statistics so far."""
    replaced = {}
    if trust is not None:
        policy = BatchStatistics(trust.prior, trust.limit)
        replaced = replace_batch_norms(model.encoder, Control(), policy)
    try:
        yield
    finally:
        exchange(model.encoder, replaced)


def _score(answers: Int64[Tensor, " n"], truth: Float[Tensor, "n classes"]) -> Float[Tensor, " n"]:
    return truth.gather(1, answers.unsqueeze(1)).squeeze(1).double()


@torch.no_grad()
def _logits(model: Classifier, held: HeldOut, name: str, batch: int) -> Float[Tensor, "n classes"]:
    device = next(model.parameters()).device
    recorder = Recorder("the measurement on held-out images", device)

    def run(images: Tensor) -> tuple[Tensor]:
        with autocast(device, held.precision):
            return (model(held.preprocessing(images)).float(),)

    parts = held.images[name].to(device).split(batch)
    return torch.cat([recorder(run, part)[0] for part in parts]).cpu()
