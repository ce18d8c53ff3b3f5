"""Contrastive loss between two views of each image: SimCLR's NT-Xent, CTA's Eq. 1."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from acclimate.backbones import Classifier
from acclimate.objectives.objective import Objective, TemperatureOptions
from acclimate.preprocessing import Preprocessing
from acclimate.randomness import Key
from acclimate.runtime.constants import kept
from acclimate.runtime.precision import at_least_float32
from acclimate.runtime.ranks import gather
from acclimate.views import SimCLRViews, simclr_views

Reduction = Literal["mean", "sum"]


def contrastive_loss(
    first: Float[Tensor, "batch dim"],
    second: Float[Tensor, "batch dim"],
    *,
    temperature: float,
    both_directions: bool = True,
    reduction: Reduction = "mean",
) -> Float[Tensor, ""]:
    """NT-Xent between two views of each image.

    The two views of an image are a positive pair; all other views in the batch are negatives. With
    ``both_directions=False, reduction="sum"`` this is exactly CTA's Eq. 1:
    −Σ_i log [ e^{sim(ĥ_i,h̃_i)/τ} / Σ_{h ∈ Ĥ∪H̃, h≠ĥ_i} e^{sim(ĥ_i,h)/τ} ], sim the cosine.

    ```python
    first, second = encoder(views).chunk(2)
    loss = contrastive_loss(first, second, temperature=0.5)
    ```

    Args:
        first: Features ĥ of one view of each image.
        second: Features h̃ of another view of the same images, in the same order.
        temperature: Temperature τ, above 0. Similarities are computed in at least float32, also
            under autocast, so that τ = 0.01 is safe.
        both_directions: Whether the second views are anchors too, as in SimCLR.
        reduction: ``"mean"`` or ``"sum"`` over the anchors.

    Raises:
        ValueError: fewer than two images, shapes that differ, or τ not above 0.
    """
    check_features(first, second, temperature=temperature)
    views = unit([first, second])  # [2 batch, dim]
    anchors = views if both_directions else views[: len(first)]
    similarity = cosines(anchors, views, temperature)  # [anchors, 2 batch]
    partner = shifted_places(len(views), len(first), views.device)[: len(anchors)]
    return cross_entropy(similarity, partner, reduction=reduction)


class Contrastive(Objective):
    """Contrastive loss on the encoder's features, or on a projector's outputs.

    ```python
    objective = Contrastive(model, preprocessing, projection=128)
    (views,) = objective.draw(images, key(0), torch.arange(len(images)))
    loss = objective(model, preprocessing.normalize(views))
    ```

    Args:
        model: The classifier; its feature dimension is the input of the projector.
        preprocessing: Not used.
        temperature: Temperature τ of the loss.
        views: Augmentation of the two views; the fields of `SimCLRViews`.
        projection: Output dimension of the projector, an MLP of two layers (SimCLR § 2.1; 128 in
            TTT++). 0 means no projector, as in CTA, whose projector π is part of the encoder.
    """

    min_images = 2
    replayable = True

    def __init__(
        self,
        model: Classifier,
        preprocessing: Preprocessing,
        *,
        temperature: float = 0.5,
        views: Mapping[str, float] | None = None,
        projection: int = 0,
    ):
        super().__init__()
        self.temperature = temperature
        self.views: SimCLRViews = SimCLRViews(**views or {})
        dim = model.feature_dim  # refuses maps, which have no cosine
        self.projector: nn.Module = _projector(dim, projection) if projection else nn.Identity()

    def draw(
        self, images: Float[Tensor, "batch 3 h w"], key: Key, index: Int64[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "2*batch 3 h w"]]:
        """Draw two views of each image, in 0..1: all first views, then all second views."""
        return (simclr_views(images, self.views, key=key, index=index, count=2),)

    def forward(
        self, model: Classifier, views: Float[Tensor, "2*batch 3 h w"]
    ) -> Float[Tensor, ""]:
        """The loss of the classifier's encoder on normalised views from `draw`."""
        first, second = self.projector(model.encoder(views)).chunk(2)
        return contrastive_loss(gather(first), gather(second), temperature=self.temperature)


def _projector(features: int, outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(features, features), nn.ReLU(inplace=True), nn.Linear(features, outputs)
    )


def unit(features: list[Tensor]) -> Float[Tensor, "total dim"]:
    """Concatenate features and normalise each to length 1, in at least float32."""
    return normalize(at_least_float32(torch.cat(features)), dim=1)


def cosines(
    anchors: Float[Tensor, "a dim"], others: Float[Tensor, "b dim"], temperature: float
) -> Float[Tensor, "a b"]:
    """Cosine similarities divided by τ, and −∞ on the diagonal, of each anchor with itself.

    They are never in bf16: at τ = 0.01 rounding is a factor e^0.4.
    """
    with torch.autocast(anchors.device.type, enabled=False):
        if anchors.device.type == "cpu":
            return (anchors @ others.T / temperature).fill_diagonal_(-torch.inf)
        # One kernel; the way back through a diagonal that was filled takes five.
        alone = _without_itself(len(anchors), len(others), anchors.dtype, anchors.device)
        return torch.addmm(alone, anchors, others.T, alpha=1 / temperature)


@kept(20)
def _without_itself(
    anchors: int, others: int, dtype: torch.dtype, device: torch.device
) -> Float[Tensor, "anchors others"]:
    """−∞ on the diagonal, else 0; made on the CPU, so that it cannot be part of a graph."""
    with torch.inference_mode(False):
        zeros = torch.zeros(anchors, others, dtype=dtype, device="cpu")
        return zeros.fill_diagonal_(-torch.inf).to(device)


@kept(100)
def shifted_places(count: int, shift: int, device: torch.device) -> Int64[Tensor, " count"]:
    """(i + shift) mod count for i from 0; made on the CPU, so that it cannot be part of a graph.

    ```python
    partner = shifted_places(8, 4, device)  # 4, 5, 6, 7, 0, 1, 2, 3
    ```
    """
    with torch.inference_mode(False):
        return torch.arange(count, device="cpu").add_(shift).remainder_(count).to(device)


def check_features(*features: Tensor, temperature: float) -> None:
    """Check the inputs of the contrastive losses.

    Raises:
        ValueError: fewer than two images, shapes that differ, or τ not above 0.
    """
    shapes = [tuple(f.shape) for f in features]
    if any(shape != shapes[0] or len(shape) != 2 for shape in shapes):
        raise ValueError(f"features must all have the same shape [batch, dim], not {shapes}.")
    if shapes[0][0] < 2:
        raise ValueError("a contrastive loss needs at least two images, for it needs negatives.")
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, not {temperature}.")


@dataclass(frozen=True)
class ContrastiveOptions(TemperatureOptions):
    """Options of `Contrastive` at deployment.

    ```python
    AdapterSettings(steps=1, objective=ContrastiveOptions(temperature=0.5), update=Adam(1e-4))
    ```
    """

    kind: ClassVar[type[Objective]] = Contrastive
