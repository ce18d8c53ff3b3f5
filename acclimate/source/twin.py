"""The twin of a frozen classifier: trained, aligned, and given the classifier's scale."""

from typing import Any

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor, nn

from acclimate.backbones import Classifier
from acclimate.bundle import copied_twin
from acclimate.errors import InputError
from acclimate.preprocessing import Preprocessing
from acclimate.source.align import align, features, match_scale, recalibrate
from acclimate.source.align_trainable import align_trainable
from acclimate.source.contrastive import contrastive
from acclimate.source.loop import Run
from acclimate.source.presets import CTASettings


def make_twin(
    classifier: Classifier,
    images: UInt8[Tensor, "n 3 h w"],
    preprocessing: Preprocessing,
    settings: CTASettings,
    run: Run,
    *,
    start: nn.Module | None = None,
    labels: Int64[Tensor, "n"] | None = None,
    identity: object = None,
) -> Classifier:
    """Train and align the twin of a frozen classifier, without labels.

    Args:
        classifier: h∘f; unchanged unless ``settings.trainable_classifier``; on return on the run's
            device and in evaluation mode.
        images: Unlabelled source images.
        preprocessing: Of the classifier.
        settings: The stages; ``supervised`` is not used.
        run: Seed, checkpoints, device, progress.
        start: An encoder to begin the twin from, with the classifier's feature size; a
            copy of it is trained. None begins from a copy of f.
        labels: Classes of the images; only ``settings.trainable_classifier`` needs them.
        identity: What determines classifier and images, for the checkpoints.

    Returns:
        h'∘(π∘g), in evaluation mode: its encoder is g and then π, its head a copy of h with one
        factor folded into the weight, so that logits have the classifier's scale.

    Raises:
        InputError: fewer than two images; the twin's feature size is not the classifier's; labels
            are needed; and as `acclimate.source.loop.train`.
    """
    if min(len(images), settings.contrastive.batch, settings.align.batch) < 2:
        raise InputError("a twin needs at least two images, and two a batch; give more of them.")
    classifier.requires_grad_(False).eval()
    begin = classifier.encoder if start is None else start
    twin = copied_twin(begin, classifier.feature_dim, classifier.head)
    branch = twin.encoder.requires_grad_(True)  # π∘g
    copied = [parameter.detach().clone() for parameter in branch.parameters()]
    _check_dimension(branch, images, preprocessing, classifier.feature_dim)
    contrastive(
        branch,
        images,
        preprocessing,
        settings.contrastive,
        run,
        temperature=settings.contrastive_temperature,
        views=settings.views,
        identity=identity,
    )
    classifier.to(next(branch.parameters()).device)
    common: dict[str, Any] = {
        "temperature": settings.align_temperature,
        "views": settings.views,
        "identity": [identity, vars(settings.contrastive), settings.contrastive_temperature],
    }
    if not settings.trainable_classifier:
        align(branch, classifier, images, preprocessing, settings.align, run, **common)
    elif labels is None:
        raise InputError("trainable_classifier needs labels; leave it off without them.")
    else:
        align_trainable(
            branch, classifier, images, labels, preprocessing, settings.align, run, **common
        )
    if start is None and settings.interpolation < 1:
        _interpolate(branch, copied, settings.interpolation)
        recalibrate(branch, images, preprocessing, run.precision)
    sample = images[:: max(1, len(images) // 2048)]
    own = features(branch, sample, preprocessing, run)
    target = features(classifier.encoder, sample, preprocessing, run)
    with torch.no_grad():
        twin.head.weight.mul_(match_scale(twin.head, own, target))
    return twin.requires_grad_(False).eval()


@torch.no_grad()
def _interpolate(branch: nn.Module, copied: list[Tensor], share: float) -> None:
    for parameter, before in zip(branch.parameters(), copied, strict=True):
        parameter.lerp_(before.to(parameter.device), 1 - share)


@torch.no_grad()
def _check_dimension(
    branch: nn.Module, images: Tensor, preprocessing: Preprocessing, dim: int
) -> None:
    device = next(branch.parameters()).device
    try:
        found = branch.eval().get_submodule("encoder")(preprocessing(images[:1].to(device)))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise InputError(
            f"the model takes no images of {preprocessing.size} pixels a side ({error}); choose "
            f"another size or model."
        ) from error
    if found.ndim != 2 or found.shape[1] != dim:
        raise InputError(
            f"the twin's encoder gives features {list(found.shape[1:])}, the classifier's [{dim}]; "
            f"choose a twin of the same feature size."
        )
