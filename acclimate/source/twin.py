"""The twin of a frozen classifier: aligned, and given the classifier's scale."""

import torch
from torch import nn

from acclimate.backbones import Classifier, projected
from acclimate.errors import InputError
from acclimate.source.alignment import train_alignment
from acclimate.source.calibration import features, match_scale, recalibrate
from acclimate.source.images import SourceImages
from acclimate.source.joint_alignment import train_joint_alignment
from acclimate.source.loop import Run
from acclimate.source.presets import SourceSettings


def align_twin(
    twin: Classifier,
    classifier: Classifier,
    source: SourceImages,
    settings: SourceSettings,
    run: Run,
    *,
    copied: bool,
) -> None:
    """Align a twin to a classifier, and give its head the classifier's scale.

    Args:
        twin: h'∘(π∘g), aligned in place: one factor is folded into the weight of h', so that logits
            have the classifier's scale; on return in evaluation mode.
        classifier: h∘f; unchanged unless ``settings.trainable_classifier``; on return on the run's
            device and in evaluation mode.
        source: Images; only ``settings.trainable_classifier`` needs their labels.
        settings: Of the alignment.
        run: Seed, checkpoints, device, progress.
        copied: Whether the twin began as a copy of f, to interpolate with.

    Raises:
        InputError: as `acclimate.source.loop.train`.
    """
    classifier.requires_grad_(False).eval()
    branch = twin.encoder.requires_grad_(True)  # π∘g
    begin = None
    if copied and settings.interpolation < 1 and not settings.trainable_classifier:
        begin = projected(classifier).encoder
    stage = train_joint_alignment if settings.trainable_classifier else train_alignment
    classifier.to(next(branch.parameters()).device)
    stage(
        branch,
        classifier,
        source,
        settings.align,
        run,
        temperature=settings.align_temperature,
        views=settings.views,
    )
    if begin is not None:
        _interpolate(branch, begin, settings.interpolation)
        recalibrate(branch, source, run.precision)
    sample = source.sample(2048)
    own = features(branch, sample, run.precision)
    target = features(classifier.encoder, sample, run.precision)
    with torch.no_grad():
        twin.head.weight.mul_(match_scale(twin.head, own, target))
    twin.requires_grad_(False).eval()


def check_twin(
    twin: Classifier, classifier: Classifier, source: SourceImages, settings: SourceSettings
) -> None:
    """Refuse, before the first epoch, a twin that could not be aligned.

    Raises:
        InputError: fewer than two images; the twin's feature size is not the classifier's; labels
            are needed and missing.
    """
    if min(len(source.images), settings.contrastive.batch, settings.align.batch) < 2:
        raise InputError("a twin needs at least two images, and two a batch; give more of them.")
    if settings.trainable_classifier:
        source.labels_for("trainable_classifier")
    _check_dimension(twin.encoder, source, classifier.feature_dim)


@torch.no_grad()
def _interpolate(branch: nn.Module, begin: nn.Module, share: float) -> None:
    for parameter, before in zip(branch.parameters(), begin.parameters(), strict=True):
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
