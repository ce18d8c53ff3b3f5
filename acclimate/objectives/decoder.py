"""A bottleneck that fuses features of three stages, and a decoder that reconstructs them."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from acclimate.errors import InputError

Map = Float[Tensor, "batch channels h w"]
Shape = tuple[int, int, int]  # channels, height, width


class FeatureDecoder(nn.Module):
    """Bottleneck and decoder of ReC-TTT and ReContrast, for stages of any shape.

    Strided convolutions downsample the features of all stages to the size of the last. Residual
    blocks fuse them to a code of half that size. The decoder upsamples the code to the shape of
    the last stage, then of the second, then of the first. A 1x1 convolution follows each.

    ```python
    decoder = FeatureDecoder([(64, 32, 32), (128, 16, 16), (256, 8, 8)], blocks=2, origins=1)
    reconstructions = decoder(features, origins=1)
    ```

    Args:
        shapes: Channels, height and width of the three stages, the largest first.
        blocks: Number of residual blocks of the bottleneck, and of each stage of the decoder.
        origins: Number of origins of features, for example encoders. Each origin has its own
            output convolutions.

    Raises:
        InputError: the stages do not shrink by halves.
    """

    def __init__(self, shapes: Sequence[Shape], *, blocks: int, origins: int):
        super().__init__()
        channels = shapes[-1][0]
        down = [_halvings(shape, shapes[-1]) for shape in shapes]
        fused = sum(c * 2 ** len(steps) for (c, _, _), steps in zip(shapes, down))
        self.down: nn.ModuleList = nn.ModuleList(down)
        self.bottleneck: nn.Sequential = _residual(fused, 2 * channels, blocks, stride=2)
        before = [2 * channels, *(c for c, _, _ in reversed(shapes))]
        self.up: nn.ModuleList = nn.ModuleList(
            nn.Sequential(nn.Upsample(size=(h, w)), *_residual(c_before, c, blocks))
            for c_before, (c, h, w) in zip(before, reversed(shapes))
        )
        self.last: nn.ModuleList = nn.ModuleList(
            OwnConvolutions(nn.Conv2d(c, c, 1) for _ in range(origins)) for c, _, _ in shapes
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, features: Sequence[Map], origins: int) -> list[Map]:
        """Reconstruct features of the three stages, of the same shapes, from features of all.

        Args:
            features: Features of the stages, in the order of the shapes.
            origins: Number of equal parts of the batch. Part i comes from origin i.
        """
        halved = [down(f) for down, f in zip(self.down, features)]
        decoded = self.bottleneck(torch.cat(halved, dim=1))
        stages = []
        for up in self.up:
            decoded = up(decoded)
            stages.insert(0, decoded)
        return [last(f, origins) for last, f in zip(self.last, stages)]


class OwnConvolutions(nn.ModuleList):
    """A separate convolution for each part of a batch."""

    def forward(self, x: Map, parts: int) -> Map:
        """Split the batch into equal parts and apply convolution i to part i."""
        return torch.cat([conv(part) for conv, part in zip(self, x.chunk(parts))])


class Residual(nn.Module):
    """A residual bottleneck block: 1x1, 3x3 and 1x1 convolutions, with half the channels inside."""

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1):
        super().__init__()
        width = max(1, channels_out // 2)
        self.body: nn.Sequential = nn.Sequential(
            *_convolution(channels_in, width, 1),
            nn.ReLU(inplace=True),
            *_convolution(width, width, 3, stride),
            nn.ReLU(inplace=True),
            *_convolution(width, channels_out, 1),
        )
        self.shortcut = nn.Sequential()
        if stride != 1 or channels_in != channels_out:
            self.shortcut: nn.Sequential = nn.Sequential(
                *_convolution(channels_in, channels_out, 1, stride)
            )

    def forward(self, x: Map) -> Map:
        """Apply the block."""
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
    """Strided convolutions from a stage's size to the last one's; each doubles the channels."""
    channels, height, width = shape
    steps = nn.Sequential()
    while (height, width) != last[1:]:
        if height < last[1] or width < last[2] or max(height, width) == 1:
            raise InputError(
                f"the tapped stages must shrink by halves, but {shape} cannot be halved to {last} "
                f"(channels, height, width); tap other stages."
            )
        steps.append(nn.Sequential(*_convolution(channels, 2 * channels, 3, 2), nn.ReLU(True)))
        channels, height, width = 2 * channels, -(-height // 2), -(-width // 2)
    return steps
