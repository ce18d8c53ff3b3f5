"""The architectures that methods derive from a classifier before training."""

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import nn

from acclimate.backbones.classifier import Classifier
from acclimate.backbones.copies import duplicate
from acclimate.backbones.siamese import siamese


def plain(classifier: Classifier) -> Classifier:
    """The classifier unchanged."""
    return classifier


def projected(classifier: Classifier, head: nn.Module | None = None) -> Classifier:
    """The classifier h'∘(π∘g): a copy g of the encoder, a linear projector π, a head h' (CTA).

    π is initialised to the identity and h' to a copy of the head, so that the result computes the
    same logits as the classifier.

    ```python
    twin = projected(acclimate.split(network))
    ```

    Args:
        classifier: The classifier whose encoder is copied.
        head: The head that is copied; None takes the classifier's own.

    Raises:
        InputError: the head takes maps, which cannot be projected.
    """
    head = classifier.head if head is None else head
    dim = Classifier(classifier.encoder, head).feature_dim
    projector = nn.Linear(dim, dim, dtype=torch.float32, device="cpu")
    nn.init.eye_(projector.weight)
    nn.init.zeros_(projector.bias)
    encoder = duplicate(classifier.encoder)
    both = nn.Sequential(OrderedDict(encoder=encoder, projector=projector))
    return Classifier(both, duplicate(head))


FORMS: dict[str, Callable[[Classifier], Classifier]] = {
    "plain": plain,
    "projected": projected,
    "siamese": siamese,
}
"""The function that builds each form, by the form's name in a recipe."""
