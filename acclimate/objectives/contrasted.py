"""The student learns a teacher's answers, and its features stay near class means (RMT)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from acclimate.backbones import Classifier
from acclimate.errors import InputError
from acclimate.objectives.contrastive import cosines, shifted_places, unit
from acclimate.objectives.objective import Objective, ObjectiveOptions, Outcome
from acclimate.objectives.taught import Taught, symmetric_cross_entropy
from acclimate.preprocessing import Preprocessing
from acclimate.randomness import Key
from acclimate.runtime.precision import at_least_float32
from acclimate.views.mild import mild_views

_MOST = 10_000
"""Outputs that the projector may have."""


def group_contrast(
    groups: Sequence[Float[Tensor, "batch dim"]], *, temperature: float
) -> Float[Tensor, " batch"]:
    """Contrastive loss between several vectors of each image, as a mean over its vectors.

    The vectors of an image attract each other, and those of all other images repel them: the mean
    over anchors a and their positives s of −log [ e^{sim(a, s)/τ} / Σ_{v≠a} e^{sim(a, v)/τ} ].
    Khosla et al. 2020, *Supervised contrastive learning*, Eq. 2, with a class for each image.

    ```python
    losses = group_contrast([features, of_views], temperature=0.1)  # [batch]
    ```

    Args:
        groups: Two or more vectors of each image; one tensor holds a vector of every image.
        temperature: Temperature τ, above 0.
    """
    batch, count = len(groups[0]), len(groups)
    vectors = unit([*groups])  # [count batch, dim]
    logarithms = cosines(vectors, vectors, temperature).log_softmax(1)  # [count batch, count batch]
    places = [shifted_places(len(vectors), n * batch, vectors.device) for n in range(1, count)]
    positives = logarithms.gather(1, torch.stack(places, dim=1))  # [count batch, count - 1]
    return -positives.mean(1).view(count, batch).mean(0)


class ContrastedStudent(Taught):
    """The student learns a teacher's answers; its features are drawn to those of a class.

    Döbler et al. 2023, *Robust mean teacher for continual and gradual test-time adaptation*, § 3.
    The loss of an image is the symmetric cross entropy of the student's answers to it and to a view
    of it with the teacher's answer, half of each, and `group_contrast` between the nearest class
    mean of source features, the image's features and the view's, all behind a projector. The
    paper's third term, cross entropy on labelled source images, is left out.

    Args:
        model: The classifier that adapts; the projector is made for its features.
        preprocessing: Not used.
        prototypes: Class means of source features, and the number of images of each, from
            `acclimate.source.prototypes.prototypes`. A class of none is nobody's nearest.
        contrast: Weight of the contrastive loss.
        temperature: Its temperature τ.
        projection: Outputs of the projector; 0 takes the features themselves.
        seed: Seed of the projector's weights.

    Raises:
        InputError: the classifier's head takes maps.
    """

    gives_logits = True
    asks_source = False
    untrained = True

    def __init__(
        self,
        model: Classifier,
        preprocessing: Preprocessing,
        *,
        prototypes: Mapping[str, Tensor],
        contrast: float = 1.0,
        temperature: float = 0.1,
        projection: int = 128,
        seed: int = 0,
    ):
        super().__init__(model, preprocessing)
        self.contrast: float = contrast
        self.temperature: float = temperature
        like = next(model.parameters())
        self.register_buffer("means", prototypes["mean"].to(like))
        self.register_buffer("known", (prototypes["images"] > 0).to(like.device))
        self.projector: nn.Module = nn.Identity()
        if projection and contrast:
            self.projector = _projector(model.feature_dim, projection, seed).to(like)

    def draw(
        self, images: Float[Tensor, "batch 3 h w"], key: Key, index: Int64[Tensor, " batch"]
    ) -> tuple[Tensor, ...]:
        """The images, followed by a view of each."""
        return (torch.cat([images, mild_views(images, key=key, index=index)]),)

    def forward(self, model: Classifier, views: Float[Tensor, "all 3 h w"]) -> Outcome:
        """The loss of each image.

        The outcome's logits are the sum of student's and teacher's, which RMT answers.
        """
        plain, augmented = views.chunk(2)
        features = model.encoder(plain)
        logits = model.head(features)
        others = model.encoder(augmented)
        teacher = self.teacher(model, plain)
        losses = 0.5 * symmetric_cross_entropy(logits, teacher)
        losses = losses + 0.5 * symmetric_cross_entropy(model.head(others), teacher)
        if self.contrast:
            losses = losses + self.contrast * self.contrasts(features, others)
        return Outcome(losses, at_least_float32(logits) + at_least_float32(teacher))

    def nearest(self, features: Float[Tensor, "batch dim"]) -> Int64[Tensor, " batch"]:
        """The class whose mean has the largest cosine similarity to an image's features."""
        similarity = unit([features.detach()]) @ unit([self.get_buffer("means")]).T
        return similarity.where(self.get_buffer("known"), -torch.inf).argmax(1)

    def contrasts(
        self, features: Float[Tensor, "batch dim"], others: Float[Tensor, "batch dim"]
    ) -> Float[Tensor, " batch"]:
        """The contrastive loss of each image.

        Args:
            features: Of the images.
            others: Of their views.
        """
        means = self.get_buffer("means")[self.nearest(features)]
        projected = self.projector(torch.cat([means, features, others]))  # [3 batch, projection]
        return group_contrast(projected.chunk(3), temperature=self.temperature)


def _projector(dim: int, projection: int, seed: int) -> nn.Sequential:
    """Linear, ReLU, linear, with torch's usual initial weights, but of a seed of their own."""
    generator = torch.Generator().manual_seed(seed)
    layers = [
        nn.Linear(size, projection, dtype=torch.float32, device="cpu") for size in (dim, projection)
    ]
    with torch.no_grad():
        for layer in layers:
            bound = 1 / math.sqrt(layer.in_features)
            layer.weight.uniform_(-bound, bound, generator=generator)
            layer.bias.uniform_(-bound, bound, generator=generator)
    return nn.Sequential(layers[0], nn.ReLU(), layers[1])


@dataclass(frozen=True)
class ContrastedStudentOptions(ObjectiveOptions):
    """Options of `ContrastedStudent` at deployment."""

    contrast: float = 1.0
    """Weight of the contrastive loss."""
    temperature: float = 0.1
    """Temperature τ of the contrastive loss."""
    projection: int = 128
    """Outputs of the projector; 0 takes the features themselves."""
    seed: int = 0
    """Seed of the projector's weights."""
    kind: ClassVar[type[Objective]] = ContrastedStudent
    source_statistics: ClassVar[tuple[str, ...]] = ("prototypes",)

    def check(self) -> None:
        """Raise an InputError if a value is out of range."""
        if not (math.isfinite(self.contrast) and self.contrast >= 0):
            raise InputError(f"contrast must be a finite number, 0 or more, not {self.contrast}.")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise InputError(
                f"temperature must be a finite number above 0, not {self.temperature}."
            )
        if not 0 <= self.projection <= _MOST:
            raise InputError(f"projection must be 0 to {_MOST}, not {self.projection}.")
