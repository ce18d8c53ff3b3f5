"""The preprocessing that a network was trained with, as its own library states it."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from acclimate.backbones import clip, processor
from acclimate.backbones.processor import read_processor
from acclimate.errors import InputError
from acclimate.preprocessing import Preprocessing
from acclimate.resizing import Interpolation, Side


class Stated(NamedTuple):
    """A preprocessing, and who says so."""

    preprocessing: Preprocessing
    origin: str
    """Where it is written, as the end of "from ...": ``"timm's pretrained_cfg"``."""


def preprocessing_of(model: nn.Module | str) -> Stated | None:
    """The preprocessing that a network's library states for its published weights.

    timm states it in ``pretrained_cfg``, torchvision in ``transforms()`` of the default weights,
    and transformers in ``preprocessor_config.json`` beside the weights. Nothing is downloaded.

    ```python
    preprocessing_of("torchvision:resnet50").preprocessing.resize  # 232
    ```

    Args:
        model: A name as for `acclimate.build`, or a network. A torchvision network does not know
            its weights and states nothing.

    Returns:
        None if nothing is stated, as for ``acclimate:`` networks, those of one's own, and folders
        without ``preprocessor_config.json``.

    Raises:
        InputError: the statement cannot be read, or says what `Preprocessing` cannot do.
    """
    if isinstance(model, nn.Module):
        return _of_network(model)
    library, _, name = model.partition(":")
    if library == "timm":
        return _of_timm_name(name)
    if library == "torchvision":
        return _of_torchvision_name(name)
    if library in ("openclip", "hf-clip"):
        if library == "openclip" or not (Path(name) / processor.FILE).is_file():
            return Stated(clip.usual_preprocessing(model), "CLIP's transforms")
        return Stated(read_processor(Path(name)), f"{name}/{processor.FILE}")
    if library == "hf":
        if not Path(name).is_dir():
            raise InputError(f"there is no folder {name}; models are not downloaded.")
        if not (Path(name) / processor.FILE).is_file():
            return None
        return Stated(read_processor(Path(name)), f"{name}/{processor.FILE}")
    return None


def default_preprocessing(
    model: nn.Module | str, channels: int, height: int, width: int
) -> Preprocessing:
    """What is stated, as far as it fits images in memory; otherwise their size, as ImageNet's.

    The stated size is not taken for images that are smaller: a network is more often trained on
    small images than used on enlarged ones.

    ```python
    default_preprocessing(network, 3, 32, 32).size  # 32
    ```

    Args:
        model: As for `preprocessing_of`.
        channels: Channels of the images. If another number is stated, the average of the stated
            means and standard deviations is taken for each channel.
        height: Height of the images in pixels.
        width: Width of the images in pixels.
    """
    stated = preprocessing_of(model)
    found = Preprocessing((height, width)) if stated is None else stated.preprocessing
    if height < found.height or width < found.width:
        found = Preprocessing((height, width), found.mean, found.std)
    return for_channels(found, channels)


def changed_preprocessing(
    base: Preprocessing,
    *,
    size: Side | None = None,
    resize: Side | None = None,
    interpolation: Interpolation | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> Preprocessing:
    """Replace parts of a preprocessing.

    ```python
    changed_preprocessing(stated.preprocessing, size=288, resize=320)
    ```

    Args:
        base: What is changed.
        size: Height and width of the input. Without ``resize`` images are then resized to cover
            just this.
        resize: A number for the shorter side, or height and width to stretch images to.
        interpolation: As in `Preprocessing`.
        mean: Mean of each channel.
        std: Standard deviation of each channel.

    Raises:
        InputError: as `Preprocessing`.
    """
    if mean is not None or std is not None:
        base = for_channels(base, len(mean or std or ()))
        base = replace(base, mean=mean or base.mean, std=std or base.std)
    if size is not None:
        base = replace(base, size=size, resize=None, mode="crop")
    if resize is not None:
        base = replace(base, resize=resize, mode="crop" if isinstance(resize, int) else "squash")
    if interpolation is not None:
        base = replace(base, interpolation=interpolation)
    return base


def for_channels(base: Preprocessing, channels: int) -> Preprocessing:
    """The preprocessing for another number of channels, each with the average mean and std."""
    if channels == base.channels:
        return base
    mean, std = (sum(each) / len(each) for each in (base.mean, base.std))
    return replace(base, mean=(mean,) * channels, std=(std,) * channels)


def _of_network(network: nn.Module) -> Stated | None:
    for name in ("_orig_mod", "module", "encoder"):  # torch.compile, DataParallel, Classifier
        inner = getattr(network, name, None)
        if isinstance(inner, nn.Module) and (found := _of_network(inner)) is not None:
            return found
    config = getattr(network, "pretrained_cfg", None)
    if isinstance(config, dict) and config.get("input_size"):
        return _of_timm_config(config, getattr(network, "patch_embed", None))
    folder = getattr(getattr(network, "config", None), "name_or_path", None)
    if isinstance(folder, str) and folder and (Path(folder) / processor.FILE).is_file():
        return preprocessing_of(f"hf:{folder}")
    return None


def _of_timm_name(name: str) -> Stated | None:
    import timm

    config = timm.get_pretrained_cfg(name)
    return None if config is None else _of_timm_config(config.to_dict())


def _of_timm_config(config: dict[str, Any], patches: nn.Module | None = None) -> Stated:
    from timm.data.config import resolve_data_config

    found = resolve_data_config(pretrained_cfg=config)
    # A transformer built for another size knows it, but its configuration does not.
    built_for = getattr(patches, "img_size", None)
    height, width = built_for if isinstance(built_for, tuple) else found["input_size"][-2:]
    mode = {"center": "crop"}.get(found["crop_mode"], found["crop_mode"])
    resize = tuple(math.floor(side / found["crop_pct"]) for side in (height, width))
    preprocessing = Preprocessing(
        (height, width),
        found["mean"],
        found["std"],
        resize=resize,
        mode=mode,  # type: ignore - checked there
        interpolation=found["interpolation"],
    )
    return Stated(preprocessing, "timm's pretrained_cfg")


def _of_torchvision_name(name: str) -> Stated | None:
    from torchvision import models

    if name not in models.list_models(module=models):
        return None
    weights = models.get_model_weights(name).DEFAULT  # type: ignore
    preset = weights.transforms()
    preprocessing = Preprocessing(
        preset.crop_size[0],
        preset.mean,
        preset.std,
        resize=preset.resize_size[0],
        interpolation=preset.interpolation.value,
    )
    return Stated(preprocessing, f"torchvision's {weights}")
