"""The corruptions against the package imagecorruptions-imaug: time per image, and peak memory.

    python benchmarks/corruptions.py --out corruptions.json

The package corrupts one image per call, always with ImageNet's constants; acclimate corrupts a
whole batch, with the constants for the images' size. The package is timed with one process per
core, and also in a single process, as it is mostly used. Both first corrupt a few images untimed,
so that compiling and reading files are not part of the timing.
"""

import ctypes
import os
import time
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.pool import Pool
from pathlib import Path
from statistics import median

import numpy as np
import torch
from common import alternate, describe, ratio
from imagecorruptions import corrupt as package_corrupt

from acclimate.commands.script import finish, start
from acclimate.data import corrupt
from acclimate.data.corruptions import CORRUPTIONS, PUBLISHED

SPAWN = get_context("spawn")  # a forked process cannot use its parent's threads
TARGETS = {32: 8, 224: 3}
"""Target ratio of the seconds of the 15 corruptions together, by the images' height."""
MEMORY_TARGET = 8
"""Target peak memory, without the input images, in multiples of the batch as float32."""


@dataclass
class Options:
    """Time every corruption at severity 5 on smooth random images with some noise."""

    sizes: tuple[int, ...] = (32, 224)
    """Height and width of the images, in pixels."""
    counts: tuple[int, ...] = (2000, 64)
    """Number of images of each size."""
    pairs: int = 3
    """Number of rounds, each of which times all three once."""
    seed: int = 0
    """Random seed of images and corruptions."""
    out: Path | None = None
    """JSON file for the result."""


def pictures(size: int, count: int, seed: int) -> torch.Tensor:
    """Random uint8 images ``[count, 3, size, size]``: smooth, like photographs, with some noise.

    They have the memory layout of the images from `acclimate.data.load`.
    """
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 8, 8, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=size, mode="bilinear")
    noise = 0.05 * torch.randn(smooth.shape, generator=generator)
    images = ((smooth + noise).clamp(0, 1) * 255).to(torch.uint8)
    return images.contiguous(memory_format=torch.channels_last)


def theirs(images: np.ndarray, name: str) -> None:
    """Corrupt one image after another with the package."""
    for image in images:
        package_corrupt(image, corruption_name=name, severity=5)


def compare(name: str, images: torch.Tensor, pool: Pool, options: Options) -> dict:
    """Time acclimate, the package in one process, and the package on all cores."""
    pixels = images.permute(0, 2, 3, 1).contiguous().numpy()
    parts = np.array_split(pixels, 4 * os.cpu_count())
    pool.starmap(theirs, [(part[:1], name) for part in parts])
    runs = {
        "ours": lambda _: corrupt(images, name, 5, seed=options.seed),
        "package": lambda _: pool.starmap(theirs, [(part, name) for part in parts]),
        "package in one process": lambda _: theirs(pixels, name),
    }
    seconds = alternate(runs, options.pairs)
    return {
        "corruption": name,
        "milliseconds_an_image": {
            run: median(times) * 1e3 / len(images) for run, times in seconds.items()
        },
        "ratio": ratio(seconds, "package", "ours"),
        "ratio_to_one_process": ratio(seconds, "package in one process", "ours"),
        "seconds": seconds,
    }


def peak_memory(name: str, size: int, count: int, seed: int) -> float:
    """Additional peak resident memory of corrupting a batch, in multiples of it as float32.

    Run it in another process than the timings. The uint8 result is included.
    """
    images = pictures(size, count, seed)
    corrupt(images[:1], name, 5)  # computes the tables and textures, which are cached
    status = Path("/proc/self/status")
    ctypes.CDLL(None).malloc_trim(0)  # returns freed memory, so that using it again counts
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak to the current value

    def kibibytes(field: str) -> int:
        (line,) = [line for line in status.read_text().splitlines() if line.startswith(field)]
        return int(line.split()[1])

    before = kibibytes("VmRSS")
    corrupt(images, name, 5)
    return (kibibytes("VmHWM") - before) * 1024 / (images.numel() * 4)


def main(options: Options) -> None:
    """Compare at every size."""
    results = []
    for size, count in zip(options.sizes, options.counts, strict=True):
        images = pictures(size, count, options.seed)
        with SPAWN.Pool(os.cpu_count()) as pool:
            rows = [compare(name, images, pool, options) for name in CORRUPTIONS]
        with SPAWN.Pool(1) as pool:
            tasks = [(name, size, count, options.seed) for name in CORRUPTIONS]
            for row, peak in zip(rows, pool.starmap(peak_memory, tasks, chunksize=1)):
                row["peak_memory_in_float_batches"] = peak
        published = [row for row in rows if row["corruption"] in PUBLISHED]
        whole = {
            run: [sum(turn) for turn in zip(*(row["seconds"][run] for row in published))]
            for run in rows[0]["seconds"]
        }
        total = {
            "ratio": ratio(whole, "package", "ours"),
            "ratio_to_one_process": ratio(whole, "package in one process", "ours"),
            "milliseconds_an_image": {
                run: median(times) * 1e3 / count for run, times in whole.items()
            },
        }
        results.append({"size": size, "count": count, "rows": rows, "fifteen": total})
        show(results[-1])
    finish({"benchmark": "corruptions", "results": results}, options.seed, options.out)


def show(result: dict) -> None:
    """Print the table of one size."""
    size = result["size"]
    print(f"\n{result['count']} images of {size} x {size}, severity 5")
    print(f"{'corruption':18} {'ours, ms':>9} {'package':>9} {'1 process':>9} {'memory':>7}  ratio")
    for row in [*result["rows"], {"corruption": "the fifteen", **result["fifteen"]}]:
        ours, package, single = row["milliseconds_an_image"].values()
        peak = row.get("peak_memory_in_float_batches")
        memory = "" if peak is None else f"{peak:.2f}"
        print(
            f"{row['corruption']:18} {ours:9.3f} {package:9.3f} {single:9.3f} {memory:>7}  "
            f"{describe(row['ratio'])}; to one process {describe(row['ratio_to_one_process'])}"
        )
    print(f"target: the fifteen at least {TARGETS.get(size)}, memory at most {MEMORY_TARGET}")


if __name__ == "__main__":
    started = time.monotonic()
    start(main, Options)
    print(f"{time.monotonic() - started:.0f} s")
