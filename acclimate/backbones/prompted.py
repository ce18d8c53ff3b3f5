"""The text side of a zero-shot classifier: prompts as tokens, and the encoder that reads them."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import normalize

from acclimate.errors import InputError
from acclimate.runtime.precision import at_least_float32

Tokenizer = Callable[[list[str]], Int64[Tensor, "texts length"]]
"""Texts to tokens: a start, the words, an end, which has the largest number of all, then zeros. No
text is cut off, however long it is."""
CONTEXT = "a photo of a"
"""The words before a class name whose vectors TPT moves."""
TEMPLATES = (
    "a photo of a {}",
    "itap of a {}",
    "a bad photo of the {}",
    "a origami {}",
    "a photo of the large {}",
    "a {} in a video game",
    "art of the {}",
    "a photo of the small {}",
)
"""WATT's templates, chosen by CLIP's authors for ImageNet; CLIPArTT has only the first."""
PLACE = "{}"
"""Stands for the class name in a template."""


class Words(nn.Module):
    """A text encoder, and as tokens all that it is to read: no tokenizer is needed later.

    Args:
        encoder: The text encoder. ``embed(tokens)`` gives ``[texts, length, width]``, the vectors
            of tokens; calling it with these vectors and the tokens gives ``[texts, dim]``. Its
            ``positions`` is the largest length.
        classes: Number of classes.
        sizes: Tokens of the longest prompt, of the longest name, of the context and of "or".

    Attributes:
        prompts: Tokens of "a photo of a NAME." for each class.
        names: Tokens of each class name alone, without start and end.
        lengths: How many tokens each name has.
        joiner: Tokens of "or".
        context: Number of tokens of "a photo of a".
    """

    encoder: Any
    prompts: Tensor
    names: Tensor
    lengths: Tensor
    joiner: Tensor
    context: int

    def __init__(self, encoder: nn.Module, classes: int, sizes: tuple[int, int, int, int]):
        super().__init__()
        self.encoder = encoder
        prompt, name, self.context, joiner = sizes
        integers = {"dtype": torch.int64, "device": "cpu"}
        self.register_buffer("prompts", torch.zeros(classes, prompt, **integers))
        self.register_buffer("names", torch.zeros(classes, name, **integers))
        self.register_buffer("lengths", torch.zeros(classes, **integers))
        self.register_buffer("joiner", torch.zeros(joiner, **integers))

    @property
    def positions(self) -> int:
        """The most tokens that the text encoder reads."""
        return self.encoder.positions

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """As for the constructor."""
        return self.prompts.shape[1], self.names.shape[1], self.context, len(self.joiner)

    def vectors(
        self, tokens: Int64[Tensor, "texts length"], embedded: Tensor | None = None
    ) -> Float[Tensor, "texts dim"]:
        """Features of texts, of length 1.

        Args:
            tokens: The texts.
            embedded: Vectors to take in place of those of the tokens.
        """
        embedded = self.encoder.embed(tokens) if embedded is None else embedded
        return normalize(at_least_float32(self.encoder(embedded, tokens)), dim=1)

    def start(self) -> Float[Tensor, "context width"]:
        """The vectors of "a photo of a"."""
        return self.encoder.embed(self.prompts[:1, 1 : 1 + self.context])[0]

    def with_context(self, context: Float[Tensor, "context width"]) -> Float[Tensor, "classes dim"]:
        """Features of the classes' prompts with other vectors in place of "a photo of a"."""
        embedded = self.encoder.embed(self.prompts)  # [classes, length, width]
        shared = context.expand(len(embedded), *context.shape)
        after = embedded[:, 1 + self.context :]
        return self.vectors(self.prompts, torch.cat([embedded[:, :1], shared, after], dim=1))

    def longest_joined(self, count: int) -> int:
        """Most tokens of a prompt that joins so many class names."""
        names = int(self.lengths.sort(descending=True).values[:count].sum())
        return 2 + self.context + names + (count - 1) * len(self.joiner)

    def joined(
        self, classes: Int64[Tensor, "batch few"], length: int
    ) -> Int64[Tensor, "batch length"]:
        """Tokens of "a photo of a A or B or C" for each image.

        ```python
        tokens = words.joined(logits.topk(3).indices, words.longest_joined(3))
        ```

        Args:
            classes: Classes that each prompt names, in order.
            length: From `longest_joined`.
        """
        batch, few = classes.shape
        row = self.prompts[:1].expand(batch, -1)
        places = torch.arange(self.names.shape[1], device=classes.device)
        named = places < self.lengths[classes][..., None]  # [batch, few, name]
        joiner = self.joiner.expand(batch, few, -1)
        between = torch.ones_like(joiner, dtype=torch.bool)
        between[:, -1] = False
        tokens = torch.cat([self.names[classes], joiner], dim=2).flatten(1)
        chosen = torch.cat([named, between], dim=2).flatten(1)
        before, end = row[:, : 1 + self.context], row.amax(1, keepdim=True)
        tokens = torch.cat([before, tokens, end], dim=1)
        ones = [torch.ones_like(part, dtype=torch.bool) for part in (before, end)]
        chosen = torch.cat([ones[0], chosen, ones[1]], dim=1)
        # What is not chosen goes to a last place, which is cut off.
        target = torch.where(chosen, chosen.cumsum(1) - 1, length)
        return tokens.new_zeros(batch, length + 1).scatter_(1, target, tokens)[:, :length]


def words_of(encoder: nn.Module, tokenize: Tokenizer, names: Sequence[str]) -> Words:
    """The prompts of class names as tokens, beside the text encoder that reads them.

    ```python
    words = words_of(encoder, open_clip.get_tokenizer("ViT-B-32"), ["cat", "dog"])
    ```

    Args:
        encoder: As for `Words`; shared.
        tokenize: As `Tokenizer`.
        names: The class names.

    Raises:
        InputError: a prompt is longer than the text encoder reads, or two names are one text.
    """
    positions: Any = encoder.positions
    prompts = tokens_of(tokenize, [f"{CONTEXT} {name}." for name in names], positions)
    alone = tokens_of(tokenize, list(names), positions)
    _check_distinct(alone, names)
    context, joiner = (tokens_of(tokenize, [text], positions)[0] for text in (CONTEXT, "or"))
    lengths = _lengths(alone) - 2
    sizes = prompts.shape[1], int(lengths.max()), len(context) - 2, len(joiner) - 2
    words = Words(encoder, len(names), sizes)
    inside = torch.arange(sizes[1]) < lengths[:, None]
    words.prompts.copy_(prompts)
    words.names.copy_(torch.where(inside, alone[:, 1 : 1 + sizes[1]], 0))
    words.lengths.copy_(lengths)
    words.joiner.copy_(joiner[1:-1])
    return words


def tokens_of(
    tokenize: Tokenizer, texts: Sequence[str], positions: int
) -> Int64[Tensor, "texts length"]:
    """Tokens of texts, cut to the longest of them.

    A text encoder whose tokens look only back gives the same without what follows the end.

    Args:
        tokenize: As `Tokenizer`.
        texts: The texts.
        positions: The most tokens that the text encoder reads.

    Raises:
        InputError: a text is longer.
    """
    tokens = torch.as_tensor(tokenize(list(texts)))
    lengths = _lengths(tokens)
    if int(lengths.max()) > positions:
        raise InputError(
            f"the text {texts[int(lengths.argmax())]!r} is longer than the {positions} tokens that "
            f"the text encoder reads; choose a shorter class name or template."
        )
    return tokens[:, : int(lengths.max())].long()


def filled(template: str, names: Sequence[str]) -> list[str]:
    """A template with each class name in its place.

    ```python
    filled("a photo of a {}", ["cat", "dog"])  # ["a photo of a cat", "a photo of a dog"]
    ```

    Raises:
        InputError: the template has no place for the name, or several.
    """
    if template.count(PLACE) != 1:
        raise InputError(
            f"the template {template!r} must have {PLACE} once, where the class name goes; write "
            f"it as in {TEMPLATES[0]!r}."
        )
    return [template.replace(PLACE, name) for name in names]


def _check_distinct(tokens: Int64[Tensor, "texts length"], names: Sequence[str]) -> None:
    """Refuse names that the tokenizer reads alike: their features would be the same."""
    first: dict[tuple[int, ...], str] = {}
    for row, name in zip(tokens.tolist(), names, strict=True):
        other = first.setdefault(tuple(row), name)
        if other != name:
            raise InputError(
                f"the tokenizer reads the class names {other!r} and {name!r} alike; give each "
                f"class a text of its own."
            )


def _lengths(tokens: Int64[Tensor, "texts length"]) -> Int64[Tensor, " texts"]:
    """Tokens of each text with start and end; the end is the largest."""
    return tokens.argmax(1) + 1
