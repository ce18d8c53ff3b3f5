"""A classifier in two parts: an encoder that makes features and a linear head that reads them."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear


class Classifier(nn.Module):
    """An encoder and the linear head on top of it.

    Attributes:
        encoder: Maps normalised images ``[batch, 3, height, width]`` to features ``[batch, dim]``.
            Where several classifiers share one head side by side it has an attribute ``parts``,
            their number, and gives their features one behind the other.
        head: Maps features to logits ``[batch, classes]``.
    """

    def __init__(self, encoder: nn.Module, head: nn.Linear):
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch classes"]:
        """The logits of images that are already normalised."""
        return self.head(self.encoder(images))

    def votes(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> tuple[Float[Tensor, "batch classes"], ...]:
        """The logits of each classifier inside, which sum to this one's; most have only one."""
        return self.votes_of(self.encoder(images))

    def votes_of(
        self, features: Float[Tensor, "batch dim"]
    ) -> tuple[Float[Tensor, "batch classes"], ...]:
        """As `votes`, from the encoder's features."""
        parts = getattr(self.encoder, "parts", 1)
        bias = None if self.head.bias is None else self.head.bias / parts
        columns = self.head.weight.chunk(parts, dim=1)
        return tuple(linear(f, w, bias) for f, w in zip(features.chunk(parts, dim=1), columns))

    @property
    def feature_dim(self) -> int:
        """How many features the encoder gives per image."""
        return self.head.in_features

    @property
    def num_classes(self) -> int:
        """How many classes the head tells apart."""
        return self.head.out_features
