"""Alignment that also trains the classifier, which needs labels (the variant of CTA, § 3.4)."""

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from acclimate.backbones import Classifier
from acclimate.objectives import alignment_loss
from acclimate.randomness import Key
from acclimate.runtime.ranks import gather
from acclimate.source.images import SourceImages
from acclimate.source.loop import Run, Training, train
from acclimate.source.two_views import draw_two_views
from acclimate.views import SimCLRViews


class _TwinAndClassifier(nn.Module):
    """The twin on views and the classifier on unaugmented images, as one module for the loop."""

    def __init__(self, twin: nn.Module, classifier: Classifier):
        super().__init__()
        self.twin = twin
        self.classifier = classifier

    def forward(self, views: Tensor, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        target = self.classifier.encoder(images)
        return self.twin(views), target, self.classifier.head(target)


def train_joint_alignment(
    twin: nn.Module,
    classifier: Classifier,
    source: SourceImages,
    settings: Training,
    run: Run,
    *,
    temperature: float,
    views: SimCLRViews,
) -> None:
    """Train π∘g and f together, with Eq. 4 plus cross entropy on h(f(x)); h stays frozen.

    The paper found a frozen f more stable (CTA, § 3.4).

    Args:
        twin: π∘g, maps images to features. Trained in place; its batch-norm statistics are those of
            views.
        classifier: h∘f. f is trained in place.
        source: Labelled source images.
        settings: Number of epochs, and optimiser.
        run: Seed, checkpoints, device, progress.
        temperature: τ.
        views: Augmentation of the views.

    Raises:
        InputError: there are no labels; or as `acclimate.source.loop.train`.
    """
    source.labels_for("trainable_classifier")
    both = _TwinAndClassifier(twin, classifier)
    classifier.encoder.requires_grad_(True)

    def loss(module: nn.Module, index: Tensor, epoch_key: Key) -> Tensor:
        drawn = draw_two_views(source, index, views, epoch_key)
        plain = source.preprocessing(source.rows(index))
        features, target, logits = module(drawn, plain)
        first, second = features.chunk(2)
        aligned = alignment_loss(
            gather(first), gather(second), gather(target), temperature=temperature
        )
        return aligned + cross_entropy(logits.float(), source.label_rows(index))

    train(
        "align-trainable",
        both,
        loss,
        settings,
        run,
        count=len(source.images),
        identity=[source.identity(labelled=True), temperature, vars(views)],
    )
    classifier.requires_grad_(False)
