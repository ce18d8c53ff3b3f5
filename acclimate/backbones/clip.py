"""CLIP models of open_clip, and those that transformers saved, as zero-shot classifiers.

A bundle must load where no file of CLIP's is. So the name that it records holds the configuration:
``openclip:{"clip": {"embed_dim": 512, ...}, "templates": 8, ...}``.
"""

import json
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from acclimate.backbones.classifier import Classifier
from acclimate.backbones.clip_text import TextEncoder
from acclimate.backbones.hf_clip import config_of, renamed
from acclimate.backbones.prompted import TEMPLATES, Tokenizer, Words
from acclimate.backbones.weights import load_weights
from acclimate.backbones.zero_shot import ZeroShotHead, zero_shot
from acclimate.errors import InputError, unknown_name
from acclimate.preprocessing import Preprocessing

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Mean and standard deviation in open_clip's and OpenAI's transforms."""
_VOCABULARY = 49408
"""Tokens of CLIP's tokenizer."""
_READ = 1024
"""Tokens up to which a text is read before it is found too long."""


class Clip(NamedTuple):
    """A CLIP model and the configuration that builds it again."""

    model: nn.Module
    config: dict[str, Any]


def load_clip(name: str, weights: Path | None) -> Clip:
    """A trained CLIP model. Nothing is downloaded.

    ```python
    clip = load_clip("openclip:ViT-B-32", Path("open_clip_model.safetensors"))
    ```

    Args:
        name: ``openclip:NAME``, a name of `open_clip.list_models()`; or ``hf-clip:FOLDER``, a
            CLIPModel that transformers saved.
        weights: The file of the weights, for ``openclip:NAME``.

    Raises:
        InputError: open_clip is missing, the name is unknown, weights are missing or of another
            model, or the model is no CLIP.
    """
    check_name(name)
    kind, _, rest = name.partition(":")
    if kind == "hf-clip":
        if weights is not None:
            raise InputError(f"the weights of {name} are in its folder; leave --weights out.")
        config = config_of(rest)
        model = build_clip(config)
        _load(model, renamed(Path(rest).expanduser(), config), rest)
        return Clip(model, config)
    config = _config(rest)
    if weights is None:
        raise InputError(f"{name} has random weights; give the file with the trained ones.")
    model = build_clip(config)
    load_weights(model, weights)
    return Clip(model, config)


def check_name(name: str) -> None:
    """Refuse a name that no CLIP model has.

    Raises:
        InputError: it begins neither with ``openclip:`` nor with ``hf-clip:``.
    """
    if name.partition(":")[0] not in ("openclip", "hf-clip"):
        raise InputError(
            f"{name} is no zero-shot classifier; give openclip:NAME with --weights, or "
            f"hf-clip:FOLDER."
        )


def usual_preprocessing(name: str) -> Preprocessing:
    """Bicubic resizing to cover a model's input, with CLIP's mean and standard deviation.

    Args:
        name: As for `load_clip`.

    Raises:
        InputError: there is no such model.
    """
    kind, _, rest = name.partition(":")
    config = config_of(rest) if kind == "hf-clip" else _config(rest)
    size = config["vision_cfg"].get("image_size", 224)
    return Preprocessing(size, MEAN, STD, interpolation="bicubic")


def build_clip(config: dict[str, Any]) -> nn.Module:
    """A CLIP model of open_clip with random weights, in evaluation mode.

    Args:
        config: As `open_clip.get_model_config` returns it.

    Raises:
        InputError: open_clip is missing, or cannot build it.
    """
    library = _library().model
    values = dict(config)
    kind = library.CustomTextCLIP if values.pop("custom_text", False) else library.CLIP
    if "hf_model_name" in values["text_cfg"] or "multimodal_cfg" in values:
        raise InputError("this model's text encoder is not CLIP's; choose another model.")
    vision = dict(values["vision_cfg"])
    if "timm_model_name" in vision:
        vision["timm_model_pretrained"] = False  # open_clip would download it
    try:
        return kind(**values | {"vision_cfg": vision}).eval()
    # The library builds what the configuration says, and fails in many ways if it cannot be built.
    except Exception as error:
        reason = str(error).strip().partition("\n")[0][:200] or type(error).__name__
        raise InputError(
            f"open_clip cannot build this model ({reason}); choose another one."
        ) from error


def tokenizer() -> Tokenizer:
    """CLIP's tokenizer, whose vocabulary comes with open_clip.

    Raises:
        InputError: open_clip is missing.
    """
    return partial(_library().tokenizer.SimpleTokenizer(), context_length=_READ)


def as_classifier(
    clip: Clip, names: Sequence[str], templates: Sequence[str]
) -> tuple[Classifier, str]:
    """A CLIP model as a classifier of names, and the name under which a bundle records it.

    ```python
    classifier, architecture = as_classifier(clip, ["cat", "dog"], ["a photo of a {}"])
    ```

    Args:
        clip: From `load_clip`; its layers are shared.
        names: The class names.
        templates: Sentences with ``{}`` in the class name's place.

    Raises:
        InputError: as `acclimate.backbones.zero_shot.zero_shot`.
    """
    words = clip.config["text_cfg"]
    others = [name for name in ("hf_tokenizer_name", "tokenizer_kwargs") if name in words]
    if others or words.get("vocab_size", _VOCABULARY) != _VOCABULARY:
        raise InputError(
            "this model does not read texts with CLIP's tokenizer; choose a model such as "
            "openclip:ViT-B-32."
        )
    if getattr(clip.model, "logit_bias", None) is not None:
        raise InputError("this model is a SigLIP, not a CLIP; choose another one.")
    text = TextEncoder(clip.model)
    visual: Any = clip.model.visual
    scale = float(clip.model.logit_scale.detach().exp())  # type: ignore
    classifier = zero_shot(visual, text, tokenizer(), names, templates, scale=scale)
    assert isinstance(classifier.head.words, Words)
    record = {
        "clip": clip.config,
        "templates": len(templates),
        "sizes": list(classifier.head.words.sizes),
    }
    return classifier.eval(), f"openclip:{json.dumps(record, sort_keys=True)}"


def untrained_texts(image: nn.Module, dim: int, classes: int) -> Classifier:
    """An image encoder with a small random text encoder of CLIP's kind, for counting costs.

    ```python
    classifier = untrained_texts(classifier.encoder, classifier.feature_dim, 10)
    ```

    Args:
        image: The image encoder; shared.
        dim: Number of its features.
        classes: Number of classes, named by their numbers.

    Raises:
        InputError: open_clip is missing.
    """
    tower = _library().transformer.TextTransformer(width=192, heads=3, layers=6, output_dim=dim)
    names = [f"class {number}" for number in range(classes)]
    text = TextEncoder(tower.requires_grad_(False).eval())
    return zero_shot(image, text, tokenizer(), names, TEMPLATES)


def construct(name: str, classes: int | None) -> Classifier:
    """Build a recorded classifier with random weights, and texts of zeros.

    Args:
        name: The name that `as_classifier` gave.
        classes: Number of class names.

    Raises:
        InputError: it is a name alone, or cannot be built.
    """
    recorded = name.removeprefix("openclip:")
    if not recorded.startswith("{"):
        raise InputError(
            f"{name} is no classifier without class names; make a bundle of it with acclimate "
            f"zero-shot."
        )
    try:
        record = json.loads(recorded)
        config, templates, sizes = record["clip"], int(record["templates"]), record["sizes"]
        dim, sizes = int(config["embed_dim"]), tuple(map(int, sizes))
        assert classes is not None and len(sizes) == 4 and min(*sizes, templates) >= 1
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        raise InputError(
            "the bundle's zero-shot classifier is damaged; restore the bundle from a good copy."
        ) from error
    model = build_clip(config)
    words = Words(TextEncoder(model), classes, sizes)
    return Classifier(model.visual, ZeroShotHead(templates, classes, dim, words))  # type: ignore


def _config(name: str) -> dict[str, Any]:
    library = _library()
    if name not in library.list_models():
        raise unknown_name("model", f"openclip:{name}", [f"openclip:{n}" for n in _near(name)])
    return library.get_model_config(name)


def _near(name: str) -> list[str]:
    import difflib

    known = _library().list_models()
    lower = {each.lower().replace("_", "-"): each for each in known}
    close = difflib.get_close_matches(name.lower().replace("_", "-"), lower, n=8, cutoff=0)
    return [lower[each] for each in close]


def _load(model: nn.Module, tensors: dict[str, Tensor], where: str) -> None:
    """Load tensors that have the model's own names."""
    try:
        model.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        reason = str(error).partition("\n")[2].strip().partition("\n")[0][:200]
        raise InputError(
            f"the weights in {where} do not fit its config.json ({reason}); copy the folder again."
        ) from error


def _library() -> Any:
    try:
        return import_module("open_clip")
    except ImportError as error:
        raise InputError(
            "zero-shot classifiers need open_clip; install it with pip install acclimate[clip]."
        ) from error
