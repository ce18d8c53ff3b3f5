import copy

import pytest
import torch
from torch import nn

from acclimate.backbones import build, rest_after, split, stage_names, tapped
from acclimate.errors import InputError

CASES = [
    ("acclimate:resnet14-w16", 32),
    ("acclimate:resnet8-w8-gn", 16),
    ("acclimate:preact8", 16),
    ("acclimate:vit3-w32-p4", 16),
    ("torchvision:resnet18", 32),
    ("torchvision:mobilenet_v3_small", 32),
    ("timm:resnet18", 32),
    ("timm:convnext_atto", 32),
]
SLOW_CASES = [
    ("acclimate:resnet50-cifar", 16),
    ("torchvision:convnext_tiny", 32),
    ("torchvision:densenet121", 64),
    ("torchvision:vgg11", 32),
    ("torchvision:vit_b_32", 224),
    ("torchvision:swin_t", 32),
    ("timm:vit_tiny_patch16_224", 224),
    ("timm:densenet121", 64),
]


def trained(encoder):
    """As after training: no weight or statistic has its initial value."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in encoder.parameters():
            if parameter.ndim < 2:
                parameter += 0.3 * torch.rand_like(parameter)
        for name, buffer in encoder.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer += 0.3 * torch.rand_like(buffer)
    return encoder


def check(encoder, tap, size, images=None):
    encoder.eval()
    rest = rest_after(encoder, tap, size).eval()
    images = torch.randn(3, 3, size, size) if images is None else images
    with torch.no_grad():
        expected = encoder(images)
        found = rest(tapped(encoder, [tap], images)[0])
    assert expected.std() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    return rest


@pytest.mark.parametrize(
    ("name", "size"), CASES + [pytest.param(*case, marks=pytest.mark.slow) for case in SLOW_CASES]
)
def test_rest_of_the_tapped_is_the_whole(name, size):
    encoder = trained(split(build(name, classes=3)).encoder)
    stages = stage_names(encoder, size)
    for tap in (stages[0], stages[-2], stages[-1]):
        check(encoder, tap, size)


def test_at_another_size_and_in_training_mode():
    encoder = trained(build("acclimate:preact8-bn", classes=3).encoder)
    check(encoder, "stages.0", 16, torch.randn(3, 3, 24, 24))
    encoder.train()
    rest = rest_after(encoder, "stages.0", 16)
    images = torch.randn(8, 3, 16, 16)
    features = tapped(encoder, ["stages.0"], images)[0]
    torch.testing.assert_close(rest(features), copy.deepcopy(encoder)(images))
    assert all(module.training for module in rest.modules())


def test_a_tap_within_a_stage_and_on_the_last_layer():
    encoder = trained(build("acclimate:resnet14-w8", classes=3).encoder)
    rest = check(encoder, "stages.1.0", 16)
    assert len(rest) == 3  # the second block, the last stage, the tail
    assert len(check(encoder, "tail", 16)) == 0


def test_the_copies_learn_apart_from_the_encoder():
    encoder = build("acclimate:resnet8-w8", classes=3).encoder
    rest = rest_after(encoder, "stages.1", 16)
    own = {parameter.data_ptr() for parameter in encoder.parameters()}
    assert not own & {parameter.data_ptr() for parameter in rest.parameters()}
    names = [name for name, _ in encoder.stages[2].named_parameters()]
    assert [name for name, _ in rest.named_parameters()] == [f"0.{name}" for name in names]
    for name, parameter in encoder.stages[2].named_parameters():
        assert torch.equal(rest.get_parameter(f"0.{name}"), parameter)


def test_watching_leaves_no_trace():
    encoder = build("acclimate:resnet8-w8", classes=3).encoder.train()
    state = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    generator = torch.get_rng_state()
    rest_after(encoder, "stages.0", 16)
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(module.training for module in encoder.modules())
    assert all(torch.equal(tensor, state[name]) for name, tensor in encoder.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in encoder.modules())


def test_what_was_tapped_stays_as_it_was():
    encoder = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.SiLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    features = tapped(encoder, ["0"], torch.randn(2, 3, 8, 8))[0].detach()
    before = features.clone()
    rest_after(encoder, "0", 8)(features)
    assert torch.equal(features, before)
    assert encoder[1].inplace


class Functional(nn.Module):
    """A layer that gives maps or tokens, something done to them by a function, a last layer."""

    def __init__(self, function, width=None, gives_tokens=False):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1))
        if gives_tokens:
            self.first.append(nn.Flatten(2))
            self.first.append(Transpose())
        self.function = function
        self.last = nn.Linear(width, 5) if width else None

    def forward(self, images):
        features = self.function(self.first(images))
        return self.last(features) if self.last else features


class Transpose(nn.Module):
    def forward(self, x):
        return x.mT


@pytest.mark.parametrize(
    ("function", "width"),
    [
        (lambda x: x.mean((2, 3)), 4),
        (lambda x: x.relu().mean((2, 3)), 4),
        (lambda x: nn.functional.adaptive_avg_pool2d(x.relu_(), 1).flatten(1), 4),
        (lambda x: x.flatten(1), 4 * 36),
        (lambda x: x.relu().flatten(1), 4 * 36),
        (lambda x: x.clone(), 6),
        (lambda x: x.relu(), 6),
    ],
)
@pytest.mark.parametrize("is_last", [False, True])
def test_functions_between_modules(function, width, is_last):
    torch.manual_seed(0)
    check(Functional(function, None if is_last else width), "first", 6)


@pytest.mark.parametrize(
    ("function", "width"),
    [
        (lambda x: x[:, 0], 4),
        (lambda x: x.mean(1), 4),
        (lambda x: x[:, 1:].mean(1), 4),
        (lambda x: x.flatten(1), 4 * 36),
        (lambda x: x, 4),
    ],
)
def test_functions_of_tokens(function, width):
    torch.manual_seed(0)
    check(Functional(function, width, gives_tokens=True), "first", 6)


def test_the_mean_of_one_pixel_holds_at_other_sizes_too():
    torch.manual_seed(0)
    network = Functional(lambda x: x.mean((2, 3)), 4)
    network.first = nn.Conv2d(3, 4, 8, 8)
    check(network, "first", 8, torch.randn(2, 3, 24, 24))


def test_layers_that_are_used_twice_stay_one_layer():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 4, 3, padding=1)
            self.block = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(inplace=True))
            self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())

        def forward(self, images):
            return self.pool(self.block(self.block(self.block(self.stem(images)))))

    torch.manual_seed(0)
    encoder = Recurrent()
    rest = check(encoder, "stem", 8)
    assert len(list(rest.parameters())) == 2
    assert rest[0] is rest[1] is rest[2] is not encoder.block
    assert len(check(encoder, "block", 8)) == 3  # after the first of its calls


def test_a_tap_that_is_called_again_inside_a_later_block():
    relu = nn.ReLU()

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.relu = relu
            self.layer = nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x):
            return x + self.relu(self.layer(x))

    torch.manual_seed(0)
    layer, pool = nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1)
    check(nn.Sequential(layer, relu, Block(), pool, nn.Flatten()), "1", 8)


@pytest.mark.parametrize(
    ("name", "tap"),
    [
        # In a new ResNet these residual branches are zero, and leaving them out would look right.
        ("acclimate:resnet8-w8", "stages.1.0.shortcut"),
        ("acclimate:resnet8-w8", "stages.1.0.norm2"),
        ("acclimate:resnet8-w8", "stages.0.0.relu"),
        ("acclimate:preact8", "stages.1.0.conv1"),
        ("timm:convnext_atto", "stages.0.blocks.0.mlp"),
        ("acclimate:vit2-w32-p4", "blocks.0.attn"),
    ],
)
def test_within_a_residual_block_the_path_divides(name, tap):
    encoder = split(build(name, classes=3)).encoder
    with pytest.raises(InputError, match=f"cannot be branched at '{tap}'.*tap another layer"):
        rest_after(encoder, tap, 32)


def test_a_skip_past_the_tap_and_a_layer_that_gives_no_tensor():
    class Skip(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Conv2d(3, 3, 3, padding=1)
            self.two = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, images):
            return (self.two(self.one(images)) + images).mean((2, 3))

    class Pair(nn.Module):
        def forward(self, images):
            return images, images

    class First(nn.Sequential):
        def forward(self, images):
            return super().forward(images)[0].mean((2, 3))

    with pytest.raises(InputError, match="cannot be branched at 'one'"):
        rest_after(Skip(), "one", 8)
    with pytest.raises(InputError, match="cannot be branched at '0'"):
        rest_after(First(Pair()), "0", 8)


def test_unknown_taps_and_sizes():
    encoder = build("acclimate:vit2-w32-p4", classes=3).encoder
    with pytest.raises(InputError, match=r"unknown layer 'blocks\.2'"):
        rest_after(encoder, "blocks.2", 16)
    with pytest.raises(InputError, match="does not accept images of 18x18"):
        rest_after(encoder, "blocks.0", 18)
