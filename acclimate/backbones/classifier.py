"""A classifier in two parts: an encoder that computes features, and a linear head on top."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear


class Classifier(nn.Module):
    """An encoder and the linear head on top of it.

    ```python
    classifier = acclimate.build("acclimate:resnet26", classes=10).eval()
    features = classifier.encoder(images)  # [batch, classifier.feature_dim]
    logits = classifier.head(features)  # [batch, 10], the same as classifier(images)
    ```

    Attributes:
        encoder: Maps normalised images ``[batch, 3, height, width]`` to features ``[batch, dim]``.
            An encoder that combines several networks (ReC-TTT) has an attribute ``parts``, their
            number, and returns their features concatenated.
        head: Maps features to logits ``[batch, classes]``.
    """

    def __init__(self, encoder: nn.Module, head: nn.Linear):
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch classes"]:
        """Logits of images that are already normalised."""
        return self.head(self.encoder(images))

    def votes(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> tuple[Float[Tensor, "batch classes"], ...]:
        """Logits of each combined classifier, which sum to this one's; mostly there is only one."""
        return self.votes_of(self.encoder(images))

    def votes_of(
        self, features: Float[Tensor, "batch dim"]
    ) -> tuple[Float[Tensor, "batch classes"], ...]:
        """The same as `votes`, from features that the encoder has already computed."""
        parts = getattr(self.encoder, "parts", 1)
        bias = None if self.head.bias is None else self.head.bias / parts
        columns = self.head.weight.chunk(parts, dim=1)
        return tuple(linear(f, w, bias) for f, w in zip(features.chunk(parts, dim=1), columns))

    @property
    def feature_dim(self) -> int:
        """Number of features per image."""
        return self.head.in_features

    @property
    def num_classes(self) -> int:
        """Number of classes, which is the number of outputs of the head."""
        return self.head.out_features
