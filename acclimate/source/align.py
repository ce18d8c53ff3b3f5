"""Alignment: the twin's space becomes the frozen classifier's, CTA's Eq. 4."""

import math

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from acclimate.backbones import Classifier
from acclimate.objectives import alignment_loss
from acclimate.precision import Precision, autocast
from acclimate.preprocessing import Preprocessing, evenly_spaced
from acclimate.source.loop import Run, Training, gather, train
from acclimate.source.two_views import draw_two_views
from acclimate.views import SimCLRViews


def align(
    twin: nn.Module,
    classifier: Classifier,
    images: UInt8[Tensor, "n 3 h w"],
    preprocessing: Preprocessing,
    settings: Training,
    run: Run,
    *,
    temperature: float,
    views: SimCLRViews,
    identity: object = None,
) -> None:
    """Train π∘g in place so that its views of an image meet f's features of it (CTA, Eq. 4).

    f is frozen and sees the image itself, so its features are computed once.

    Args:
        twin: Images to features; trained in place; on return in evaluation mode.
        classifier: h∘f; unchanged.
        images: Source images; no labels.
        preprocessing: Normalisation.
        settings: Length and optimiser.
        run: Seed, checkpoints, device, progress.
        temperature: τ.
        views: How views are drawn.
        identity: What determines images, twin and classifier, for the checkpoint.

    Raises:
        InputError: as `acclimate.source.loop.train`.
    """
    targets = features(classifier.encoder, images, preprocessing, run)

    def loss(module, numbers: Tensor, epoch_key: int) -> Tensor:
        drawn = draw_two_views(module, images, numbers, preprocessing, views, epoch_key)
        first, second = module(drawn).chunk(2)
        target = targets[numbers].to(first.device)
        return alignment_loss(
            gather(first), gather(second), gather(target), temperature=temperature
        )

    train(
        "align",
        twin,
        loss,
        settings,
        run,
        count=len(images),
        identity=[identity, temperature, vars(views)],
    )
    recalibrate(twin, images, preprocessing, run.precision)


@torch.no_grad()
def features(
    encoder: nn.Module,
    images: UInt8[Tensor, "n 3 h w"],
    preprocessing: Preprocessing,
    run: Run,
    *,
    batch: int = 256,
) -> Float[Tensor, "n dim"]:
    """A frozen encoder's features of the images themselves, in evaluation mode, on the CPU."""
    encoder.eval()
    device = next(encoder.parameters()).device
    found = []
    for part in images.split(batch):
        with autocast(device, run.precision):
            found.append(encoder(preprocessing(part.to(device))).float().cpu())
    return torch.cat(found)


@torch.no_grad()
def recalibrate(
    module: nn.Module,
    images: UInt8[Tensor, "n 3 h w"],
    preprocessing: Preprocessing,
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
        images: Source images.
        preprocessing: Normalisation.
        precision: Of the forward passes.
        batch: Images a pass.
        limit: Images that are looked at, evenly spaced.
    """
    module.eval()
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative average
        norm.train()
    device = next(module.parameters()).device
    sample = evenly_spaced(images, limit)
    # Batches of one size, to one image: each counts the same in the average.
    for part in sample.tensor_split(math.ceil(len(sample) / batch)) if norms else ():
        with autocast(device, precision):
            module(preprocessing(part.to(device)))
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
        norm.eval()


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
