"""Batch-norm statistics and scale of a trained encoder, from unlabelled source images."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from acclimate.backbones import Classifier, duplicate, is_plain
from acclimate.backbones.batch_norm import batch_norms
from acclimate.parts.normalisation import cumulative_statistics
from acclimate.runtime.precision import Precision, autocast
from acclimate.source.images import SourceImages

_ENOUGH = 1_000
"""Images for a difference between the statistics of two networks, which varies little."""
_SMALLEST = 1e-12


@torch.no_grad()
def features(
    encoder: nn.Module, source: SourceImages, precision: Precision
) -> Float[Tensor, "n dim"]:
    """A frozen encoder's features of the unaugmented images, in evaluation mode, on the CPU."""
    encoder.eval()
    device = next(encoder.parameters()).device
    batches = []
    for part in source.images.split(source.at_once):
        with autocast(device, precision):
            batches.append(encoder(source.preprocessing(part.to(device))).float().cpu())
    return torch.cat(batches)


@torch.no_grad()
def recalibrate(
    module: nn.Module,
    source: SourceImages,
    precision: Precision = "auto",
    *,
    batch: int | None = None,
    limit: int = 10_000,
) -> None:
    """Re-estimate batch norm's running statistics on unaugmented images.

    Training used augmented views, whose statistics differ from those of the images at deployment.
    No labels or gradients are used. The module is in evaluation mode on return.

    Args:
        module: Changed in place.
        source: Source images; labels are not used.
        precision: Precision of the forward passes.
        batch: Number of images per forward pass; None takes as many as `SourceImages.at_once`.
        limit: Maximal number of images used, evenly spaced.
    """
    module.eval()
    norms = batch_norms(module)
    for norm in norms:
        norm.reset_running_stats()
    device = next(module.parameters()).device
    images = source.sample(limit).images
    parts = math.ceil(len(images) / (batch or source.at_once))
    with cumulative_statistics(module):
        # Batches that differ in size by at most one image: the average weighs them equally.
        for part in images.tensor_split(parts) if norms else ():
            with autocast(device, precision):
                module(source.preprocessing(part.to(device)))


@torch.no_grad()
def carry_statistics(
    copy: nn.Module, original: nn.Module, source: SourceImages, precision: Precision = "auto"
) -> None:
    """Give a trained copy the original's batch-norm statistics, changed as training changed them.

    Statistics of the images at hand do not replace those of the original's training, with other
    images and augmentation, without loss. So only the difference is taken from these images: each
    mean moves by the difference, and each variance changes by the ratio, between copy and original
    on the same images.

    Args:
        copy: Changed in place; in evaluation mode on return.
        original: A network with the same layers, not changed.
        source: Source images; labels are not used.
        precision: Precision of the forward passes.
    """
    before = duplicate(original).to(next(copy.parameters()).device)
    for module in (before, copy):
        recalibrate(module, source, precision, limit=_ENOUGH)
    norms = (batch_norms(module) for module in (copy, before, original))
    for own, old, kept in zip(*norms, strict=True):
        mean, variance = own.get_buffer("running_mean"), own.get_buffer("running_var")
        # In this order, what did not change is exactly 0 and 1. With eps, channels that are dead on
        # these images keep the original's variance.
        change = mean - old.get_buffer("running_mean")
        mean.copy_(kept.get_buffer("running_mean").to(mean) + change)
        eps = max(own.eps, _SMALLEST)
        ratio = (variance + eps) / (old.get_buffer("running_var") + eps)
        variance.copy_(kept.get_buffer("running_var").to(ratio) * ratio)
        own.get_buffer("num_batches_tracked").copy_(kept.get_buffer("num_batches_tracked"))


@torch.no_grad()
def match_scale(
    twin: Classifier, own: Float[Tensor, "n dim"], target: Float[Tensor, "n dim"]
) -> None:
    """Give the twin's logits the scale of the classifier's, in place.

    The alignment loss uses the cosine similarity, which does not determine the length of π(g(x)),
    while the logits depend on it. The weight of a linear h' is multiplied by the factor that gives
    both logits the same spread. A head of another kind stays as it is, because its weights may be
    computed from others: π is multiplied by the factor that gives both features the same length.

    Args:
        twin: h'∘(π∘g).
        own: π(g(x)) for source images.
        target: f(x) for the same images.
    """
    head = twin.head
    if not is_plain(head):
        for tensor in twin.encoder.get_submodule("projector").parameters():
            tensor.mul_(_length(target) / max(_length(own), 1e-12))
        return
    assert isinstance(head, nn.Linear)
    weight = head.weight

    def spread(features: Tensor) -> float:
        logits = features.to(weight) @ weight.T  # [n, classes]
        return (logits - logits.mean(1, keepdim=True)).square().mean().sqrt().item()

    weight.mul_(spread(target) / max(spread(own), 1e-12))


def _length(features: Float[Tensor, "n dim"]) -> float:
    """The features' length: the root of the mean of its square."""
    return features.square().sum(1).mean().sqrt().item()
