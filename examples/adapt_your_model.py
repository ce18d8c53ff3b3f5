"""Turn your own classifier into one that adapts: align it, then run it on a shifted stream.

Run: python examples/adapt_your_model.py [--quick]
"""

import argparse

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import acclimate
from acclimate.data import corrupt, load
from acclimate.preprocessing import Preprocessing
from acclimate.source.presets import PRESETS, with_epochs


def your_network() -> nn.Module:
    """A stand-in for your network, which can be any that ends in a linear layer."""
    layers: list[nn.Module] = []
    for channels_in, channels_out in ((3, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(channels_in, channels_out, 3, stride=2, padding=1)]
        layers += [nn.BatchNorm2d(channels_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def train(network: nn.Module, data, preprocessing: Preprocessing, epochs: int) -> None:
    """A stand-in for your own training, which does not use acclimate."""
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(epochs):
        for index in torch.randperm(len(data.images)).split(64):
            logits = network(preprocessing(data.images[index]))
            optimizer.zero_grad()
            cross_entropy(logits, data.labels[index]).backward()
            optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="run in seconds, with poor accuracy")
    quick = parser.parse_args().quick
    torch.manual_seed(0)

    source, target = load("fashion-mnist-mini", "train"), load("fashion-mnist-mini", "test")
    kept = slice(None, None, 40 if quick else 4)
    source_images, test_images = source.images[kept], target.images[kept]
    preprocessing = Preprocessing.fit(source_images)
    network = your_network()
    train(network, source, preprocessing, epochs=1 if quick else 5)

    # Before deployment: alignment, which uses no labels.
    bundle = acclimate.align(
        network,
        source_images,
        classes=source.classes,
        preprocessing=preprocessing,
        settings=with_epochs(PRESETS["small"], 1 if quick else 5),
    )

    # At deployment: images arrive in batches, under several corruptions.
    print(f"{'shift':<16}{'frozen':>8}{'adapted':>9}   accuracy in %")
    for name, severity in (("none", 0), ("gaussian_noise", 5), ("contrast", 5)):
        stream = corrupt(test_images, name, severity) if severity else test_images
        frozen, adapter = acclimate.Adapter(bundle, "source"), acclimate.Adapter(bundle)
        accuracy = {}
        for name_of_model, model in (("frozen", frozen), ("adapted", adapter)):
            predictions = torch.cat([model(batch).argmax(1) for batch in stream.split(128)])
            correct = predictions == target.labels[kept]
            accuracy[name_of_model] = 100 * correct.float().mean().item()
        print(f"{name:<16}{accuracy['frozen']:>8.1f}{accuracy['adapted']:>9.1f}")


if __name__ == "__main__":
    main()
