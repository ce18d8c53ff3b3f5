"""Images that are to arrive in some order, and what has arrived."""

import torch

from acclimate.data import Shift
from acclimate.data.streams import CLEAN

NOISE, DARK = Shift("gaussian_noise", 5), Shift("contrast", 3)
SHIFTS = [NOISE, CLEAN, DARK]


def data(count, classes=4, seed=0, side=6):
    """Images, no two alike, and labels of which each class has some."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)
    labels = torch.arange(count) % classes
    return images, labels[torch.randperm(count, generator=generator)]


def arrived(stream):
    """All images, numbers and shifts."""
    batches = list(stream)
    images = torch.cat([stream.images[:0], *(batch.images for batch in batches)])
    numbers = [number for batch in batches for number in batch.numbers.tolist()]
    return images, numbers, [shift for batch in batches for shift in batch.shifts]


def same(one, other):
    """Whether two streams' images, numbers and shifts are equal."""
    return torch.equal(one[0], other[0]) and one[1:] == other[1:]
