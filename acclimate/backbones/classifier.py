"""A classifier in two parts: an encoder that computes features, and a head on top."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear

from acclimate.backbones.heads import SumOfHeads
from acclimate.errors import InputError


class Classifier(nn.Module):
    """An encoder and the head on top of it, mostly one linear layer.

    ```python
    classifier = acclimate.build("acclimate:resnet26", classes=10).eval()
    features = classifier.encoder(images)  # [batch, classifier.feature_dim]
    logits = classifier.head(features)  # [batch, 10], the same as classifier(images)
    ```

    Attributes:
        encoder: Maps normalised images ``[batch, 3, height, width]`` to features ``[batch, dim]``,
            or to maps where the head takes maps.
            An encoder that combines several networks (ReC-TTT) has an attribute ``parts``, their
            number, and returns their features concatenated.
        head: Maps features to logits ``[batch, classes]``. It has attributes ``in_features``, None
            if it takes maps, and ``out_features``, the number of classes.
    """

    def __init__(self, encoder: nn.Module, head: nn.Module):
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
        if parts == 1:
            return (self.head(features),)
        if isinstance(self.head, SumOfHeads):
            return self.head.votes(features)
        assert isinstance(self.head, nn.Linear)
        bias = None if self.head.bias is None else self.head.bias / parts
        columns = self.head.weight.chunk(parts, dim=1)
        return tuple(linear(f, w, bias) for f, w in zip(features.chunk(parts, dim=1), columns))

    @property
    def feature_dim(self) -> int:
        """Number of features per image.

        Raises:
            InputError: the head takes maps, so that an image has no single vector of features.
        """
        dim = getattr(self.head, "in_features", None)
        if not isinstance(dim, int):
            raise InputError(
                "this network's head takes maps or tokens, not one vector per image, so its "
                "features cannot be compared or projected; choose a method that needs only logits "
                "or layers, such as ptbn or tent."
            )
        return dim

    @property
    def num_classes(self) -> int:
        """Number of classes, which is the number of outputs of the head."""
        classes = getattr(self.head, "out_features", None)
        if not isinstance(classes, int):
            raise InputError(
                f"the head, a {type(self.head).__name__}, does not say how many classes it has; "
                f"give it attributes in_features and out_features, or use acclimate.split."
            )
        return classes
