"""CTA in a plain PyTorch loop: its two losses and its views, without acclimate's training loop.

Run: python examples/plain_loop.py [--quick]
"""

import argparse
import copy

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from acclimate.backbones import resnet
from acclimate.data import corrupt, load
from acclimate.objectives import alignment_loss, contrastive_loss
from acclimate.preprocessing import Preprocessing
from acclimate.randomness import key
from acclimate.views import SimCLRViews, simclr_views


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="run in seconds, with poor accuracy")
    quick = parser.parse_args().quick
    torch.manual_seed(0)

    data, test = load("fashion-mnist-mini", "train"), load("fashion-mnist-mini", "test")
    kept = slice(None, None, 40 if quick else 6)
    images, labels = data.images[kept], data.labels[kept]
    preprocessing = Preprocessing.fit(images)

    def batches(epochs):
        """Image indices of each batch, and a key for the epoch's views."""
        for epoch in range(epochs):
            for index in torch.randperm(len(images)).split(128):
                yield index, key(0, "views", epoch)

    def two_views(batch, index, epoch_key):  # [batch, 3, h, w] -> [2 batch, 3, h, w]
        unit = preprocessing.unit(batch)  # in 0..1, as colour jitter needs
        views = simclr_views(unit, SimCLRViews(), key=epoch_key, index=index, count=2)
        return preprocessing.normalize(views)

    # 1. Train the classifier h∘f by cross entropy. Only this step uses labels.
    classifier = resnet(8, classes=10)
    optimizer = torch.optim.Adam(classifier.parameters(), lr=3e-3)
    for index, _ in batches(1 if quick else 5):
        loss = cross_entropy(classifier(preprocessing(images[index])), labels[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    classifier.requires_grad_(False).eval()

    # 2. Initialise the twin π∘g as a copy of f, and train it by contrast (Eq. 1).
    projector = nn.Linear(classifier.feature_dim, classifier.feature_dim)
    nn.init.eye_(projector.weight)
    nn.init.zeros_(projector.bias)
    twin = nn.Sequential(copy.deepcopy(classifier.encoder), projector)
    twin.requires_grad_(True).train()
    optimizer = torch.optim.Adam(twin.parameters(), lr=5e-4)
    for index, epoch_key in batches(1):
        first, second = twin(two_views(images[index], index, epoch_key)).chunk(2)
        loss = contrastive_loss(first, second, temperature=0.5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"contrastive loss {loss.item():.3f}")

    # 3. Align the twin's features with f's, so that h can classify them (Eq. 4).
    optimizer = torch.optim.Adam(twin.parameters(), lr=1e-3)
    for index, epoch_key in batches(1 if quick else 5):
        first, second = twin(two_views(images[index], index, epoch_key)).chunk(2)
        with torch.no_grad():
            target = classifier.encoder(preprocessing(images[index]))
        loss = alignment_loss(first, second, target, temperature=0.5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"alignment loss {loss.item():.3f}")

    # 4. At deployment: for each batch, reset the twin, take two steps on Eq. 1, predict with h∘π∘g.
    shifted, truth = corrupt(test.images[kept], "contrast", 5), test.labels[kept]
    source, adapted, frozen = copy.deepcopy(twin.state_dict()), [], []
    for start, batch in zip(range(0, len(shifted), 128), shifted.split(128)):
        twin.load_state_dict(source)
        twin.train()  # batch norm uses the batch's own statistics
        optimizer = torch.optim.Adam(twin.parameters(), lr=1e-4)
        index = torch.arange(start, start + len(batch))
        for step in range(2):
            first, second = twin(two_views(batch, index, key(0, "adapt", step))).chunk(2)
            loss = contrastive_loss(first, second, temperature=0.5)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            adapted.append(classifier.head(twin(preprocessing(batch))).argmax(1))
            frozen.append(classifier(preprocessing(batch)).argmax(1))
    for name, predictions in (("frozen", frozen), ("adapted", adapted)):
        accuracy = (torch.cat(predictions) == truth).float().mean().item()
        print(f"{name:<8}{100 * accuracy:5.1f} % correct")


if __name__ == "__main__":
    main()
