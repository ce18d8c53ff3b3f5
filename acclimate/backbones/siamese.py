"""ReC-TTT's classifier: two copies of a classifier, the second on the mirrored image."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from acclimate.backbones.classifier import Classifier
from acclimate.backbones.copies import duplicate
from acclimate.backbones.heads import SumOfHeads, is_plain


class Siamese(nn.Module):
    """Two encoders whose features are concatenated; the second encodes the mirrored image.

    Attributes:
        first: Encodes the images.
        second: Encodes the images mirrored left to right.
    """

    parts = 2

    def __init__(self, first: nn.Module, second: nn.Module):
        super().__init__()
        self.first = first
        self.second = second

    def forward(self, images: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch 2*dim"]:
        """Both encoders' features of normalised images, the first encoder's first."""
        return torch.cat([self.first(images), self.second(images.flip(-1))], dim=1)


def siamese(classifier: Classifier) -> Classifier:
    """Two copies of a classifier as one classifier (ReC-TTT, Colussi et al. 2024).

    Its logits are the sum of both copies' logits: the head is one linear layer over the features
    of both, W = [W₁ W₂] and b = b₁ + b₂, or the sum of two copies of a head of another kind.
    `Classifier.votes` returns the two copies' logits.

    Args:
        classifier: Copied twice, so that training the result leaves it unchanged.

    Raises:
        InputError: the head takes maps.
    """
    encoder = Siamese(duplicate(classifier.encoder), duplicate(classifier.encoder))
    if is_plain(classifier.head):
        head = duplicate(classifier.head)
        assert isinstance(head, nn.Linear)
        head.in_features *= 2
        head.weight = nn.Parameter(head.weight.detach().repeat(1, 2), head.weight.requires_grad)
        if head.bias is not None:
            head.bias = nn.Parameter(2 * head.bias.detach(), head.bias.requires_grad)
    else:
        classifier.feature_dim  # refuses a head on maps  # noqa: B018
        head = SumOfHeads([duplicate(classifier.head), duplicate(classifier.head)])
    return Classifier(encoder, head).train(classifier.training)
