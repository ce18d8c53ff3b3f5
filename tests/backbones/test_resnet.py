import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from acclimate.backbones import Classifier, build, preact_resnet, resnet, resnet50
from acclimate.backbones.resnet import PooledShortcut, PostActivationBlock
from acclimate.errors import InputError

FAMILIES = [resnet, preact_resnet]


def modules_of(model, kind):
    return [module for module in model.modules() if isinstance(module, kind)]


def expected_parameters(depth, width, classes, *, projection):
    """Counted layer by layer from the papers' description; every norm has a scale and a shift."""
    count, channels = 3 * width * 9, width
    if projection:
        count += 2 * width
    for stage in (width, 2 * width, 4 * width):
        for _ in range((depth - 2) // 6):
            count += 9 * channels * stage + 9 * stage * stage
            count += (4 * stage) if projection else (2 * channels + 2 * stage)
            if projection and channels != stage:
                count += channels * stage + 2 * stage
            channels = stage
    if not projection:
        count += 2 * channels
    return count + channels * classes + classes


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("depth", "width"), [(8, 8), (14, 32), (26, 16)])
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_parameters_depth_and_shapes(family, depth, width, norm):
    model = family(depth, classes=7, width=width, norm=norm)
    assert isinstance(model, Classifier)
    assert (model.feature_dim, model.num_classes) == (4 * width, 7)
    convolutions = [c for c in modules_of(model, nn.Conv2d) if c.kernel_size == (3, 3)]
    assert len(convolutions) + 1 == depth
    assert sum(p.numel() for p in model.parameters()) == expected_parameters(
        depth, width, 7, projection=family is resnet
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [28, 30, 32, 64])
def test_features_at_every_size(family, size):
    model = family(8, classes=3, width=8).eval()
    images = torch.randn(2, 3, size, size)
    features = model.encoder(images)
    assert features.shape == (2, 32)
    assert torch.equal(model.head(features), model(images))
    third = size
    for _ in range(2):
        third = (third + 1) // 2
    stages = model.encoder.stages(model.encoder.stem(images))
    assert stages.shape == (2, 32, third, third)


def test_norms_do_not_mix():
    for family in FAMILIES:
        grouped = family(14, classes=3, norm="group")
        assert not modules_of(grouped, nn.modules.batchnorm._BatchNorm)
        assert {norm.num_groups for norm in modules_of(grouped, nn.GroupNorm)} == {8}
        batch = family(14, classes=3, norm="batch")
        assert modules_of(batch, nn.BatchNorm2d) and not modules_of(batch, nn.GroupNorm)
    assert modules_of(preact_resnet(26, classes=3), nn.GroupNorm)
    assert modules_of(resnet(26, classes=3), nn.BatchNorm2d)


def test_group_norm_answers_one_image_as_in_a_batch():
    model = preact_resnet(8, classes=3).train()
    images = torch.randn(4, 3, 32, 32)
    torch.testing.assert_close(model(images)[2:3], model(images[2:3]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(6, 4), (7, 5)])
def test_pooled_shortcut_equals_a_plain_loop(size):
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    rows, columns = -(-size[0] // 2), -(-size[1] // 2)
    expected = np.zeros((2, 8, rows, columns))
    for image in range(2):
        for channel in range(3):
            for row in range(rows):
                for column in range(columns):
                    pixels = [
                        images[image, channel, y, x].item()
                        for y in range(2 * row, min(2 * row + 2, size[0]))
                        for x in range(2 * column, min(2 * column + 2, size[1]))
                    ]
                    expected[image, channel, row, column] = sum(pixels) / len(pixels)
    np.testing.assert_allclose(PooledShortcut(5, 2)(images).numpy(), expected, rtol=1e-12)


def test_preactivation_network_equals_its_equations():
    model = preact_resnet(8, classes=3, width=8, norm="batch").eval()
    images = torch.randn(2, 3, 16, 16)
    x = model.encoder.stem(images)
    for (block,) in model.encoder.stages:
        residual = block.conv1(block.norm1(x).clamp(min=0))
        residual = block.conv2(block.norm2(residual).clamp(min=0))
        x = block.shortcut(x) + residual
    features = model.encoder.tail[0](x).clamp(min=0).mean((2, 3))
    torch.testing.assert_close(model.encoder(images), features)


def test_post_activation_blocks_start_as_their_shortcut():
    model = resnet(14, classes=3)
    x = torch.randn(2, 16, 8, 8)
    for block in model.encoder.stages[0]:
        assert isinstance(block, PostActivationBlock)
        assert torch.equal(block(x), x.clamp(min=0))
    down = model.encoder.stages[1][0]
    assert torch.equal(down(x), down.shortcut(x).clamp(min=0))


def test_convolutions_start_with_kaiming_fan_out():
    torch.manual_seed(0)
    for model in (resnet(8, classes=3, width=64), preact_resnet(8, classes=3, width=64)):
        for conv in modules_of(model.encoder.stages, nn.Conv2d):
            fan_out = conv.out_channels * conv.kernel_size[0] ** 2
            assert conv.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)


def test_every_parameter_gets_a_gradient():
    for model in (resnet(8, classes=3), preact_resnet(8, classes=3)):
        model(torch.randn(4, 3, 16, 16)).square().sum().backward()
        assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize(("stem", "resolution"), [("cifar", 32), ("imagenet", 8)])
def test_resnet50_stems(stem, resolution):
    model = resnet50(classes=5, stem=stem).eval()
    seen = []
    model.encoder.layer1.register_forward_hook(lambda *args: seen.append(args[2].shape))
    with torch.no_grad():
        assert model(torch.randn(1, 3, 32, 32)).shape == (1, 5)
    assert seen == [(1, 256, resolution, resolution)]
    # 49 convolutions and the head, and four projections that the name does not count.
    assert len(modules_of(model, nn.Conv2d)) == 49 + 4
    # 25,557,032 is ResNet-50 with 1000 classes; the CIFAR stem has 27 weights a filter, not 147.
    smaller = 64 * (147 - 27) if stem == "cifar" else 0
    assert sum(p.numel() for p in model.parameters()) == 25_557_032 - 995 * 2049 - smaller


@pytest.mark.parametrize("depth", [2, 7, 27, -4, 1208])
def test_bad_depth(depth):
    for family in FAMILIES:
        with pytest.raises(InputError, match=rf"6n \+ 2 .* not {depth}"):
            family(depth, classes=3)


def test_bad_width():
    for width in (0, 3, 513):
        with pytest.raises(InputError, match=f"4 to 512 channels, not {width}"):
            resnet(14, classes=3, width=width)
    with pytest.raises(InputError, match="multiple of 8, not 12"):
        resnet(14, classes=3, width=12, norm="group")
    assert resnet(8, classes=3, width=12).feature_dim == 48


class Layouts(TorchDispatchMode):
    """Names the operations that are given feature maps in different layouts, which are slow."""

    def __init__(self):
        super().__init__()
        self.mixed = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        maps = [x for x in args if isinstance(x, torch.Tensor) and x.dim() == 4 and x.shape[2] > 1]
        if len({x.is_contiguous(memory_format=torch.channels_last) for x in maps}) > 1:
            self.mixed.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["resnet14-w16", "resnet14-w16-gn", "preact14-w16"])
def test_gradients_keep_channels_last(name):
    model = build(f"acclimate:{name}", classes=3).to(memory_format=torch.channels_last)
    images = torch.randn(4, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    loss = model(images).logsumexp(1).sum()
    with Layouts() as layouts:
        loss.backward()
    assert not layouts.mixed
