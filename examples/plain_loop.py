"""CTA in a plain PyTorch loop: its two losses and its views, without acclimate's trainer.

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
    parser.add_argument("--quick", action="store_true", help="seconds, and poor accuracy")
    quick = parser.parse_args().quick
    torch.manual_seed(0)

    data, test = load("fashion-mnist-mini", "train"), load("fashion-mnist-mini", "test")
    kept = slice(None, None, 40 if quick else 6)
    images, labels = data.images[kept], data.labels[kept]
    preprocessing = Preprocessing.fit(images)

    def batches(epochs):
        """Image numbers, and a key for this epoch's views."""
        for epoch in range(epochs):
            for numbers in torch.randperm(len(images)).split(128):
                yield numbers, key(0, "views", epoch)

    def two_views(batch, numbers, epoch_key):  # [batch, 3, h, w] -> [2 batch, 3, h, w]
        unit = preprocessing.unit(batch)  # 0..1, where colours can be jittered
        views = simclr_views(unit, SimCLRViews(), key=epoch_key, index=numbers, count=2)
        return preprocessing.normalize(views)

    # 1. The classifier h∘f learns the classes. The only use of labels.
    classifier = resnet(8, classes=10)
    optimizer = torch.optim.Adam(classifier.parameters(), lr=3e-3)
    for numbers, _ in batches(1 if quick else 5):
        loss = cross_entropy(classifier(preprocessing(images[numbers])), labels[numbers])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    classifier.requires_grad_(False).eval()

    # 2. The twin π∘g starts as a copy of f and learns to tell images apart (Eq. 1).
    projector = nn.Linear(classifier.feature_dim, classifier.feature_dim)
    nn.init.eye_(projector.weight)
    nn.init.zeros_(projector.bias)
    twin = nn.Sequential(copy.deepcopy(classifier.encoder), projector)
    twin.requires_grad_(True).train()
    optimizer = torch.optim.Adam(twin.parameters(), lr=5e-4)
    for numbers, epoch_key in batches(1):
        first, second = twin(two_views(images[numbers], numbers, epoch_key)).chunk(2)
        loss = contrastive_loss(first, second, temperature=0.5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"contrastive loss {loss.item():.3f}")

    # 3. The twin's features move to where f's are, so that h can read them (Eq. 4).
    optimizer = torch.optim.Adam(twin.parameters(), lr=1e-3)
    for numbers, epoch_key in batches(1 if quick else 5):
        first, second = twin(two_views(images[numbers], numbers, epoch_key)).chunk(2)
        with torch.no_grad():
            target = classifier.encoder(preprocessing(images[numbers]))
        loss = alignment_loss(first, second, target, temperature=0.5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"alignment loss {loss.item():.3f}")

    # 4. Deployed: for each batch begin anew, take two steps of Eq. 1, answer by h∘π∘g.
    shifted, truth = corrupt(test.images[kept], "contrast", 5), test.labels[kept]
    source, adapted, frozen = copy.deepcopy(twin.state_dict()), [], []
    for start, batch in zip(range(0, len(shifted), 128), shifted.split(128)):
        twin.load_state_dict(source)
        twin.train()  # batch norm by the batch's own statistics
        optimizer = torch.optim.Adam(twin.parameters(), lr=1e-4)
        numbers = torch.arange(start, start + len(batch))
        for step in range(2):
            first, second = twin(two_views(batch, numbers, key(0, "adapt", step))).chunk(2)
            loss = contrastive_loss(first, second, temperature=0.5)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            adapted.append(classifier.head(twin(preprocessing(batch))).argmax(1))
            frozen.append(classifier(preprocessing(batch)).argmax(1))
    for name, answers in (("frozen", frozen), ("adapted", adapted)):
        print(f"{name:<8}{100 * (torch.cat(answers) == truth).float().mean().item():5.1f} % right")


if __name__ == "__main__":
    main()
