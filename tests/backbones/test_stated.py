import json

import pytest
import timm
import torch
from photographs import photographs
from torch import nn
from torchvision import models

from acclimate.backbones import preprocessing_of, split
from acclimate.backbones.stated import changed_preprocessing, default_preprocessing
from acclimate.data import load_images
from acclimate.errors import InputError
from acclimate.preprocessing import Preprocessing

transformers = pytest.importorskip("transformers")

PHOTOGRAPHS = photographs()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    for number, image in enumerate(PHOTOGRAPHS):
        image.save(folder / f"{number}.png")
    return folder


def check_equal(preprocessing, transform, folder, cache):
    """What reaches the network from a folder equals a library's own transform of each picture."""
    images = load_images(folder, size=preprocessing, cache=cache).images
    found = preprocessing(images)
    assert len(found) == len(PHOTOGRAPHS)
    for image, inputs in zip(PHOTOGRAPHS, found):
        expected = torch.as_tensor(transform(image))
        torch.testing.assert_close(inputs, expected, rtol=1e-5, atol=1e-5)


def stub(**config):
    """A network of timm, as far as its preprocessing is concerned."""
    network = nn.Identity()
    network.pretrained_cfg = {
        "input_size": (3, 48, 48),
        "interpolation": "bicubic",
        "crop_pct": 0.875,
        "crop_mode": "center",
        "mean": (0.5, 0.4, 0.3),
        "std": (0.2, 0.3, 0.1),
        **config,
    }
    return network


CONFIGS = {
    "centre": {},
    "bilinear": {"interpolation": "bilinear", "crop_pct": 0.9},
    "lanczos": {"interpolation": "lanczos"},
    "whole": {"crop_pct": 1.0},
    "smaller than the crop": {"crop_pct": 1.15},
    "squashed": {"crop_mode": "squash", "crop_pct": 0.95},
    "border": {"crop_mode": "border", "crop_pct": 1.0},
    "odd": {"input_size": (3, 47, 47), "crop_pct": 0.887},
    "not square": {"input_size": (3, 64, 48), "crop_pct": 0.9},
    "not square and squashed": {"input_size": (3, 32, 48), "crop_mode": "squash"},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_timms_pipelines(name):
    network = stub(**CONFIGS[name])
    config = timm.data.resolve_data_config(model=network)
    transform = timm.data.create_transform(**config, is_training=False)
    if name == "not square" and "bilinear" in str(transform):
        pytest.skip("older versions of timm forget the interpolation here")
    photographs = PHOTOGRAPHS
    if name in ("border", "not square"):  # timm itself fails for a side that is rounded to 0
        photographs = [image for image in photographs if min(image.size) > 1]
    preprocessing = preprocessing_of(network).preprocessing
    for image in photographs:
        pixels = torch.tensor(list(preprocessing.crop(image).tobytes()), dtype=torch.uint8)
        found = preprocessing(pixels.view(1, *preprocessing.shape).permute(0, 3, 1, 2))[0]
        torch.testing.assert_close(found, transform(image), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "tf_efficientnet_lite0",
        "vit_small_patch16_dinov3.lvd1689m",
        "resnet50.tv_in1k",
        "beit_base_patch16_224",
        "vit_base_patch16_clip_224.openai",
    ],
)
def test_named_timm_networks_see_timms_pixels(name, folder, tmp_path):
    if not timm.is_model(name.split(".")[0]):
        pytest.skip("this timm does not know it yet")
    found = preprocessing_of(f"timm:{name}")
    config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    transform = timm.data.create_transform(**config, is_training=False)
    check_equal(found.preprocessing, transform, folder, tmp_path)
    assert found.origin == "timm's pretrained_cfg"


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "efficientnet_b0", "vit_b_16"])
def test_named_torchvision_networks_see_torchvisions_pixels(name, folder, tmp_path):
    found = preprocessing_of(f"torchvision:{name}")
    weights = models.get_model_weights(name).DEFAULT
    check_equal(found.preprocessing, weights.transforms(), folder, tmp_path)
    assert found.origin == f"torchvision's {weights}"


SIDE = {"height": 48, "width": 48}
PROCESSORS = {
    "squashed": ("ViT", {"size": 48}),
    "nearest": ("ViT", {"size": 48, "resample": 0}),
    "squashed, then cropped": ("DeiT", {"size": {"height": 57, "width": 57}, "crop_size": SIDE}),
    "not square": ("ViT", {"size": {"height": 32, "width": 48}}),
    "shortest edge": ("CLIP", {"size": {"shortest_edge": 60}, "crop_size": SIDE}),
    "odd margins": ("CLIP", {"size": {"shortest_edge": 57}, "crop_size": SIDE}),
    "smaller than the crop": ("CLIP", {"size": {"shortest_edge": 43}, "crop_size": SIDE}),
    "ConvNeXt's crop": ("ConvNext", {"size": {"shortest_edge": 224}, "crop_pct": 0.875}),
    "ConvNeXt without crop": ("ConvNext", {"size": {"shortest_edge": 384}}),
    "LeViT": ("Levit", {"size": {"shortest_edge": 42}, "crop_size": SIDE}),
    "PoolFormer": ("PoolFormer", {"size": {"shortest_edge": 48}, "crop_size": SIDE}),
    "EfficientNet": ("EfficientNet", {"size": SIDE, "rescale_offset": True}),
    "EfficientNet, divided once": ("EfficientNet", {"size": SIDE, "include_top": False}),
    "no normalisation": ("ViT", {"size": 48, "do_normalize": False}),
    "no rescaling": ("ViT", {"size": 48, "do_rescale": False, "image_mean": [99.0] * 3}),
    "another factor": ("ViT", {"size": 48, "rescale_factor": 1 / 127.5}),
    "no resizing": ("DeiT", {"do_resize": False, "crop_size": SIDE}),
}


def save_processor(folder, kind, settings):
    getattr(transformers, f"{kind}ImageProcessor")(**settings).save_pretrained(folder)
    return folder


def processor_of(folder, backend):
    newer = int(transformers.__version__.split(".")[0]) >= 5
    said = {"backend": backend} if newer else {"use_fast": backend != "pil"}
    return transformers.AutoImageProcessor.from_pretrained(folder, **said)


@pytest.mark.parametrize("name", PROCESSORS)
def test_processors_of_transformers(name, folder, tmp_path):
    save_processor(tmp_path / "model", *PROCESSORS[name])
    processor = processor_of(tmp_path / "model", "pil")
    found = preprocessing_of(f"hf:{tmp_path / 'model'}").preprocessing
    check_equal(
        found,
        # A picture of one pixel would be taken for one with its channels first.
        lambda image: processor(image, return_tensors="pt", input_data_format="channels_last")[
            "pixel_values"
        ][0],
        folder,
        tmp_path,
    )


def test_the_fast_processor_differs_by_rounding(tmp_path):
    """Pillow's arithmetic is taken; torchvision's differs by at most two of 255 levels."""
    save_processor(tmp_path, "ViT", {"size": 48, "image_mean": [0.0] * 3, "image_std": [1.0] * 3})
    fast = processor_of(tmp_path, "torchvision")
    preprocessing = preprocessing_of(f"hf:{tmp_path}").preprocessing
    for image in PHOTOGRAPHS:
        expected = fast(image, return_tensors="pt")["pixel_values"][0]
        pixels = torch.tensor(list(preprocessing.crop(image).tobytes())).view(48, 48, 3)
        torch.testing.assert_close(
            pixels.permute(2, 0, 1).float(), 255 * expected.float(), rtol=0, atol=2
        )


def test_an_old_processor_with_an_integer_size(tmp_path):
    """As written before sizes were mappings."""
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps(
            {
                "feature_extractor_type": "ViTFeatureExtractor",
                "image_processor_type": "ViTImageProcessor",
                "size": 40,
                "do_resize": True,
                "do_normalize": True,
                "image_mean": [0.5, 0.5, 0.5],
                "image_std": [0.5, 0.5, 0.5],
                "resample": 2,
            }
        )
    )
    found = preprocessing_of(f"hf:{tmp_path}").preprocessing
    assert (found.size, found.mode, found.resize) == (40, "squash", 40)


@pytest.mark.parametrize(
    "kind, settings, message",
    [
        ("MobileViT", {}, "its result differs from what its settings say"),  # swaps the channels
        ("ViT", {"size": {"shortest_edge": 48}}, "images of different sizes"),
        ("CLIP", {"size": {"shortest_edge": 48, "longest_edge": 99}}, "its size is"),
    ],
)
def test_processors_that_cannot_be_repeated(kind, settings, message, tmp_path):
    save_processor(tmp_path, kind, settings)
    with pytest.raises(InputError, match=message):
        preprocessing_of(f"hf:{tmp_path}")


NONSENSE = '{"image_processor_type": "ViTImageProcessor", "size": 8, "image_mean": ["x"]}'


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"image_processor_type": "No"}', NONSENSE])
def test_unreadable_processors(content, tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(content)
    with pytest.raises(InputError, match=r"preprocessor_config.json"):
        preprocessing_of(f"hf:{tmp_path}")


def test_a_folder_without_a_processor(tmp_path):
    assert preprocessing_of(f"hf:{tmp_path}") is None
    with pytest.raises(InputError, match=r"no folder .*models are not downloaded"):
        preprocessing_of(f"hf:{tmp_path / 'elsewhere'}")


def test_a_module_of_transformers_finds_its_folder(tmp_path):
    config = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8,
        image_size=48, patch_size=16,
    )  # fmt: skip
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path)
    save_processor(tmp_path, "ViT", {"size": 48})
    network = transformers.ViTForImageClassification.from_pretrained(tmp_path)
    assert preprocessing_of(network).preprocessing.size == 48


def test_modules_of_timm_state_it_wherever_they_are():
    network = timm.create_model("resnet18", num_classes=3)
    expected = preprocessing_of("timm:resnet18")
    assert preprocessing_of(network) == expected
    assert preprocessing_of(split(network)) == expected
    assert preprocessing_of(nn.DataParallel(network)) == expected
    assert preprocessing_of(torch.compile(network)) == expected


def test_a_transformer_built_for_another_size_takes_it():
    network = timm.create_model("vit_tiny_patch16_224", img_size=64)
    found = preprocessing_of(network).preprocessing
    assert (found.size, found.resize, found.interpolation) == (64, 71, "bicubic")


@pytest.mark.parametrize("model", ["acclimate:resnet14-w32", nn.Linear(2, 2), "mine.py:make"])
def test_others_state_nothing(model):
    assert preprocessing_of(model) is None


def test_the_default_keeps_small_images():
    found = default_preprocessing(stub(), 3, 32, 32)
    assert found == Preprocessing(32, (0.5, 0.4, 0.3), (0.2, 0.3, 0.1))
    assert default_preprocessing(stub(), 3, 60, 50).resize == 54
    assert default_preprocessing(nn.Identity(), 3, 60, 50) == Preprocessing((60, 50))


def test_another_number_of_channels_gets_the_average():
    found = default_preprocessing(stub(), 1, 60, 50)
    assert found.mean == pytest.approx((0.4,)) and found.std == pytest.approx((0.2,))
    assert default_preprocessing(stub(), 4, 60, 50).channels == 4


def test_changes_follow_each_other():
    base = preprocessing_of(stub()).preprocessing
    assert changed_preprocessing(base) == base
    small = changed_preprocessing(base, size=32)
    assert (small.size, small.resize, small.mode) == (32, None, "crop")
    assert small.interpolation == "bicubic" and small.mean == base.mean
    assert changed_preprocessing(base, size=32, resize=40).resize == 40
    squashed = changed_preprocessing(base, resize=(48, 48))
    assert (squashed.mode, squashed.size) == ("squash", 48)
    grey = changed_preprocessing(base, mean=(0.3,))
    assert grey.mean == (0.3,) and grey.std == pytest.approx((0.2,))
