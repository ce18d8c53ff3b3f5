"""A bottleneck that fuses three stages of an encoder, and a decoder that makes them anew."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from acclimate.errors import InputError

Map = Float[Tensor, "batch channels h w"]
Shape = tuple[int, int, int]  # channels, height, width


class FeatureDecoder(nn.Module):
    """ReC-TTT's and ReContrast's bottleneck and decoder, for stages of any shape.

    Strided convolutions bring all stages to the last one's size; residual blocks make a code of
    them, half as large; the decoder goes back from the code to the last stage's shape, from there
    to the second's and on to the first's. A 1x1 convolution ends each.

    Args:
        shapes: Channels, height and width of three stages, the largest first.
        blocks: Residual blocks of the bottleneck, and of each step of the decoder.
        origins: Of how many kinds the features are: each has last convolutions of its own.

    Raises:
        InputError: stages that do not get smaller by halves.
    """

    def __init__(self, shapes: Sequence[Shape], *, blocks: int, origins: int):
        super().__init__()
        channels = shapes[-1][0]
        down = [_halvings(shape, shapes[-1]) for shape in shapes]
        fused = sum(c * 2 ** len(steps) for (c, _, _), steps in zip(shapes, down))
        self.down = nn.ModuleList(down)
        self.bottleneck = _residual(fused, 2 * channels, blocks, stride=2)
        before = [2 * channels, *(c for c, _, _ in reversed(shapes))]
        self.up = nn.ModuleList(
            nn.Sequential(nn.Upsample(size=(h, w)), *_residual(c_before, c, blocks))
            for c_before, (c, h, w) in zip(before, reversed(shapes))
        )
        self.last = nn.ModuleList(
            OwnConvolutions(nn.Conv2d(c, c, 1) for _ in range(origins)) for c, _, _ in shapes
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, features: Sequence[Map], origins: int) -> list[Map]:
        """Decode three stages' features into three of the same shapes.

        Args:
            features: Of the stages, in the order of the shapes.
            origins: The batch is this many parts of equal size, one for each of the first origins.
        """
        halved = [down(f) for down, f in zip(self.down, features)]
        decoded = self.bottleneck(torch.cat(halved, dim=1))
        stages = []
        for up in self.up:
            decoded = up(decoded)
            stages.insert(0, decoded)
        return [last(f, origins) for last, f in zip(self.last, stages)]


class OwnConvolutions(nn.ModuleList):
    """A convolution of its own for each part of a batch."""

    def forward(self, x: Map, parts: int) -> Map:
        """Apply the first to the first of equal parts, and so on."""
        return torch.cat([conv(part) for conv, part in zip(self, x.chunk(parts))])


class Residual(nn.Module):
    """A residual bottleneck: 1x1, 3x3 and 1x1 convolutions, half as wide inside."""

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1):
        super().__init__()
        width = max(1, channels_out // 2)
        self.body = nn.Sequential(
            *_convolution(channels_in, width, 1),
            nn.ReLU(inplace=True),
            *_convolution(width, width, 3, stride),
            nn.ReLU(inplace=True),
            *_convolution(width, channels_out, 1),
        )
        self.shortcut = nn.Sequential()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(*_convolution(channels_in, channels_out, 1, stride))

    def forward(self, x: Map) -> Map:
        """One residual step."""
        return torch.relu(self.shortcut(x) + self.body(x))


def _residual(channels_in: int, channels_out: int, blocks: int, stride: int = 1) -> nn.Sequential:
    first = Residual(channels_in, channels_out, stride)
    return nn.Sequential(first, *(Residual(channels_out, channels_out) for _ in range(blocks - 1)))


def _convolution(
    channels_in: int, channels_out: int, size: int, stride: int = 1
) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    conv = nn.Conv2d(channels_in, channels_out, size, stride, padding=size // 2, bias=False)
    return conv, nn.BatchNorm2d(channels_out)


def _halvings(shape: Shape, last: Shape) -> nn.Sequential:
    """Strided convolutions down to the last stage's size, each with twice the channels."""
    channels, height, width = shape
    steps = nn.Sequential()
    while (height, width) != last[1:]:
        if height < last[1] or width < last[2] or max(height, width) == 1:
            raise InputError(
                f"the tapped stages must get smaller by halves, but {shape} does not lead to "
                f"{last} (channels, height, width); tap other stages."
            )
        steps.append(nn.Sequential(*_convolution(channels, 2 * channels, 3, 2), nn.ReLU(True)))
        channels, height, width = 2 * channels, -(-height // 2), -(-width // 2)
    return steps
