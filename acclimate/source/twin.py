"""The twin of a frozen classifier: trained, aligned, and given the classifier's scale."""

import torch
from torch import Tensor, nn

from acclimate.backbones import Classifier
from acclimate.bundle import copied_twin
from acclimate.errors import InputError
from acclimate.source.align import align
from acclimate.source.align_trainable import align_trainable
from acclimate.source.calibration import features, match_scale, recalibrate
from acclimate.source.contrastive import contrastive
from acclimate.source.images import SourceImages
from acclimate.source.loop import Run
from acclimate.source.presets import CTASettings


def make_twin(
    classifier: Classifier,
    source: SourceImages,
    settings: CTASettings,
    run: Run,
    *,
    start: nn.Module | None = None,
) -> Classifier:
    """Train and align the twin of a frozen classifier, without labels.

    Args:
        classifier: h∘f; unchanged unless ``settings.trainable_classifier``; on return on the run's
            device and in evaluation mode.
        source: Images; only ``settings.trainable_classifier`` needs their labels.
        settings: The stages; ``supervised`` is not used.
        run: Seed, checkpoints, device, progress.
        start: An encoder to begin the twin from, with the classifier's feature size; a
            copy of it is trained. None begins from a copy of f.

    Returns:
        h'∘(π∘g), in evaluation mode: its encoder is g and then π, its head a copy of h with one
        factor folded into the weight, so that logits have the classifier's scale.

    Raises:
        InputError: fewer than two images; the twin's feature size is not the classifier's; labels
            are needed; and as `acclimate.source.loop.train`.
    """
    if min(len(source.images), settings.contrastive.batch, settings.align.batch) < 2:
        raise InputError("a twin needs at least two images, and two a batch; give more of them.")
    if settings.trainable_classifier:
        source.labels_for("trainable_classifier")
    classifier.requires_grad_(False).eval()
    begin = classifier.encoder if start is None else start
    twin = copied_twin(begin, classifier.feature_dim, classifier.head)
    branch = twin.encoder.requires_grad_(True)  # π∘g
    _check_dimension(branch, source, classifier.feature_dim)
    copied = [parameter.detach().clone() for parameter in branch.parameters()]
    _train(branch, classifier, source, settings, run)
    if start is None and settings.interpolation < 1 and not settings.trainable_classifier:
        _interpolate(branch, copied, settings.interpolation)
        recalibrate(branch, source, run.precision)
    sample = source.sample(2048)
    own = features(branch, sample, run.precision)
    target = features(classifier.encoder, sample, run.precision)
    with torch.no_grad():
        twin.head.weight.mul_(match_scale(twin.head, own, target))
    return twin.requires_grad_(False).eval()


def _train(
    branch: nn.Module, classifier: Classifier, source: SourceImages, settings: CTASettings, run: Run
) -> None:
    contrastive(
        branch,
        source,
        settings.contrastive,
        run,
        temperature=settings.contrastive_temperature,
        views=settings.views,
    )
    classifier.to(next(branch.parameters()).device)
    stage = align_trainable if settings.trainable_classifier else align
    stage(
        branch,
        classifier,
        source,
        settings.align,
        run,
        temperature=settings.align_temperature,
        views=settings.views,
    )


@torch.no_grad()
def _interpolate(branch: nn.Module, copied: list[Tensor], share: float) -> None:
    for parameter, before in zip(branch.parameters(), copied, strict=True):
        parameter.lerp_(before.to(parameter.device), 1 - share)


@torch.no_grad()
def _check_dimension(branch: nn.Module, source: SourceImages, dim: int) -> None:
    device = next(branch.parameters()).device
    image = source.preprocessing(source.images[:1].to(device))
    try:
        found = branch.eval().get_submodule("encoder")(image)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise InputError(
            f"the model takes no images of {source.preprocessing.size} pixels a side ({error}); "
            f"choose another size or model."
        ) from error
    if found.ndim != 2 or found.shape[1] != dim:
        raise InputError(
            f"the twin's encoder gives features {list(found.shape[1:])}, the classifier's [{dim}]; "
            f"choose a twin of the same feature size."
        )
