"""A head of text features: classes are told by their names (CLIP, Radford et al. 2021)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from acclimate.backbones.classifier import Classifier
from acclimate.backbones.prompted import Tokenizer, Words, filled, tokens_of, words_of
from acclimate.errors import InputError
from acclimate.runtime.precision import at_least_float32

_TOGETHER = 256
"""Texts that go through the text encoder at a time."""


class ZeroShotHead(nn.Module):
    """Logits are scaled cosine similarities of image features and text features.

    It is a linear layer without bias on normalised features, whose rows are the text features.

    Args:
        templates: Number of templates.
        classes: Number of classes.
        dim: Number of features.
        words: The text encoder with its prompts; None for a head of features alone.

    Attributes:
        by_template: Text features of each template and class, of length 1.
        class_weights: Their mean over templates, again of length 1: the classifier.
        scale: Factor of the cosine similarity.
        in_features: Number of features.
        out_features: Number of classes.
    """

    by_template: Tensor
    class_weights: Tensor
    scale: Tensor

    def __init__(self, templates: int, classes: int, dim: int, words: Words | None = None):
        super().__init__()
        plain = {"dtype": torch.float32, "device": "cpu"}
        self.register_buffer("by_template", torch.zeros(templates, classes, dim, **plain))
        self.register_buffer("class_weights", torch.zeros(classes, dim, **plain))
        self.register_buffer("scale", torch.ones((), **plain))
        self.words = words
        self.in_features = dim
        self.out_features = classes

    def forward(self, features: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch classes"]:
        """Logits of features of any length."""
        return self.compared(features, self.class_weights)

    def compared(
        self, features: Float[Tensor, "batch dim"], texts: Float[Tensor, "texts dim"]
    ) -> Float[Tensor, "batch texts"]:
        """Logits of images for any texts; in at least float32, for the scale is large.

        Args:
            features: Of any length.
            texts: Of length 1.
        """
        with torch.autocast(features.device.type, enabled=False):
            unit = normalize(at_least_float32(features), dim=1)
            return self.scale * unit @ at_least_float32(texts).T


class ContextHead(nn.Module):
    """A zero-shot head whose prompts begin with vectors that can move (CoOp, TPT).

    Args:
        frozen: The head as it was; shared.

    Attributes:
        context: The vectors, at first those of "a photo of a".
        moves: Names of the parameters that steps may move.

    Raises:
        InputError: the head has no text encoder.
    """

    moves: tuple[str, ...] = ("context",)

    def __init__(self, frozen: ZeroShotHead):
        super().__init__()
        self.frozen = frozen
        with torch.no_grad():
            self.context: nn.Parameter = nn.Parameter(words_in(frozen).start().clone())
        self.in_features: int = frozen.in_features
        self.out_features: int = frozen.out_features

    def forward(self, features: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch classes"]:
        """Logits by the prompts as they are now: a pass of the text encoder over all classes."""
        return self.frozen.compared(features, words_in(self.frozen).with_context(self.context))


def words_in(head: nn.Module) -> Words:
    """The text encoder of a head.

    Raises:
        InputError: it has none.
    """
    words = getattr(head, "words", None)
    if not isinstance(words, Words):
        raise InputError(
            "this zero-shot classifier has text features but no text encoder, which the method "
            "needs; make the bundle with one."
        )
    return words


@torch.no_grad()
def zero_shot(
    image: nn.Module,
    text: nn.Module,
    tokenize: Tokenizer,
    names: Sequence[str],
    templates: Sequence[str],
    *,
    scale: float = 100.0,
) -> Classifier:
    """A classifier of class names: any image encoder, with the text encoder it was trained with.

    Text features are computed here, once.

    ```python
    classifier = zero_shot(clip.visual, text, tokenize, ["cat", "dog"], ["a photo of a {}"])
    ```

    Args:
        image: Maps normalised images to features ``[batch, dim]``; shared.
        text: As for `acclimate.backbones.prompted.Words`; shared.
        tokenize: As `acclimate.backbones.prompted.Tokenizer`.
        names: The class names, in the order of the outputs.
        templates: Sentences with ``{}`` in the class name's place.
        scale: Factor of the cosine similarity: e to CLIP's ``logit_scale``.

    Raises:
        InputError: a template without a place for the name, or a text that is too long.
    """
    words = words_of(text, tokenize, names)
    features = []
    for template in templates:
        tokens = tokens_of(tokenize, filled(template, names), words.positions)
        features.append(torch.cat([words.vectors(part) for part in tokens.split(_TOGETHER)]))
    by_template = torch.stack(features)  # [templates, classes, dim]
    count, classes, dim = by_template.shape
    head = ZeroShotHead(count, classes, dim, words).to(by_template.dtype)
    head.by_template.copy_(by_template)
    head.class_weights.copy_(normalize(by_template.mean(0), dim=1))
    head.scale.fill_(scale)
    return Classifier(image, head)
