"""A classifier in two parts: an encoder that makes features and a linear head that reads them."""

from jaxtyping import Float
from torch import Tensor, nn


class Classifier(nn.Module):
    """An encoder and the linear head on top of it.

    Attributes:
        encoder: Maps normalised images ``[batch, 3, height, width]`` to features ``[batch, dim]``.
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

    def votes(self, images: Float[Tensor, "batch 3 height width"]) -> tuple[Tensor, ...]:
        """The logits that the answer is the sum of."""
        return (self(images),)

    @property
    def feature_dim(self) -> int:
        """How many features the encoder gives per image."""
        return self.head.in_features

    @property
    def num_classes(self) -> int:
        """How many classes the head tells apart."""
        return self.head.out_features
