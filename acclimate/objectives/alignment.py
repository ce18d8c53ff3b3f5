"""Alignment of two views of an image with the frozen encoder's features of it: CTA's Eq. 4."""

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy

from acclimate.objectives.contrastive import (
    Reduction,
    check_features,
    cosines,
    shifted_places,
    unit,
)


def alignment_loss(
    first: Float[Tensor, "batch dim"],
    second: Float[Tensor, "batch dim"],
    target: Float[Tensor, "batch dim"],
    *,
    temperature: float,
    reduction: Reduction = "mean",
) -> Float[Tensor, ""]:
    """Align a twin's features of two views with a frozen encoder's features of the image.

    With ``reduction="sum"`` this is exactly CTA's Eq. 4: for each anchor a ∈ {ĥ_i, h̃_i},
    −log [ e^{sim(a,w_i)/τ} / Σ_{s ∈ Ĥ∪H̃∪W, s≠a} e^{sim(a,s)/τ} ]. The image's other view stays
    in the denominator.

    ```python
    first, second = twin.encoder(views).chunk(2)
    loss = alignment_loss(first, second, frozen_encoder(images), temperature=0.5)
    ```

    Args:
        first: The twin's features ĥ of one view of each image.
        second: The twin's features h̃ of another view of each image.
        target: The frozen encoder's features w of the images.
        temperature: Temperature τ, above 0. Similarities are computed in at least float32.
        reduction: ``"mean"`` or ``"sum"`` over the 2 · batch anchors.

    Raises:
        ValueError: fewer than two images, shapes that differ, or τ not above 0.
    """
    check_features(first, second, target, temperature=temperature)
    features = unit([first, second, target])  # [3 batch, dim]
    batch = len(first)
    similarity = cosines(features[: 2 * batch], features, temperature)  # [2 batch, 3 batch]
    positive = shifted_places(batch, 0, features.device).repeat(2) + 2 * batch
    return cross_entropy(similarity, positive, reduction=reduction)
