"""Alignment of a twin with a classifier, including the scale of its logits."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from acclimate.backbones import Classifier, projected
from acclimate.backbones.batch_norm import Trust
from acclimate.errors import InputError
from acclimate.preprocessing import Preprocessing
from acclimate.resizing import words
from acclimate.source.alignment import train_alignment
from acclimate.source.calibration import carry_statistics, features, match_scale, recalibrate
from acclimate.source.held_out import Agreement, HeldOut, agreement
from acclimate.source.images import SourceImages
from acclimate.source.joint_alignment import train_joint_alignment
from acclimate.source.loop import Run
from acclimate.source.presets import SourceSettings
from acclimate.source.trust import useful

SHARES = (1.0, 0.7, 0.5, 0.3, 0.15)
"""Shares of the alignment that are tried."""


def align_twin(
    twin: Classifier,
    classifier: Classifier,
    source: SourceImages,
    settings: SourceSettings,
    run: Run,
    *,
    copied: bool,
    held: HeldOut | None = None,
    trust: Trust | None = None,
) -> float:
    """Align a twin with a classifier, and match the scale of its logits to the classifier's.

    The twin of a frozen f that began as a copy of it is interpolated with that copy, if
    ``settings.interpolation`` says so; None takes the share with which the twin answers best for
    held-out images. Its batch-norm statistics are f's, changed as the alignment changed them; those
    of a twin that began otherwise are those of the source images.

    Args:
        twin: h'∘(π∘g), trained in place, and scaled so that its logits have the classifier's scale
            (see `match_scale`). In evaluation mode on return.
        classifier: h∘f; trained only if ``settings.trainable_classifier``. On the run's device and
            in evaluation mode on return.
        source: Source images; only ``settings.trainable_classifier`` needs their labels.
        settings: Settings of the alignment.
        run: Seed, checkpoints, device, progress.
        copied: Whether the twin was initialised as a copy of f.
        held: Images that the twin is not trained on; None leaves the alignment whole where no share
            is given.
        trust: How far the classifier's batch statistics are trusted.

    Returns:
        The share of the alignment that is left in the twin.

    Raises:
        InputError: as `acclimate.source.loop.train`.
    """
    initial = projected(classifier.requires_grad_(False).eval()).encoder
    _train(twin.encoder, classifier, source, settings, run)
    twin.requires_grad_(False).eval()
    initial.requires_grad_(False).eval().to(next(twin.parameters()).device)
    if not copied or settings.trainable_classifier:
        recalibrate(twin.encoder, source, run.precision)
        _match(twin, classifier, source, run)
        return 1.0
    between = _Between(twin, initial, classifier, source, run)
    share = settings.interpolation
    if share is None:
        share = 1.0 if held is None else between.best(held, trust)
    between.move(share)
    return share


def _train(
    branch: nn.Module,
    classifier: Classifier,
    source: SourceImages,
    settings: SourceSettings,
    run: Run,
) -> None:
    """Train π∘g, and f too if the settings say so."""
    branch.requires_grad_(True)
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
    classifier.requires_grad_(False).eval()
    if settings.trainable_classifier:  # it was trained on these images
        recalibrate(classifier.encoder, source, run.precision)


class _Between:
    """A twin at any point between its beginning, a copy of f, and its end.

    Args:
        twin: As trained; moved in place.
        initial: The copy of f, with π = 1.
        classifier: h∘f.
        source: Source images for statistics and scale.
        run: Precision and progress.
    """

    def __init__(
        self,
        twin: Classifier,
        initial: nn.Module,
        classifier: Classifier,
        source: SourceImages,
        run: Run,
    ):
        self.twin, self.initial, self.classifier = twin, initial, classifier
        self.source, self.run = source, run
        self.trained = [parameter.detach().clone() for parameter in twin.encoder.parameters()]
        self.head = {name: value.clone() for name, value in twin.head.state_dict().items()}

    @torch.no_grad()
    def move(self, share: float) -> None:
        """Take each parameter to ``share`` of the trained one plus 1 - ``share`` of the initial."""
        branch = self.twin.encoder
        begin, own = self.initial.parameters(), branch.parameters()
        for parameter, before, after in zip(own, begin, self.trained, strict=True):
            parameter.copy_(after if share == 1 else before.lerp(after, share))
        self.twin.head.load_state_dict(self.head)
        carry_statistics(branch, self.initial, self.source, self.run.precision)
        if share:
            _match(self.twin, self.classifier, self.source, self.run)

    def best(self, held: HeldOut, trust: Trust | None) -> float:
        """The share that agrees best on corrupted images, and loses at most 0.02 on clean ones.

        The frozen classifier judges alone. The loss is against it with batch statistics.
        """
        good = useful(self._tried(held, trust), agreement(self.classifier, held, trust))
        return max(good, key=lambda each: each[1], default=(0.0, 0.0))[0]

    def _tried(self, held: HeldOut, trust: Trust | None) -> Iterator[tuple[float, list[Agreement]]]:
        for number, share in enumerate(SHARES, start=1):
            self.move(share)
            yield share, [agreement(self.twin, held, trust)]
            self.run.progress("choose the share", number, len(SHARES), f"{share:g}")


def _match(twin: Classifier, classifier: Classifier, source: SourceImages, run: Run) -> None:
    """Give the twin's logits the scale of the classifier's."""
    sample = source.sample(2048)
    own = features(twin.encoder, sample, run.precision)
    target = features(classifier.encoder, sample, run.precision)
    match_scale(twin, own, target)


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


def _check_dimension(branch: nn.Module, source: SourceImages, dim: int) -> None:
    features = check_size(branch.eval().get_submodule("encoder"), source.preprocessing)
    if features.ndim != 2 or features.shape[1] != dim:
        raise InputError(
            f"the twin's encoder returns features {list(features.shape[1:])}, the classifier's "
            f"[{dim}]; choose a twin with the same feature size."
        )


@torch.no_grad()
def check_size(network: nn.Module, preprocessing: Preprocessing) -> Tensor:
    """The output for a black image; checks that a network takes images of this size and channels.

    Args:
        network: In evaluation mode.
        preprocessing: Says the size and the number of channels.

    Raises:
        InputError: it does not.
    """
    device = next(network.parameters()).device
    shape = (1, preprocessing.channels, preprocessing.height, preprocessing.width)
    black = torch.zeros(shape, dtype=torch.uint8, device=device)
    try:
        return network(preprocessing(black))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise InputError(
            f"the model does not accept images of {words(preprocessing.size)} pixels and "
            f"{preprocessing.channels} channels ({error}); choose another size, mean and std, or "
            "model."
        ) from error
