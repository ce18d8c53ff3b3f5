"""A public CIFAR-10 classifier, end to end: load its weights, align it, adapt it, compare.

Run: python examples/public_resnet.py --data cifar10.zip --weights resnet20.safetensors
     [--depth 20] [--train 2000] [--test 1000] [--out public-resnet] [--quick]

The weights are ResNet-20 or ResNet-56 of github.com/akamaster/pytorch_resnet_cifar10, as
.safetensors or .th. The data are folders train/CLASS/IMAGE and test/CLASS/IMAGE, or a zip of them.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, relu

import acclimate
from acclimate.backbones.weights import load_weights
from acclimate.data import corrupt, load, subset
from acclimate.preprocessing import Preprocessing
from acclimate.source.presets import PRESETS, with_epochs

CORRUPTIONS = ("none", "gaussian_noise", "motion_blur", "fog", "contrast", "jpeg_compression")
METHODS = ("source", "bn-adapt", "aligned-bn", "cta")


class Block(nn.Module):
    """Two convolutions, with a shortcut that has no weights (He et al. 2016, option A)."""

    def __init__(self, channels_in: int, channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride, self.new = stride, channels - channels_in

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(relu(self.bn1(self.conv1(x)))))
        # Every second pixel; the new channels are zeros, half of them before and half behind.
        x = x[:, :, :: self.stride, :: self.stride]
        return relu(y + pad(x, (0, 0, 0, 0, self.new // 2, self.new // 2)))


class ResNet(nn.Module):
    """Three stages of 16, 32 and 64 channels with ``blocks`` blocks each."""

    def __init__(self, blocks: int, classes: int):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        for number, (before, channels) in enumerate(((16, 16), (16, 32), (32, 64)), start=1):
            first = Block(before, channels, 1 if number == 1 else 2)
            rest = [Block(channels, channels, 1) for _ in range(blocks - 1)]
            self.add_module(f"layer{number}", nn.Sequential(first, *rest))
        self.linear = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder or zip of labelled images")
    parser.add_argument("--weights", required=True, type=Path)
    parser.add_argument("--depth", type=int, default=20, help="layers of the network: 20, 56, ...")
    parser.add_argument("--train", type=int, default=2000, help="unlabelled images to align with")
    parser.add_argument("--test", type=int, default=1000, help="images to classify")
    parser.add_argument("--out", type=Path, default=Path("public-resnet"), help="the new bundle")
    parser.add_argument("--quick", action="store_true", help="run in seconds, with poor accuracy")
    options = parser.parse_args()

    # 1. The classifier that somebody trained, and how it wants its images: ImageNet's mean and std.
    source, target = load(options.data, "train"), load(options.data, "test")
    network = ResNet((options.depth - 2) // 6, classes=len(source.classes))
    print(load_weights(network, options.weights))
    preprocessing = Preprocessing(32)

    # 2. Before deployment: align a twin. The labels of the training images are not used.
    bundle = acclimate.align(
        network,
        subset(source, min(options.train, len(source.images))).images,
        classes=source.classes,
        preprocessing=preprocessing,
        settings=with_epochs(PRESETS["small"], 1 if options.quick else 3),
    )
    bundle.save(options.out)
    print(f"{options.out}: method {bundle.method}, agreement {bundle.provenance.get('agreement')}")

    # 3. At deployment: the bundle holds no code, so loading it needs the network, with any weights.
    bundle = acclimate.Bundle.load(options.out, model=network)
    test = subset(target, min(options.test, len(target.images)))
    order = torch.randperm(len(test.images), generator=torch.Generator().manual_seed(0))
    images, labels = test.images[order], test.labels[order]  # they were sorted by class
    print(f"{'accuracy in %':<18}" + "".join(f"{method:>12}" for method in METHODS))
    for name in CORRUPTIONS[: 2 if options.quick else None]:
        stream = images if name == "none" else corrupt(images, name, 5)
        print(f"{name:<18}", end="")
        for method in METHODS:
            adapter = acclimate.Adapter(bundle, method)  # "source" is the frozen classifier
            answers = torch.cat([adapter(batch).argmax(1) for batch in stream.split(128)])
            print(f"{100 * (answers == labels).float().mean():>12.1f}", end="")
        print()


if __name__ == "__main__":
    main()
