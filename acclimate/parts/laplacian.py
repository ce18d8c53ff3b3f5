"""Correction: LAME, which lets similar images of a batch agree."""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import log_softmax, normalize, softmax

from acclimate.backbones import Classifier
from acclimate.errors import InputError, unknown_name
from acclimate.parts.answer import Prediction
from acclimate.runtime.precision import at_least_float32

Affinity = Literal["rbf", "knn", "linear"]
_MOST = 1000
"""Iterations and neighbours that may be asked for."""


@dataclass(frozen=True)
class Laplacian:
    """Laplacian adjusted maximum-likelihood estimation (Boudiaf et al. 2022, LAME).

    The assignments Y of a batch minimise −Σ Y log p − Σ Y K Y + Σ Y log Y, K the affinity of the
    images' normalised features: Y ← softmax(log p + K Y), a fixed number of times. No parameter
    moves. A single image keeps its prediction.
    """

    affinity: Affinity = "rbf"
    """Affinity K: ``rbf``, exp(−d²/2σ²), σ the mean distance to one of the nearest neighbours;
    ``knn``, 1 for the nearest neighbours; ``linear``, the cosine. Only ``knn`` leaves each image's
    affinity to itself out."""
    neighbours: int = 5
    """Number of nearest neighbours; ``rbf`` counts the image itself among them, as released."""
    symmetric: bool = False
    """Whether ``knn`` is made symmetric, (K + Kᵀ)/2, as the derivation of the iteration assumes."""
    iterations: int = 100
    """Number of iterations."""
    uses_batch: ClassVar[bool] = True
    needs_features: ClassVar[bool] = True

    def check(self) -> None:
        """Refuse settings that cannot be meant."""
        if self.affinity not in get_args(Affinity):
            raise unknown_name("affinity", self.affinity, get_args(Affinity))
        for name in ("neighbours", "iterations"):
            if not 1 <= getattr(self, name) <= _MOST:
                raise InputError(f"{name} must be 1 to {_MOST}, not {getattr(self, name)}.")

    def build(self, model: Classifier, device: torch.device) -> "Laplacian":
        """Nothing is kept."""
        return self

    def __call__(self, prediction: Prediction) -> Float[Tensor, "batch classes"]:
        """Logits whose softmax is Y."""
        assert prediction.features is not None
        logits = prediction.logits
        if len(logits) == 1:
            return logits
        features = prediction.features.flatten(1).to(logits.dtype)
        return assigned(logits, affinities(features, self), iterations=self.iterations)

    def state(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}


def assigned(
    logits: Float[Tensor, "batch classes"],
    affinity: Float[Tensor, "batch batch"],
    *,
    iterations: int,
) -> Float[Tensor, "batch classes"]:
    """Logits of the assignments after some iterations of Y ← softmax(log p + K Y) (LAME, Eq. 6).

    ```python
    logits = assigned(logits, affinities(features, Laplacian()), iterations=100)
    ```

    Args:
        logits: Of p, at least float32.
        affinity: K.
        iterations: How many; Y starts as p.
    """
    unary = found = log_softmax(logits, dim=1)
    for _ in range(iterations):
        found = torch.addmm(unary, affinity, softmax(found, dim=1))
    return found


def affinities(
    features: Float[Tensor, "batch dim"], settings: Laplacian
) -> Float[Tensor, "batch batch"]:
    """The affinity K between images, of features that are normalised to length 1.

    Where all distances are 0, ``rbf`` is 1.

    ```python
    kernel = affinities(features, Laplacian(affinity="knn", neighbours=5))
    ```

    Args:
        features: At least two images, any float type.
        settings: The kind of affinity.
    """
    unit = normalize(at_least_float32(features), dim=1)
    cosines = unit @ unit.T  # [batch, batch]
    if settings.affinity == "linear":
        return cosines
    squares = (2 - 2 * cosines).clamp_min(0)
    if settings.affinity == "knn":
        count = min(settings.neighbours, len(unit) - 1)
        nearest = squares.fill_diagonal_(torch.inf).topk(count, largest=False).indices
        kernel = torch.zeros_like(squares).scatter_(1, nearest, 1)
        return (kernel + kernel.T) / 2 if settings.symmetric else kernel
    squares = squares.fill_diagonal_(0)
    count = min(settings.neighbours, len(unit))
    width = squares.topk(count, largest=False).values[:, -1].sqrt().mean()
    least = torch.finfo(squares.dtype).tiny
    return (-squares / (2 * width.square()).clamp_min(least)).exp()
