"""Throughput per core of `acclimate.views.simclr_views` against torchvision's pipeline on PIL."""

import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from common import alternate, describe, ratio
from torchvision import transforms

from acclimate.commands.script import finish, start
from acclimate.randomness import key
from acclimate.views import SimCLRViews, simclr_views

TARGET = 4


@dataclass
class Options:
    """Time the views of random images on one core."""

    sizes: tuple[int, ...] = (32, 64, 224)
    """Height and width of the images, in pixels."""
    pairs: int = 9
    """Number of rounds, each of which times both once."""
    pixels: int = 2**18
    """Total number of pixels per round, so that every size takes about the same time."""
    seed: int = 0
    """Random seed of images and views."""
    out: Path | None = None
    """JSON file for the result."""


def pil_pipeline(size: int) -> transforms.Compose:
    """The pipeline of most SimCLR implementations, with our ranges and probabilities."""
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(size, scale=(0.2, 1)),
            transforms.RandomHorizontalFlip(),
            transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            transforms.RandomGrayscale(0.2),
            transforms.ToTensor(),
        ]
    )


def compare(size: int, options: Options) -> dict:
    """Seconds per view of both, and their ratio, at one size."""
    count = max(2, options.pixels // size**2)
    # Smooth images, like photographs; the time of resampling may depend on the content.
    coarse = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(options.seed))
    images = torch.nn.functional.interpolate(coarse, size=size, mode="bilinear")
    pictures = [transforms.ToPILImage()(image) for image in images]
    pipeline, index = pil_pipeline(size), torch.arange(count)

    def ours(round_index: int) -> torch.Tensor:
        views_key = key(options.seed, round_index)
        return simclr_views(images, SimCLRViews(), key=views_key, index=index, count=2)

    def theirs(round_index: int) -> torch.Tensor:
        return torch.stack([pipeline(picture) for _ in range(2) for picture in pictures])

    seconds = alternate({"pil": theirs, "ours": ours}, options.pairs, time.process_time)
    each = {name: median(times) / (2 * count) for name, times in seconds.items()}
    return {"size": size, "seconds_a_view": each, "ratio": ratio(seconds, "pil", "ours")}


def main(options: Options) -> None:
    """Compare both at every size."""
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    rows = [compare(size, options) for size in options.sizes]
    print(f"{'size':>5} {'PIL, us':>9} {'ours, us':>9}  PIL / ours (target >= {TARGET})")
    for row in rows:
        pil, ours = (row["seconds_a_view"][name] * 1e6 for name in ("pil", "ours"))
        print(f"{row['size']:5} {pil:9.1f} {ours:9.1f}  {describe(row['ratio'])}")
    finish({"benchmark": "views", "target": TARGET, "rows": rows}, options.seed, options.out)


if __name__ == "__main__":
    start(main, Options)
