"""A trained encoder's statistics and scale, measured on source images without labels."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from acclimate.backbones.batch_norm import batch_norms
from acclimate.parts.normalisation import cumulative_statistics
from acclimate.runtime.precision import Precision, autocast
from acclimate.source.images import SourceImages


@torch.no_grad()
def features(
    encoder: nn.Module, source: SourceImages, precision: Precision, *, batch: int = 256
) -> Float[Tensor, "n dim"]:
    """A frozen encoder's features of the images themselves, in evaluation mode, on the CPU."""
    encoder.eval()
    device = next(encoder.parameters()).device
    found = []
    for part in source.images.split(batch):
        with autocast(device, precision):
            found.append(encoder(source.preprocessing(part.to(device))).float().cpu())
    return torch.cat(found)


@torch.no_grad()
def recalibrate(
    module: nn.Module,
    source: SourceImages,
    precision: Precision = "auto",
    *,
    batch: int = 256,
    limit: int = 10_000,
) -> None:
    """Re-estimate batch norm's running statistics on the images themselves.

    Training saw augmented views, whose statistics differ from those of the images that the module
    will meet. No label and no gradient is involved. Leaves the module in evaluation mode.

    Args:
        module: Changed in place.
        source: Images; no labels.
        precision: Of the forward passes.
        batch: Images a pass.
        limit: Images that are looked at, evenly spaced.
    """
    module.eval()
    norms = batch_norms(module)
    for norm in norms:
        norm.reset_running_stats()
    device = next(module.parameters()).device
    images = source.sample(limit).images
    with cumulative_statistics(module):
        # Batches of one size, to one image: each counts the same in the average.
        for part in images.tensor_split(math.ceil(len(images) / batch)) if norms else ():
            with autocast(device, precision):
                module(source.preprocessing(part.to(device)))


@torch.no_grad()
def match_scale(
    head: nn.Linear, own: Float[Tensor, "n dim"], target: Float[Tensor, "n dim"]
) -> float:
    """The factor by which h's weight must grow so that logits of π∘g spread as those of f.

    Cosine similarity leaves the length of π(g(x)) free, but h has a bias and its softmax a scale.

    Args:
        head: h.
        own: π(g(x)) of source images.
        target: f(x) of the same images.
    """

    def spread(found: Tensor) -> float:
        logits = found.to(head.weight.device) @ head.weight.T  # [n, classes]
        return (logits - logits.mean(1, keepdim=True)).square().mean().sqrt().item()

    return spread(target) / max(spread(own), 1e-12)
