import re

import pytest
import torch
from torch import nn

from acclimate.backbones import as_map, build, resolve_tap, split, stage_names, tapped
from acclimate.errors import InputError

OWN = ["stages.0", "stages.1", "stages.2"]
RESNET = ["layer1", "layer2", "layer3", "layer4"]
CASES = [
    ("acclimate:resnet14-w32", 32, OWN),
    ("acclimate:resnet8-w8-gn", 16, OWN),
    ("acclimate:preact26", 32, OWN),
    ("acclimate:resnet50-cifar", 16, RESNET),
    ("acclimate:vit2-w32-p4", 16, ["blocks.0", "blocks.1"]),
    ("torchvision:resnet18", 32, RESNET),
    ("torchvision:mobilenet_v3_small", 32, [f"features.{n}" for n in (0, 1, 3, 8, 12)]),
    ("timm:resnet18", 32, RESNET),
    ("timm:resnet26", 32, RESNET),
    ("timm:convnext_atto", 32, ["stages.0", "stages.1", "stages.2", "stages.3"]),
    ("timm:vit_tiny_patch16_224", 224, [f"blocks.{n}" for n in range(12)]),
]
SLOW_CASES = [
    ("torchvision:resnet50", 224, RESNET),
    ("torchvision:convnext_tiny", 32, [f"features.{n}" for n in (1, 3, 5, 7)]),
    ("torchvision:vgg11", 32, [f"features.{n}" for n in (1, 4, 9, 14, 19)]),
    ("torchvision:densenet121", 32, [f"features.denseblock{n}" for n in (1, 2, 3, 4)]),
    ("torchvision:vit_b_32", 224, [f"encoder.layers.encoder_layer_{n}" for n in range(12)]),
    ("torchvision:inception_v3", 128, ["Mixed_5d", "Mixed_6e", "Mixed_7c"]),
    ("timm:mobilevit_xxs", 64, ["stages.0", "stages.1", "stages.2", "stages.3", "final_conv"]),
]


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    CASES + [pytest.param(*case, marks=pytest.mark.slow) for case in SLOW_CASES],
)
@pytest.mark.filterwarnings("ignore")
def test_stages(name, size, expected):
    encoder = split(build(name, classes=3)).encoder
    names = stage_names(encoder, size)
    assert names[-len(expected) :] == expected
    assert names == expected or name == "torchvision:inception_v3"  # with a stem of many layers


def test_a_stage_ends_where_the_next_resolution_begins():
    encoder = split(build("timm:resnet18", classes=3)).encoder.eval()
    maps = tapped(encoder, stage_names(encoder, 64), torch.randn(1, 3, 64, 64))
    assert [features.shape[1:] for features in maps] == [
        (64, 16, 16),
        (128, 8, 8),
        (256, 4, 4),
        (512, 2, 2),
    ]


def test_single_layers_count_where_there_is_nothing_larger():
    def features(*last):
        return nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 8, 3, padding=1),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            *last,
        )

    assert stage_names(features(), 16) == ["2", "6"]
    assert stage_names(nn.Sequential(nn.Sequential(features())), 16) == ["0.0.2", "0.0.6"]


def test_a_wrapped_network_has_the_stages_of_the_network_inside():
    encoder = build("acclimate:resnet8-w8", classes=3).encoder
    wrapped = nn.Sequential(encoder, nn.Linear(32, 32))
    assert stage_names(wrapped, 16) == [f"0.{name}" for name in OWN]


def test_branches_of_a_block_are_no_stages():
    class Inception(nn.Module):
        def __init__(self, channels_in):
            super().__init__()
            self.narrow = nn.Sequential(nn.Conv2d(channels_in, 4, 1), nn.ReLU())
            self.slow = nn.Sequential(nn.Conv2d(4, 4, 3, 2, 1), nn.ReLU())
            self.fast = nn.Sequential(nn.Conv2d(channels_in, 4, 3, 2, 1), nn.ReLU())

        def forward(self, x):
            return torch.cat([self.slow(self.narrow(x)), self.fast(x)], dim=1)

    network = nn.Sequential(Inception(3), Inception(8), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert stage_names(network, 16) == ["0", "1"]


def test_a_network_without_stages():
    assert stage_names(nn.Sequential(nn.Flatten(), nn.Linear(48, 4)), 4) == []
    with pytest.raises(InputError, match="no stages"):
        resolve_tap(nn.Sequential(nn.Flatten(), nn.Linear(48, 4)), 1, 4)


def test_watching_leaves_no_trace():
    encoder = build("acclimate:resnet8-w8", classes=3).encoder.train()
    encoder.stages[1].eval()
    modes = [module.training for module in encoder.modules()]
    state = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    generator = torch.get_rng_state()
    stage_names(encoder, 16)
    assert torch.equal(torch.get_rng_state(), generator)
    assert [module.training for module in encoder.modules()] == modes
    assert all(torch.equal(tensor, state[name]) for name, tensor in encoder.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in encoder.modules())


def test_taps_by_number_and_by_name():
    encoder = build("acclimate:resnet8-w8", classes=3).encoder
    assert [resolve_tap(encoder, number, 16) for number in (1, 2, 3)] == OWN
    assert resolve_tap(encoder, "stages.0.0.conv2", 16) == "stages.0.0.conv2"


@pytest.mark.parametrize("number", [0, 4, -1])
def test_a_number_out_of_range_lists_the_stages(number):
    encoder = build("acclimate:resnet8-w8", classes=3).encoder
    listed = r"1 \(stages\.0\), 2 \(stages\.1\), 3 \(stages\.2\)"
    with pytest.raises(InputError, match=f"no stage {number}; choose one of {listed}"):
        resolve_tap(encoder, number, 16)


def test_an_unknown_name_gets_a_short_answer():
    encoder = split(build("timm:resnet26", classes=3)).encoder
    for name, hint in (("layer5", "did you mean layer"), ("", "choose one of")):
        with pytest.raises(InputError, match=f"unknown layer '{name}': {hint}") as caught:
            resolve_tap(encoder, name, 32)
        assert len(str(caught.value)) < 300


def test_images_that_the_network_does_not_take():
    encoder = build("acclimate:vit2-w32-p4", classes=3).encoder
    with pytest.raises(InputError, match=re.escape("does not accept images of 18x18 pixels")):
        stage_names(encoder, 18)


def test_maps():
    maps = torch.randn(2, 5, 3, 4)
    assert as_map(maps) is maps
    tokens = torch.randn(2, 7, 5)
    columns = as_map(tokens)
    assert columns.shape == (2, 5, 7, 1)
    for token in range(7):
        assert torch.equal(columns[:, :, token, 0], tokens[:, token])
    with pytest.raises(InputError, match=r"shape \[2, 5\] have no positions"):
        as_map(torch.randn(2, 5))
