"""Reconstruction of a frozen encoder's features from those of two trained encoders: ReC-TTT."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
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
# α of hard-feature mining at the start and after the warm-up (ReC-TTT).
_FIRST_ALPHA, _LAST_ALPHA = -3.0, 1.0


def cosine_distance(targets: Sequence[Map], reconstructions: Sequence[Map]) -> Float[Tensor, ""]:
    """1 − cosine of each image's flattened features: a mean over images, a sum over stages.

    ```python
    loss = cosine_distance(teacher_features, decoder(student_features, origins=1))
    ```

    Args:
        targets: Target features of each stage. They are detached.
        reconstructions: Reconstructed features of each stage, of the same shapes. The cosine is
            computed in at least float32.
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
    """The same reconstruction, with gradients only at hard positions.

    A position of an image is hard if its 1 − cosine over channels is at least mean + α · std over
    all positions of the batch (Guo et al. 2023, *ReContrast*; ReC-TTT).

    ```python
    loss = cosine_distance([target], [only_hard(target, reconstruction, alpha=1.0)])
    ```

    Args:
        target: Features of a stage.
        reconstruction: Reconstructed features, of the same shape.
        alpha: Threshold α. The larger it is, the fewer positions are hard.
    """
    with torch.no_grad():
        distance = 1 - cosine_similarity(at_least_float32(target), at_least_float32(reconstruction))
        hard = distance >= distance.mean() + alpha * distance.std()  # [batch, h, w]
    return torch.where(hard[:, None], reconstruction, reconstruction.detach())


def mutual_divergence(
    first: Float[Tensor, "batch classes"], second: Float[Tensor, "batch classes"]
) -> Float[Tensor, ""]:
    """KL divergence between two classifiers' predictions, summed over both directions.

    The target of each direction is detached.

    ```python
    loss = mutual_divergence(first_head(features), second_head(features))
    ```

    Args:
        first: Logits of one classifier.
        second: Logits of the other classifier.
    """
    p, q = (log_softmax(at_least_float32(logits), dim=1) for logits in (first, second))
    return kl_div(p, q.detach(), reduction="batchmean", log_target=True) + kl_div(
        q, p.detach(), reduction="batchmean", log_target=True
    )


class Reconstruction(TrainedOnCrops):
    """ReC-TTT (Colussi et al. 2024): cross-reconstruction between two encoders and a frozen one.

    One decoder reconstructs the features of a frozen teacher at three stages from those of a
    trained encoder at the same stages, and the encoder's features from the teacher's. The first
    encoder processes the image, the second its mirror image. The loss is the mean of the four
    `cosine_distance` terms.

    Before deployment only hard positions receive gradients (`only_hard`), and the mutual KL
    divergence of the two classifiers is added. At deployment only the encoder layers up to the last
    tapped stage are updated.

    ```python
    objective = Reconstruction(siamese(model), preprocessing, taps=[1, 2, 3])
    ```

    Args:
        model: A `siamese` classifier. The teacher is a copy of its first encoder in its present
            state: create the objective after supervised training and before joint training.
        preprocessing: Preprocessing of its images; only their size is used.
        taps: Three stages: names of modules in one encoder, or indices, counted from 1.
        warm_up_steps: Number of calls of `source_loss` during which α of hard-feature mining rises
            from -3 to 1, a tenth of training. The default fits 350 epochs of CIFAR-10 in batches of
            128.
        blocks: Number of residual blocks of the bottleneck, and of each stage of the decoder.
        padding: Largest shift of the crops before deployment, in pixels.

    Raises:
        InputError: the classifier is not siamese, or an option is out of range.
    """

    calls: Tensor
    keeps_source: tuple[str, ...] = ("teacher", "decoder")  # as in the released code
    replayable = True

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
        height, width, channels = preprocessing.shape
        self.taps: list[str] = [resolve_tap(model.encoder.first, tap, size) for tap in taps]
        self.warm_up_steps: int = warm_up_steps
        self.padding = padding
        self.teacher: nn.Module = frozen(model.encoder.first)
        like = next(model.parameters())
        features = self._teacher_features(like.new_zeros(1, channels, height, width))
        shapes = [(f.shape[1], f.shape[2], f.shape[3]) for f in features]
        # Origins: first encoder, second encoder, teacher on images, teacher on mirror images.
        self.decoder: FeatureDecoder = FeatureDecoder(shapes, blocks=blocks, origins=4)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def train(self, mode: bool = True) -> "Reconstruction":
        """Set the mode of all modules except the teacher, which stays in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, model: Classifier, views: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, ""]:
        """Error of the teacher's features, reconstructed from those of the two encoders.

        The two terms that reconstruct the encoders' features are omitted: their targets are
        detached, so these terms have no gradient at deployment.
        """
        students = self._student_features(model, views)
        targets = self._teacher_features(_with_mirror(views))
        return cosine_distance(targets, self.decoder(students[:3], origins=2)) / 2

    def source_loss(
        self, model: Classifier, views: Float[Tensor, "batch 3 h w"]
    ) -> Float[Tensor, ""]:
        """All four reconstruction terms at hard positions, plus the mutual divergence."""
        *students, features = self._student_features(model, views, "")
        teacher = self._teacher_features(_with_mirror(views))
        decoded = self.decoder([torch.cat(pair) for pair in zip(students, teacher)], origins=4)
        targets = [torch.cat(pair) for pair in zip(teacher, students)]
        alpha = self._alpha()
        terms = [
            cosine_distance(target, [only_hard(t, d, alpha) for t, d in zip(target, decoding)])
            for target, decoding in zip(_parts(targets, 4), _parts(decoded, 4))
        ]
        votes = model.votes_of(torch.cat(features.chunk(2), dim=1))
        return torch.stack(terms).mean() + mutual_divergence(*votes)

    def _student_features(self, model: Classifier, views: Tensor, *more: str) -> list[Tensor]:
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
    def _teacher_features(self, images: Tensor) -> list[Map]:
        return [as_map(f) for f in tapped(self.teacher, self.taps, images)]

    def _alpha(self) -> Tensor:
        """α of hard-feature mining, which rises from call to call during the warm-up."""
        alpha = _FIRST_ALPHA + (_LAST_ALPHA - _FIRST_ALPHA) * self.calls / self.warm_up_steps
        self.calls += 1
        return alpha.clamp(max=_LAST_ALPHA)


def _with_mirror(images: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "2*batch 3 h w"]:
    return torch.cat([images, images.flip(-1)])


def _parts(stages: Sequence[Map], count: int) -> list[tuple[Map, ...]]:
    """Split the batch into equal parts: the features of all stages for each part."""
    return list(zip(*(features.chunk(count) for features in stages)))


@dataclass(frozen=True)
class ReconstructionOptions(ObjectiveOptions):
    """Options of `Reconstruction` at deployment.

    ```python
    AdapterSettings(steps=20, objective=ReconstructionOptions(), update=Adam(1e-5))
    ```
    """

    kind: ClassVar[type[Objective]] = Reconstruction
