"""Residual networks: the CIFAR family of depth 6n + 2, and ResNet-50 with two stems.

An encoder of the CIFAR family is ``nn.Sequential(stem, stages, tail)`` with three stages: a method
can branch off after ``encoder.stages[1]`` or tap any stage.
"""

from collections import OrderedDict
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, pad

from acclimate.backbones.classifier import Classifier
from acclimate.errors import InputError
from acclimate.runtime.precision import at_least_float32

Norm = Literal["batch", "group"]
GROUPS = 8
DEEPEST = 1202  # the deepest network in He et al. 2016


def resnet(depth: int, *, classes: int, width: int = 16, norm: Norm = "batch") -> Classifier:
    """The CIFAR ResNet (He et al. 2016, § 4.2), with projection shortcuts and random weights.

    ```python
    logits = resnet(26, classes=10, width=32)(images)  # [batch, 10]
    ```

    Args:
        depth: 6n + 2, with n blocks of two convolutions in each of three stages.
        classes: Outputs of the head.
        width: Channels of the first stage; the next ones have 2 and 4 times as many.
        norm: Batch norm, or group norm with 8 groups.

    Raises:
        InputError: the depth is not 6n + 2, or the width is out of range.
    """
    _check(depth, width, norm)
    stem = nn.Sequential(_conv3x3(3, width), _norm(norm, width), nn.ReLU(inplace=True))
    classifier = _assemble(stem, PostActivationBlock, [], depth, classes, width, norm)
    for module in classifier.modules():
        if isinstance(module, PostActivationBlock):
            # The residual branch starts at zero (Goyal et al. 2017, § 5.1).
            nn.init.zeros_(module.norm2.weight)
    return classifier


def preact_resnet(depth: int, *, classes: int, width: int = 16, norm: Norm = "group") -> Classifier:
    """The pre-activation CIFAR ResNet (He et al. 2016b) of TTT (Sun et al. 2020), random weights.

    ```python
    logits = preact_resnet(26, classes=10)(images)  # [batch, 10]
    ```

    Where the shape changes, the shortcut is average-pooled and its new channels are zero. TTT's
    own model has depth 26, width 16, and group norm with 8 groups.

    Args:
        depth: 6n + 2, with n blocks of two convolutions in each of three stages.
        classes: Outputs of the head.
        width: Channels of the first stage; the next ones have 2 and 4 times as many.
        norm: Batch norm, or group norm with 8 groups.

    Raises:
        InputError: the depth is not 6n + 2, or the width is out of range.
    """
    _check(depth, width, norm)
    last = [_norm(norm, 4 * width), nn.ReLU(inplace=True)]
    stem = _conv3x3(3, width)
    return _assemble(stem, PreActivationBlock, last, depth, classes, width, norm)


def resnet50(*, classes: int, stem: Literal["cifar", "imagenet"] = "imagenet") -> Classifier:
    """ResNet-50 as in torchvision, with random weights.

    ```python
    logits = resnet50(classes=10, stem="cifar")(images)  # [batch, 10]
    ```

    Args:
        classes: Outputs of the head.
        stem: ``imagenet`` is a strided 7x7 convolution and max pooling; ``cifar`` is a single 3x3
            convolution, which keeps the resolution of small images.
    """
    from torchvision import models

    encoder = models.resnet50(weights=None, zero_init_residual=True)
    head = nn.Linear(encoder.fc.in_features, classes)
    encoder.fc = nn.Identity()  # type: ignore[assignment]
    if stem == "cifar":
        encoder.conv1 = _conv3x3(3, 64)
        encoder.maxpool = nn.Identity()  # type: ignore[assignment]
        _initialise(encoder.conv1)
    return Classifier(encoder, head)


class PostActivationBlock(nn.Module):
    """Residual block: conv, norm, ReLU, conv, norm; add the shortcut; ReLU."""

    def __init__(self, channels_in: int, channels_out: int, stride: int, norm: Norm):
        super().__init__()
        self.conv1: nn.Conv2d = _conv3x3(channels_in, channels_out, stride)
        self.norm1: nn.BatchNorm2d | nn.GroupNorm = _norm(norm, channels_out)
        self.conv2: nn.Conv2d = _conv3x3(channels_out, channels_out)
        self.norm2: nn.BatchNorm2d | nn.GroupNorm = _norm(norm, channels_out)
        self.relu: nn.ReLU = nn.ReLU(inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            projection = Projection(channels_in, channels_out, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, _norm(norm, channels_out))

    def forward(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch c2 h2 w2"]:
        """Add the residual branch to the shortcut."""
        residual = self.relu(self.norm1(self.conv1(x)))
        residual = self.norm2(self.conv2(residual))
        return self.relu(self.shortcut(x) + residual)


class PreActivationBlock(nn.Module):
    """Residual block: norm, ReLU, conv, norm, ReLU, conv; add the shortcut."""

    def __init__(self, channels_in: int, channels_out: int, stride: int, norm: Norm):
        super().__init__()
        self.norm1: nn.BatchNorm2d | nn.GroupNorm = _norm(norm, channels_in)
        self.conv1: nn.Conv2d = _conv3x3(channels_in, channels_out, stride)
        self.norm2: nn.BatchNorm2d | nn.GroupNorm = _norm(norm, channels_out)
        self.conv2: nn.Conv2d = _conv3x3(channels_out, channels_out)
        self.relu: nn.ReLU = nn.ReLU(inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = PooledShortcut(channels_out - channels_in, stride)

    def forward(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch c2 h2 w2"]:
        """Add the residual branch to the shortcut."""
        residual = self.conv1(self.relu(self.norm1(x)))
        residual = self.conv2(self.relu(self.norm2(residual)))
        return self.shortcut(x) + residual


class Projection(nn.Conv2d):
    """A strided 1x1 convolution, computed as subsampling followed by a convolution of stride 1.

    oneDNN 3.12's backward pass of the strided convolution writes outside its memory for 8 input
    channels in channels_last, an odd number of images, and two threads.
    """

    def forward(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch c2 h2 w2"]:
        """Project every stride-th pixel."""
        # Subsampled by average pooling with a 1x1 window, not by slicing: a slice's gradient is
        # not in channels_last, which makes the rest of the backward pass several times slower.
        return conv2d(avg_pool2d(x, 1, self.stride), self.weight)


class MeanOfPixels(nn.Module):
    """Global average pooling whose backward pass keeps channels_last."""

    def forward(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch c"]:
        """The mean over positions."""
        return x.permute(0, 2, 3, 1).flatten(1, 2).mean(1)


class GroupNorm(nn.GroupNorm):
    """Group norm that computes in at least float32 and returns the dtype of its input.

    Under bf16 autocast, torch's CPU kernel for channels_last is several times slower than this.
    """

    def forward(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch c h w"]:
        """Normalise each group of channels of each image."""
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(at_least_float32(x)).to(x.dtype)


class PooledShortcut(nn.Module):
    """A shortcut without parameters: average pooling, then additional channels of zeros."""

    def __init__(self, new_channels: int, stride: int):
        super().__init__()
        self.new_channels = new_channels
        self.stride = stride

    def forward(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch c2 h2 w2"]:
        """Pool, then pad the channels with zeros."""
        # Rounds odd sizes up, as the strided convolution of the residual branch does.
        x = avg_pool2d(x, self.stride, ceil_mode=True)
        return pad(x, (0, 0, 0, 0, 0, self.new_channels))


def _check(depth: int, width: int, norm: Norm) -> None:
    if not 8 <= depth <= DEEPEST or depth % 6 != 2:
        raise InputError(
            f"a CIFAR ResNet has depth 6n + 2 (8, 14, 20, 26, ..., {DEEPEST}), not {depth}."
        )
    if not 4 <= width <= 512:
        raise InputError(f"the width of a CIFAR ResNet is 4 to 512 channels, not {width}.")
    if norm == "group" and width % GROUPS:
        raise InputError(f"group norm needs a width that is a multiple of {GROUPS}, not {width}.")


def _assemble(
    stem: nn.Module,
    block: type[PostActivationBlock] | type[PreActivationBlock],
    last: list[nn.Module],
    depth: int,
    classes: int,
    width: int,
    norm: Norm,
) -> Classifier:
    blocks = (depth - 2) // 6
    stages = [
        _stage(block, channels_in, channels_out, stride, blocks, norm)
        for channels_in, channels_out, stride in (
            (width, width, 1),
            (width, 2 * width, 2),
            (2 * width, 4 * width, 2),
        )
    ]
    tail = nn.Sequential(*last, MeanOfPixels())
    parts = OrderedDict(stem=stem, stages=nn.Sequential(*stages), tail=tail)
    encoder = nn.Sequential(parts)
    for module in encoder.modules():
        _initialise(module)
    return Classifier(encoder, nn.Linear(4 * width, classes))


def _stage(block, channels_in, channels_out, stride, blocks, norm) -> nn.Sequential:
    first = block(channels_in, channels_out, stride, norm)
    rest = (block(channels_out, channels_out, 1, norm) for _ in range(blocks - 1))
    return nn.Sequential(first, *rest)


def _conv3x3(channels_in: int, channels_out: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)


def _norm(norm: Norm, channels: int) -> nn.BatchNorm2d | nn.GroupNorm:
    return nn.BatchNorm2d(channels) if norm == "batch" else GroupNorm(GROUPS, channels)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
