"""Alignment of a twin with a classifier, including the scale of its logits."""

import torch
from torch import nn

from acclimate.backbones import Classifier, projected
from acclimate.errors import InputError
from acclimate.resizing import words
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
    """Align a twin with a classifier, and match the scale of its logits to the classifier's.

    Args:
        twin: h'∘(π∘g), trained in place, and scaled so that its logits have the classifier's scale
            (see `match_scale`). In evaluation mode on return.
        classifier: h∘f; trained only if ``settings.trainable_classifier``. On the run's device and
            in evaluation mode on return.
        source: Source images; only ``settings.trainable_classifier`` needs their labels.
        settings: Settings of the alignment.
        run: Seed, checkpoints, device, progress.
        copied: Whether the twin was initialised as a copy of f, so that the two can be
            interpolated.

    Raises:
        InputError: as `acclimate.source.loop.train`.
    """
    classifier.requires_grad_(False).eval()
    branch = twin.encoder.requires_grad_(True)  # π∘g
    initial = None
    if copied and settings.interpolation < 1 and not settings.trainable_classifier:
        initial = projected(classifier).encoder
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
    if initial is not None:
        _interpolate(branch, initial, settings.interpolation)
        recalibrate(branch, source, run.precision)
    sample = source.sample(2048)
    own = features(branch, sample, run.precision)
    target = features(classifier.encoder, sample, run.precision)
    match_scale(twin, own, target)
    twin.requires_grad_(False).eval()


def check_twin(
    twin: Classifier, classifier: Classifier, source: SourceImages, settings: SourceSettings
) -> None:
    """Check before training that a twin can be aligned with a classifier.

    Raises:
        InputError: there are fewer than two images in all or per batch, the twin's feature size is
            not the classifier's, or labels are needed and missing.
    """
    if min(len(source.images), settings.contrastive.batch, settings.align.batch) < 2:
        raise InputError("a twin needs at least two images, and two per batch; give more of them.")
    if settings.trainable_classifier:
        source.labels_for("trainable_classifier")
    _check_dimension(twin.encoder, source, classifier.feature_dim)


@torch.no_grad()
def _interpolate(branch: nn.Module, initial: nn.Module, share: float) -> None:
    """Replace each parameter by ``share`` of it plus 1 - ``share`` of the initial one."""
    for parameter, before in zip(branch.parameters(), initial.parameters(), strict=True):
        parameter.lerp_(before.to(parameter.device), 1 - share)


@torch.no_grad()
def _check_dimension(branch: nn.Module, source: SourceImages, dim: int) -> None:
    device = next(branch.parameters()).device
    image = source.preprocessing(source.images[:1].to(device))
    try:
        features = branch.eval().get_submodule("encoder")(image)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise InputError(
            f"the model does not accept images of {words(source.preprocessing.size)} pixels "
            f"({error}); choose another size or model."
        ) from error
    if features.ndim != 2 or features.shape[1] != dim:
        raise InputError(
            f"the twin's encoder returns features {list(features.shape[1:])}, the classifier's "
            f"[{dim}]; choose a twin with the same feature size."
        )
