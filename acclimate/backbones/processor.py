"""The preprocessing that a Hugging Face folder states in its ``preprocessor_config.json``."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from acclimate.errors import InputError
from acclimate.preprocessing import Preprocessing
from acclimate.resizing import Side

FILE = "preprocessor_config.json"
_SHAPES = ((61, 37), (45, 128), (400, 301))
_OTHERWISE = "give the preprocessing yourself (--size, --resize, --resample, --mean, --std)"


def read_processor(folder: Path) -> Preprocessing:
    """What transformers' image processor of a folder does, the slow one that uses Pillow.

    The result is compared with the processor's own on generated images, because a processor may do
    more than its settings say.

    ```python
    read_processor(Path("my-vit"))
    ```

    Raises:
        InputError: the folder has no such file, transformers is missing or cannot read it, or the
            processor does what `Preprocessing` cannot.
    """
    if not (folder / FILE).is_file():
        raise InputError(f"{folder} has no {FILE}; {_OTHERWISE}.")
    try:
        processor = _processor(folder)
        preprocessing = of_processor(processor)
        _compare(preprocessing, processor)
    except InputError:
        raise
    except Exception as error:  # transformers does not check the values in the file
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise InputError(
            f"transformers cannot use {folder / FILE} ({reason}); {_OTHERWISE}."
        ) from error
    return preprocessing


def of_processor(processor: Any) -> Preprocessing:
    """The preprocessing of a transformers image processor's settings.

    Raises:
        InputError: images would keep different sizes, or be padded to one.
    """
    settings = processor.to_dict()
    kind = settings.get("image_processor_type", type(processor).__name__)
    resize, mode = _resize(processor, settings) if settings.get("do_resize") else (None, "none")
    crop: Side | None = resize if mode == "squash" else None
    if settings.get("do_center_crop"):
        crop = _both(settings["crop_size"])
    if kind.startswith("ConvNext") and resize is not None:
        crop = _shortest(settings["size"])
    if crop is None:
        raise _unsupported(processor, "it gives images of different sizes")
    mean, std = _statistics(settings)
    return Preprocessing(
        crop,
        mean,
        std,
        resize=resize,
        mode=mode,  # type: ignore
        interpolation=Image.Resampling(settings.get("resample", 2)).name.lower(),  # type: ignore
        rounding="down",
    )


def _processor(folder: Path) -> Any:
    try:
        import transformers
    except ImportError as error:
        raise InputError(
            f"{folder / FILE} needs transformers: pip install 'acclimate[hf]'."
        ) from error
    # The argument's name changed; the old one is deprecated and warns.
    newer = int(transformers.__version__.split(".")[0]) >= 5
    slow = {"backend": "pil"} if newer else {"use_fast": False}
    return transformers.AutoImageProcessor.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False, **slow
    )


def _compare(preprocessing: Preprocessing, processor: Any) -> None:
    """Refuse a processor that gives other pixels for generated images."""
    for seed, (width, height) in enumerate(_SHAPES):
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
        image = Image.fromarray(pixels)
        expected = np.asarray(processor(images=image, return_tensors="np")["pixel_values"][0])
        if not _is_close(_normalized(preprocessing, image), expected):
            raise _unsupported(processor, "its result differs from what its settings say")


def _resize(processor: Any, settings: dict[str, Any]) -> tuple[Side, str]:
    """What images are resized to, and the mode."""
    size, kind = settings["size"], type(processor).__name__
    shortest = _shortest(size)
    if shortest is None:
        squashed = _both(size)
        if squashed is None:
            raise _unsupported(processor, f"its size is {dict(size)}")
        return squashed, "squash"
    if kind.startswith("ConvNext"):  # a crop below 384 pixels, and no crop from there on
        if shortest >= 384:
            return (shortest, shortest), "squash"
        return int(shortest / settings["crop_pct"]), "crop"
    if kind.startswith("Levit"):
        return int(256 / 224 * shortest), "crop"
    if settings.get("crop_pct"):  # PoolFormer
        return int(shortest / settings["crop_pct"]), "crop"
    return shortest, "crop"


def _shortest(size: Any) -> int | None:
    return None if size.get("longest_edge") else size.get("shortest_edge")


def _both(size: Any) -> tuple[int, int] | None:
    if size.get("height") and size.get("width"):
        return size["height"], size["width"]
    return None


def _statistics(settings: dict[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation for images in 0..1.

    With a factor f, a processor computes (255 f x - mean) / std.
    """
    factor = 255 * settings.get("rescale_factor", 1 / 255) if settings.get("do_rescale") else 255
    mean, std = [0.0] * 3, [1.0] * 3
    if settings.get("do_normalize"):
        mean, std = settings["image_mean"], settings["image_std"]
    if settings.get("rescale_offset"):  # EfficientNet: 255 f x - 1
        mean = [each + 1 for each in mean]
    if settings.get("include_top"):  # EfficientNet divides twice
        std = [each**2 for each in std]
    return tuple(each / factor for each in mean), tuple(each / factor for each in std)


def _normalized(preprocessing: Preprocessing, image: Image.Image) -> np.ndarray:
    pixels = np.asarray(preprocessing.crop(image), np.float64).transpose(2, 0, 1) / 255
    mean, std = (np.array(x)[:, None, None] for x in (preprocessing.mean, preprocessing.std))
    return (pixels - mean) / std


def _is_close(found: np.ndarray, expected: np.ndarray) -> bool:
    return found.shape == expected.shape and np.allclose(found, expected, rtol=1e-4, atol=1e-4)


def _unsupported(processor: Any, reason: str) -> InputError:
    return InputError(
        f"acclimate cannot repeat what transformers' {type(processor).__name__} does to images "
        f"({reason}); {_OTHERWISE}."
    )
