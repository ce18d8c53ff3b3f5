"""What a method makes of a classifier before anything is trained."""

import copy
from collections import OrderedDict
from collections.abc import Callable

from torch import nn

from acclimate.backbones.classifier import Classifier
from acclimate.backbones.siamese import siamese


def plain(classifier: Classifier) -> Classifier:
    """The classifier as it is."""
    return classifier


def projected(classifier: Classifier, head: nn.Linear | None = None) -> Classifier:
    """h'∘(π∘g) with g a copy of the encoder, π the identity and h' a copy of a head (CTA).

    Args:
        classifier: Its encoder is copied.
        head: Copied in place of the classifier's own.
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
"""Every form by its name."""
