"""A bundle of a zero-shot classifier: classes are told by their names, nothing is trained."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from acclimate.backbones import Classifier, check_finite, duplicate, in_float32
from acclimate.backbones import zero_shot as texts
from acclimate.backbones.clip import as_classifier, load_clip, usual_preprocessing
from acclimate.backbones.prompted import TEMPLATES, Tokenizer, filled
from acclimate.bundle import CUSTOM, Bundle
from acclimate.data.class_names import check_distinct
from acclimate.errors import InputError
from acclimate.preprocessing import Preprocessing
from acclimate.source.twin import check_size
from acclimate.version import __version__


def zero_shot(
    model: str | nn.Module,
    names: Sequence[str],
    templates: Sequence[str] = TEMPLATES,
    *,
    weights: Path | None = None,
    text: nn.Module | None = None,
    tokenize: Tokenizer | None = None,
    scale: float = 100.0,
    preprocessing: Preprocessing | None = None,
) -> Bundle:
    """Make a bundle of a zero-shot classifier, such as CLIP. Nothing is downloaded or trained.

    The text features of the class names are computed here, once, and are the classifier's head.

    ```python
    bundle = acclimate.zero_shot("openclip:ViT-B-32", ["cat", "dog"], weights=Path("clip.pt"))
    logits = acclimate.Adapter(bundle, "clipartt")(images)
    ```

    Args:
        model: ``openclip:NAME`` with weights, ``hf-clip:FOLDER``, or an image encoder that maps
            normalised images to features ``[batch, dim]``, with its text encoder.
        names: The class names, in the order of the outputs.
        templates: Sentences with ``{}`` in the class name's place; their features are averaged.
        weights: The checkpoint of ``openclip:NAME``.
        text: The text encoder of an image encoder, as `acclimate.backbones.prompted.Words` says.
        tokenize: Its tokenizer, as `acclimate.backbones.prompted.Tokenizer`.
        scale: Factor of the cosine similarity, for an image encoder; CLIP's own is its model's.
        preprocessing: Of the images; None takes bicubic resizing and CLIP's mean and std.

    Returns:
        The bundle; its default method is ``clipartt``. One of modules is loaded with
        ``Bundle.load(path, model=classifier)``.

    Raises:
        InputError: class names or templates that cannot be meant, a text that is too long, weights
            of another model, or encoders of different widths.
    """
    _check_texts(names, templates)
    if isinstance(model, str):
        clip = load_clip(model, weights)
        classifier, architecture = as_classifier(clip, names, templates)
        preprocessing = preprocessing or usual_preprocessing(model)
    else:
        if text is None or tokenize is None or preprocessing is None:
            raise InputError(
                "an image encoder needs the text encoder that it was trained with: give text, "
                "tokenize and preprocessing."
            )
        pair = duplicate(nn.ModuleList([model, text])).requires_grad_(False).eval()
        classifier = texts.zero_shot(pair[0], pair[1], tokenize, names, templates, scale=scale)
        architecture = CUSTOM
    return bundled(classifier, architecture, preprocessing, names, templates)


def bundled(
    classifier: Classifier,
    architecture: str,
    preprocessing: Preprocessing,
    names: Sequence[str],
    templates: Sequence[str],
) -> Bundle:
    """The bundle of a zero-shot classifier that was made.

    ```python
    bundle = bundled(*as_classifier(clip, names, templates), preprocessing, names, templates)
    ```

    Args:
        classifier: As `acclimate.backbones.zero_shot.zero_shot` returns it.
        architecture: The name under which the bundle records it.
        preprocessing: Of the images.
        names: The class names.
        templates: The templates, to be recorded.

    Raises:
        InputError: weights that are not finite, or encoders of different widths.
    """
    classifier = in_float32(classifier).requires_grad_(False).eval()
    check_finite(classifier, "the model's weights")
    _check_widths(classifier, preprocessing)
    return Bundle(
        classifier=classifier.cpu(),
        twin=None,
        preprocessing=preprocessing,
        classes=tuple(names),
        method="clipartt",
        recipe="supervised",
        architecture=architecture,
        provenance={
            "source": "a zero-shot classifier",
            "templates": list(templates),
            "acclimate": __version__,
            "torch": torch.__version__,
        },
    )


def _check_texts(names: Sequence[str], templates: Sequence[str]) -> None:
    if len(names) < 2 or any(not name.strip() for name in names):
        raise InputError(
            "a zero-shot classifier tells classes by their names; give the names of at least 2 "
            "classes, none of them empty."
        )
    check_distinct(names, "class names")
    if not templates:
        raise InputError(
            f"a zero-shot classifier needs a template at least, such as {TEMPLATES[0]!r}; give one."
        )
    for number, template in enumerate(templates):
        filled(template, names)
        if template in templates[:number]:
            raise InputError(f"the template {template!r} is there twice; leave one of them out.")


def _check_widths(classifier: Classifier, preprocessing: Preprocessing) -> None:
    """Refuse an image encoder whose features cannot be compared with those of texts."""
    features = check_size(classifier.encoder, preprocessing)
    if features.ndim != 2 or features.shape[1] != classifier.feature_dim:
        raise InputError(
            f"the image encoder's features are {list(features.shape[1:])} and the text encoder's "
            f"[{classifier.feature_dim}]; give encoders that were trained together."
        )
