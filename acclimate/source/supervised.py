"""The classifier: cross entropy on shifted, flipped and partly hidden images."""

from jaxtyping import Int64, UInt8
from torch import Tensor
from torch.nn.functional import cross_entropy

from acclimate.backbones import Classifier
from acclimate.preprocessing import Preprocessing
from acclimate.randomness import key
from acclimate.source.augment import cutout, shifted_crop
from acclimate.source.loop import Run, Training, train


def supervised(
    classifier: Classifier,
    images: UInt8[Tensor, "n 3 h w"],
    labels: Int64[Tensor, "n"],
    preprocessing: Preprocessing,
    settings: Training,
    run: Run,
    *,
    padding: int = 4,
    hidden: int = 0,
    label_smoothing: float = 0.0,
    identity: object = None,
) -> None:
    """Train h∘f in place by cross entropy (CTA, § 4; random crop with padding, flip).

    Args:
        classifier: Trained in place; on return in evaluation mode.
        images: Source images.
        labels: Their classes.
        preprocessing: Normalisation.
        settings: Length and optimiser.
        run: Seed, checkpoints, device, progress.
        padding: The largest shift, in pixels.
        hidden: Side of the square that cutout hides, in pixels.
        label_smoothing: Share of the target spread over all classes.
        identity: What determines images and classifier, for the checkpoint.

    Raises:
        InputError: as `acclimate.source.loop.train`.
    """

    def loss(module, numbers: Tensor, epoch_key: int) -> Tensor:
        batch = shifted_crop(
            images[numbers], padding, key=key(epoch_key, "shifted crop"), index=numbers
        )
        if hidden:
            batch = cutout(batch, hidden, key=key(epoch_key, "cutout"), index=numbers)
        device = next(module.parameters()).device
        logits = module(preprocessing(batch.to(device)))
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
        identity=[identity, padding, hidden, label_smoothing],
    )
    classifier.eval()
