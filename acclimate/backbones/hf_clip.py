"""A CLIPModel of transformers, in the layout and with the names of open_clip.

Both compute the same. So there is one network to adapt and to record, whoever saved its weights.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from acclimate.backbones.checkpoint import read_checkpoint
from acclimate.backbones.huggingface import read_config
from acclimate.errors import InputError

_TOWERS = {"text_model.": "", "vision_model.": "visual."}
_NAMES = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "embeddings.class_embedding": "class_embedding",
    "embeddings.patch_embedding.weight": "conv1.weight",
    "final_layer_norm": "ln_final",
    "pre_layrnorm": "ln_pre",  # as transformers spells it
    "post_layernorm": "ln_post",
}
_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
_WHOLE = ("logit_scale", "text_projection.weight", "visual_projection.weight")


def config_of(folder: str) -> dict[str, Any]:
    """The configuration by which open_clip builds the model of a folder.

    ```python
    config_of("clip-vit-base-patch32")["embed_dim"]  # 512
    ```

    Raises:
        InputError: the folder is missing, is not of a CLIPModel, or open_clip has no such model.
    """
    record = read_config(folder)
    if record["model_type"] != "clip":
        raise InputError(
            f"{folder} holds a {record['model_type']!r}, not a CLIPModel; give the folder of one."
        )
    try:
        from transformers import CLIPConfig
    except ImportError as error:
        raise InputError(
            "hf-clip: needs transformers; install it with pip install acclimate[hf]."
        ) from error
    config: Any = CLIPConfig.from_dict(record)
    text, vision = config.text_config, config.vision_config
    activations = {text.hidden_act, vision.hidden_act}
    if activations not in ({"quick_gelu"}, {"gelu"}) or vision.num_channels != 3:
        raise InputError(
            f"{folder} has other activations or channels than CLIP; give another folder."
        )
    return {
        "embed_dim": config.projection_dim,
        "quick_gelu": activations == {"quick_gelu"},
        "vision_cfg": {
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            "head_width": vision.hidden_size // vision.num_attention_heads,
            **_sizes(vision),
        },
        "text_cfg": {
            "context_length": text.max_position_embeddings,
            "vocab_size": text.vocab_size,
            "heads": text.num_attention_heads,
            **_sizes(text),
        },
    }


def renamed(folder: Path, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights of a CLIPModel by open_clip's names, in its layout.

    Raises:
        InputError: the weights are missing or damaged.
    """
    entries = read_checkpoint(folder).entries
    given = max(entries.values(), key=len)
    found: dict[str, Tensor] = {}
    for name, tensor in given.items():
        found |= dict(_moved(name, tensor.float()))
    layers = {
        tower: config[part]["layers"]
        for tower, part in (("", "text_cfg"), ("visual.", "vision_cfg"))
    }
    for tower, count in layers.items():
        for number in range(count):
            start = f"{tower}transformer.resblocks.{number}.attn."
            for kind in ("weight", "bias"):
                parts = [found.pop(f"{start}{each}_proj.{kind}", None) for each in "qkv"]
                if all(part is not None for part in parts):
                    found[f"{start}in_proj_{kind}"] = torch.cat([p for p in parts if p is not None])
    return found


def _sizes(part: Any) -> dict[str, Any]:
    return {
        "width": part.hidden_size,
        "layers": part.num_hidden_layers,
        "mlp_ratio": part.intermediate_size / part.hidden_size,
        "norm_kwargs": {"eps": part.layer_norm_eps},
    }


def _moved(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """A tensor by open_clip's name; nothing for what open_clip does not keep."""
    if name in _WHOLE:
        place = {"visual_projection.weight": "visual.proj", _WHOLE[1]: "text_projection"}
        yield place.get(name, name), tensor if name == "logit_scale" else tensor.T.contiguous()
        return
    if name.endswith("position_ids"):
        return
    tower = next((each for each in _TOWERS if name.startswith(each)), "")
    inner, new = name.removeprefix(tower), _TOWERS.get(tower, "")
    if match := re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", inner):
        number, layer, kind = match.groups()
        layer = _LAYER.get(layer, layer.replace("self_attn.", "attn."))
        yield f"{new}transformer.resblocks.{number}.{layer}.{kind}", tensor
        return
    for old, short in _NAMES.items():
        if inner.startswith(old):
            yield new + short + inner.removeprefix(old), tensor
            return
    yield name, tensor
