"""Class means and variances of source features: measured without labels."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import one_hot

from acclimate.backbones import Classifier
from acclimate.runtime.precision import autocast
from acclimate.source.images import SourceImages
from acclimate.source.loop import Run

PROTOTYPE_IMAGES = 10_000
"""As many as the test splits of CIFAR, of which PeTTA's release takes them."""


@torch.no_grad()
def prototypes(model: Classifier, source: SourceImages, run: Run) -> dict[str, Tensor]:
    """Mean and variance of the features of each class, by the classifier's own answers.

    PeTTA's release takes them from the source's test images, and RMT's from the labels of training
    images; here images are training images, at most 10,000, and classes are answers. Batch norm
    uses the source's statistics.

    Args:
        model: h∘f, on its device; left as it is.
        source: Source images; labels are not used.
        run: Precision, memory and progress.

    Returns:
        ``mean`` and ``variance`` (unbiased), ``[classes, dim]``, and ``images``, the number of
        images of each class. A class of no image has the mean 0, and one of fewer than two the
        variance 0. Nothing for a model whose head takes maps, or whose features are not finite.
    """
    if not isinstance(getattr(model.head, "in_features", None), int):
        return {}
    device = next(model.parameters()).device
    parts = source.sample(PROTOTYPE_IMAGES).images.split(source.at_once)
    shape = (model.num_classes, model.feature_dim)
    count = torch.zeros(model.num_classes, 1, dtype=torch.float64, device=device)
    total, squares = (torch.zeros(shape, dtype=torch.float64, device=device) for _ in range(2))
    for done, part in enumerate(parts, 1):
        with autocast(device, run.precision):
            features = model.encoder(source.preprocessing(part.to(device)))
            labels: Int64[Tensor, " n"] = model.head(features).argmax(1)
        own: Float[Tensor, "classes n"] = one_hot(labels, model.num_classes).double().T
        features = features.double()
        count += own.sum(1, keepdim=True)
        total += own @ features
        squares += own @ features**2
        run.progress("class means of source features", done, len(parts), "")
    mean = total / count.clamp_min(1)
    variance = ((squares - count * mean**2) / (count - 1).clamp_min(1)).clamp_min(0)
    if not (mean.isfinite().all() and variance.isfinite().all()):
        return {}
    found = {"mean": mean, "variance": variance, "images": count.squeeze(1)}
    return {name: value.float() for name, value in found.items()}
