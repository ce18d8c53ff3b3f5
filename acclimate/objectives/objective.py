"""What every self-supervised objective is to an adapter and to the stages before deployment."""

from collections.abc import Iterable

from jaxtyping import Float, Int64
from torch import Tensor, nn

from acclimate.backbones import Classifier
from acclimate.views import shifted_crop


class Objective(nn.Module):
    """A loss without labels, and the parts that it owns: projector, rotation branch, decoder, ...

    A subclass has at least `forward`. Its constructor takes the classifier that is to be adapted
    and that one's preprocessing, then keyword options that JSON can hold: a bundle rebuilds its
    objective from them. The classifier itself is not kept.
    """

    fewest_images = 1
    """An adapter that is given fewer learns from the last images that it has seen too."""
    least_images = 1
    """With fewer than this there is no loss, and the adapter does not learn."""
    least_source_images = 1
    """`observe` must see as many."""

    def draw(
        self, images: Float[Tensor, "batch 3 h w"], key: int, index: Int64[Tensor, " batch"]
    ) -> tuple[Tensor, ...]:
        """Views of images at deployment, 0..1, and whatever else `forward` takes behind them.

        Args:
            images: 0..1, not normalised.
            key: From `acclimate.randomness.key`.
            index: Each image's number, so that views do not depend on the batch.
        """
        return (images,)

    def forward(
        self, model: Classifier, views: Float[Tensor, "views 3 h w"], *drawn: Tensor
    ) -> Float[Tensor, ""]:
        """The loss at deployment, a mean over images.

        Args:
            model: The classifier that adapts.
            views: The first of what `draw` gave, normalised.
            drawn: The rest of it.
        """
        raise NotImplementedError

    def source_draw(
        self, images: Float[Tensor, "batch 3 h w"], key: int, index: Int64[Tensor, " batch"]
    ) -> tuple[Tensor, ...]:
        """As `draw`, before deployment."""
        return self.draw(images, key, index)

    def source_loss(
        self, model: Classifier, views: Float[Tensor, "views 3 h w"], *drawn: Tensor
    ) -> Float[Tensor, ""]:
        """As `forward`, before deployment: what trains the objective's parts."""
        return self(model, views, *drawn)

    def observe(self, model: Classifier, batches: Iterable[Float[Tensor, "batch 3 h w"]]) -> None:
        """Keep, in buffers, what deployment needs to know of the source.

        Args:
            model: The trained classifier, in evaluation mode, without gradients.
            batches: Normalised source images.
        """


class TrainedOnCrops(Objective):
    """An objective that sees shifted, flipped crops before deployment and whole images at it."""

    padding: int
    """The largest shift, in pixels."""

    def source_draw(
        self, images: Float[Tensor, "batch 3 h w"], key: int, index: Int64[Tensor, " batch"]
    ) -> tuple[Tensor, ...]:
        """The images shifted, and some of them flipped: the supervised augmentation."""
        return (shifted_crop(images, self.padding, key=key, index=index),)
