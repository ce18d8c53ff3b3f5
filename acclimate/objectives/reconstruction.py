"""Two encoders whose features a frozen third one's can be reconstructed from: ReC-TTT."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cosine_similarity, kl_div, log_softmax

from acclimate.backbones import Classifier
from acclimate.backbones.frozen import frozen
from acclimate.backbones.siamese import Siamese
from acclimate.backbones.stages import as_map, resolve_tap
from acclimate.backbones.taps import tapped
from acclimate.errors import InputError
from acclimate.objectives.decoder import FeatureDecoder
from acclimate.objectives.objective import Objective, ObjectiveOptions, TrainedOnCrops
from acclimate.preprocessing import Preprocessing
from acclimate.runtime.precision import at_least_float32

Map = Float[Tensor, "batch channels h w"]
# Hard-feature mining begins with points this many standard deviations off the mean (ReC-TTT).
_FIRST_ALPHA, _LAST_ALPHA = -3.0, 1.0


def cosine_distance(targets: Sequence[Map], reconstructions: Sequence[Map]) -> Float[Tensor, ""]:
    """1 − cosine of each image's flattened features, its mean over images, summed over stages.

    Args:
        targets: A stage's features each; detached, so that nothing is learned from being a target.
        reconstructions: Of the same shapes. Compared in at least float32.
    """
    terms = []
    for target, reconstruction in zip(targets, reconstructions, strict=True):
        similarity = cosine_similarity(
            at_least_float32(target).detach().flatten(1),
            at_least_float32(reconstruction).flatten(1),
        )
        terms.append((1 - similarity).mean())
    return torch.stack(terms).sum()


def only_hard(target: Map, reconstruction: Map, alpha: float | Tensor) -> Map:
    """The reconstruction, but with a gradient only where it is still far from its target.

    A position of an image is hard unless its 1 − cosine over channels lies below mean + α·std of
    all positions of the batch (Guo et al. 2023, *ReContrast*; ReC-TTT).

    Args:
        target: A stage's features.
        reconstruction: Of the same shape.
        alpha: α; a large one leaves only the farthest outliers.
    """
    with torch.no_grad():
        distance = 1 - cosine_similarity(at_least_float32(target), at_least_float32(reconstruction))
        hard = distance >= distance.mean() + alpha * distance.std()  # [batch, h, w]
    return torch.where(hard[:, None], reconstruction, reconstruction.detach())


def mutual_divergence(
    first: Float[Tensor, "batch classes"], second: Float[Tensor, "batch classes"]
) -> Float[Tensor, ""]:
    """KL of each classifier's prediction from the other's, which is detached; both directions.

    Args:
        first: Logits of one classifier.
        second: Logits of the other.
    """
    p, q = (log_softmax(at_least_float32(logits), dim=1) for logits in (first, second))
    return kl_div(p, q.detach(), reduction="batchmean", log_target=True) + kl_div(
        q, p.detach(), reduction="batchmean", log_target=True
    )


class Reconstruction(TrainedOnCrops):
    """ReC-TTT (Colussi et al. 2024): cross-reconstruction between two encoders and a frozen one.

    One decoder makes, from three stages of a trained encoder, the frozen teacher's features of the
    same stages, and from the teacher's the trained encoder's; for the first encoder of the image,
    for the second of its mirror image. The loss is the mean of these four `cosine_distance`.

    Before deployment easy positions do not teach (`only_hard`), and the mutual KL of the two
    classifiers is added. At deployment only the encoders below the last tapped stage move.

    Args:
        model: A `siamese` classifier. The teacher is a copy of its first encoder as it is now:
            construct this when that one is trained, before the joint training.
        preprocessing: Gives the size of the images.
        taps: Three stages, by the names of their modules in one encoder or by number from 1.
        warm_up_steps: Calls of `source_loss` in which α of the mining rises from -3 to 1: a tenth
            of the training. The default is that of 350 epochs of CIFAR-10 in batches of 128.
        blocks: Residual blocks of the bottleneck and of each stage of the decoder.
        padding: Of the shifted crops before deployment, in pixels.

    Raises:
        InputError: no siamese classifier, or options out of range.
    """

    calls: Tensor
    keeps_source = ("teacher", "decoder")  # as released

    def __init__(
        self,
        model: Classifier,
        preprocessing: Preprocessing,
        *,
        taps: Sequence[str | int] = (1, 2, 3),
        warm_up_steps: int = 13_650,
        blocks: int = 2,
        padding: int = 4,
    ):
        super().__init__()
        if not isinstance(model.encoder, Siamese):
            raise InputError(
                "ReC-TTT adapts two encoders; give it acclimate's siamese(classifier)."
            )
        if len(taps) != 3 or warm_up_steps < 1 or blocks < 1:
            raise InputError(
                f"ReC-TTT needs three taps, at least 1 warm-up step and at least 1 block, not "
                f"{list(taps)}, {warm_up_steps} and {blocks}."
            )
        size = preprocessing.size
        self.taps = [resolve_tap(model.encoder.first, tap, size) for tap in taps]
        self.warm_up_steps, self.padding = warm_up_steps, padding
        self.teacher = frozen(model.encoder.first)
        like = next(model.parameters())
        features = self._teach(like.new_zeros(1, 3, size, size))
        shapes = [(f.shape[1], f.shape[2], f.shape[3]) for f in features]
        # What is decoded stems from the first or second encoder, or from the teacher for either.
        self.decoder = FeatureDecoder(shapes, blocks=blocks, origins=4)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def train(self, mode: bool = True) -> "Reconstruction":
        """Set the mode of all modules but the teacher, which stays in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, model: Classifier, views: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, ""]:
        """How badly the teacher's features follow from those of a classifier's two encoders.

        The two terms that reconstruct the encoders' own features are left out: their targets are
        detached, so that they would have no gradient here.
        """
        students = self._study(model, views)
        targets = self._teach(_with_mirror(views))
        return cosine_distance(targets, self.decoder(students[:3], origins=2)) / 2

    def source_loss(
        self, model: Classifier, views: Float[Tensor, "batch 3 h w"]
    ) -> Float[Tensor, ""]:
        """All four reconstructions of what is hard, and the classifiers' mutual divergence."""
        *students, features = self._study(model, views, "")
        teacher = self._teach(_with_mirror(views))
        decoded = self.decoder([torch.cat(pair) for pair in zip(students, teacher)], origins=4)
        targets = [torch.cat(pair) for pair in zip(teacher, students)]
        alpha = self._alpha()
        terms = [
            cosine_distance(part, [only_hard(t, d, alpha) for t, d in zip(part, found)])
            for part, found in zip(_parts(targets, 4), _parts(decoded, 4))
        ]
        votes = model.votes_of(torch.cat(features.chunk(2), dim=1))
        return torch.stack(terms).mean() + mutual_divergence(*votes)

    def _study(self, model: Classifier, views: Tensor, *more: str) -> list[Tensor]:
        """The first encoder's features of the image, then the second's of its mirror image."""
        names = [*self.taps, *more]
        both = (
            tapped(encoder, names, images)
            for encoder, images in (
                (model.encoder.get_submodule("first"), views),
                (model.encoder.get_submodule("second"), views.flip(-1)),
            )
        )
        stages = [torch.cat(pair) for pair in zip(*both)]
        return [as_map(f) for f in stages[:3]] + stages[3:]

    @torch.no_grad()
    def _teach(self, images: Tensor) -> list[Map]:
        return [as_map(f) for f in tapped(self.teacher, self.taps, images)]

    def _alpha(self) -> Tensor:
        """α of the mining, which rises from call to call."""
        alpha = _FIRST_ALPHA + (_LAST_ALPHA - _FIRST_ALPHA) * self.calls / self.warm_up_steps
        self.calls += 1
        return alpha.clamp(max=_LAST_ALPHA)


def _with_mirror(images: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "2*batch 3 h w"]:
    return torch.cat([images, images.flip(-1)])


def _parts(stages: Sequence[Map], count: int) -> list[tuple[Map, ...]]:
    """The stages' features of each part of the batch."""
    return list(zip(*(features.chunk(count) for features in stages)))


@dataclass(frozen=True)
class ReconstructionOptions(ObjectiveOptions):
    """Options of `Reconstruction` at deployment."""

    kind: ClassVar[type[Objective]] = Reconstruction
