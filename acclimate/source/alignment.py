"""Alignment of the twin's features with the frozen classifier's (CTA, Eq. 4)."""

from torch import Tensor, nn

from acclimate.backbones import Classifier
from acclimate.objectives import alignment_loss
from acclimate.randomness import Key
from acclimate.runtime.ranks import gather
from acclimate.source.calibration import features
from acclimate.source.images import Rows, SourceImages
from acclimate.source.loop import Run, Training, train
from acclimate.source.two_views import draw_two_views
from acclimate.storage import sealed
from acclimate.views import SimCLRViews


def train_alignment(
    twin: nn.Module,
    classifier: Classifier,
    source: SourceImages,
    settings: Training,
    run: Run,
    *,
    temperature: float,
    views: SimCLRViews,
) -> None:
    """Train π∘g so that its features of an image's views match f's features of the image (Eq. 4).

    f is frozen and sees the unaugmented image, so its features are computed once.

    Args:
        twin: π∘g, maps images to features. Trained in place; its batch-norm statistics are
            those of views.
        classifier: h∘f, which is not changed.
        source: Source images; labels are not used.
        settings: Number of epochs, and optimiser.
        run: Seed, checkpoints, device, progress.
        temperature: τ.
        views: Augmentation of the views.

    Raises:
        InputError: as `acclimate.source.loop.train`.
    """
    frozen = sealed.digest(classifier.encoder.state_dict(), "")
    targets = Rows(features(classifier.encoder, source, run.precision))

    def loss(module, index: Tensor, epoch_key: Key) -> Tensor:
        drawn = draw_two_views(source, index, views, epoch_key)
        first, second = module(drawn).chunk(2)
        target = gather(targets(index))
        return alignment_loss(gather(first), gather(second), target, temperature=temperature)

    train(
        "align",
        twin,
        loss,
        settings,
        run,
        count=len(source.images),
        identity=[source.identity(), frozen, temperature, vars(views)],
    )
