"""The classifier: cross entropy on shifted, flipped and partly hidden images."""

from torch import Tensor
from torch.nn.functional import cross_entropy

from acclimate.backbones import Classifier
from acclimate.randomness import key
from acclimate.source.images import SourceImages
from acclimate.source.loop import Run, Training, train
from acclimate.views.augment import cutout, shifted_crop


def supervised(
    classifier: Classifier,
    source: SourceImages,
    settings: Training,
    run: Run,
    *,
    padding: int = 4,
    cutout_size: int = 0,
    label_smoothing: float = 0.0,
) -> None:
    """Train h∘f in place by cross entropy (CTA, § 4; random crop with padding, flip).

    Args:
        classifier: Trained in place; on return in evaluation mode.
        source: Images and their classes.
        settings: Length and optimiser.
        run: Seed, checkpoints, device, progress.
        padding: The largest shift, in pixels.
        cutout_size: Side of the square that cutout hides, in pixels.
        label_smoothing: Share of the target spread over all classes.

    Raises:
        InputError: there are no labels; and as `acclimate.source.loop.train`.
    """
    images, labels = source.images, source.labels_for("supervised training")

    def loss(module, numbers: Tensor, epoch_key: int) -> Tensor:
        batch = shifted_crop(
            images[numbers], padding, key=key(epoch_key, "shifted crop"), index=numbers
        )
        if cutout_size:
            batch = cutout(batch, cutout_size, key=key(epoch_key, "cutout"), index=numbers)
        device = next(module.parameters()).device
        logits = module(source.preprocessing(batch.to(device)))
        return cross_entropy(
            logits.float(), labels[numbers].to(device), label_smoothing=label_smoothing
        )

    train(
        "supervised",
        classifier,
        loss,
        settings,
        run,
        count=len(images),
        identity=[source.identity(labelled=True), padding, cutout_size, label_smoothing],
    )
    classifier.eval()
