"""The architectures that methods derive from a classifier before training."""

import copy
from collections import OrderedDict
from collections.abc import Callable

from torch import nn

from acclimate.backbones.classifier import Classifier
from acclimate.backbones.siamese import siamese


def plain(classifier: Classifier) -> Classifier:
    """The classifier unchanged."""
    return classifier


def projected(classifier: Classifier, head: nn.Linear | None = None) -> Classifier:
    """The classifier h'∘(π∘g): a copy g of the encoder, a linear projector π, a head h' (CTA).

    π is initialised to the identity and h' to a copy of the head, so that the result computes the
    same logits as the classifier.

    ```python
    twin = projected(acclimate.split(network))
    ```

    Args:
        classifier: The classifier whose encoder is copied.
        head: The head that is copied; None takes the classifier's own.
    """
    head = head or classifier.head
    projector = nn.Linear(head.in_features, head.in_features)
    nn.init.eye_(projector.weight)
    nn.init.zeros_(projector.bias)
    encoder = copy.deepcopy(classifier.encoder)
    both = nn.Sequential(OrderedDict(encoder=encoder, projector=projector))
    return Classifier(both, copy.deepcopy(head))


FORMS: dict[str, Callable[[Classifier], Classifier]] = {
    "plain": plain,
    "projected": projected,
    "siamese": siamese,
}
"""The function that builds each form, by the form's name in a recipe."""
