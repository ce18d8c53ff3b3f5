"""How many images are tried on, so that advice takes about as long as it may."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from acclimate.adapt import Adapter
from acclimate.advise.candidates import Candidate
from acclimate.advise.streams import CONDITIONS, Order
from acclimate.advise.trials import seconds_an_image
from acclimate.backbones.batch_norm import batch_norms
from acclimate.guard import measure as guard
from acclimate.randomness import key, permutation
from acclimate.source.held_out import enough

FEWEST, MOST = 64, 512
"""Source images that are tried on under each condition, by how long it takes."""
BATCHES: dict[Order, int] = {"shuffled": 2, "arrival": 4}
"""So many batches of the largest size are tried on at least, if `MOST` images are enough for them.
With one alone, a method that remembers would be the same as one that forgets; and if it holds all
images, it holds all classes, though in the deployment few come together."""
TARGET = 1024
"""The most target images that are tried on, evenly spaced."""
_SETS = 45  # of a guard's calibration
_PASSES = 3, 10  # of all its models for an image, with batch norm, and with steps in place of it
_SINGLE = 14, 6.0  # sets of single images, and how much slower these are than in batches
_OTHER = 0.05  # of the time: corruptions and counting of costs


@dataclass(frozen=True, eq=False)
class Plan:
    """What is to be tried."""

    source: UInt8[Tensor, "n channels h w"]
    """Source images, in the order in which they were given."""
    target: UInt8[Tensor, "m channels h w"]
    """Target images, in the order of their arrival; none without."""
    rows: Int64[Tensor, " m"]
    """Where they stand among the target images that were given."""
    calibrates: bool
    """Whether a guard's calibration is measured first."""
    seconds: float
    """About how long it takes."""

    def __str__(self) -> str:
        target = f", and on {len(self.target):,} target images" if len(self.target) else ""
        calibration = ", with the calibration of a guard" if self.calibrates else ""
        return (
            f"this takes about {duration(self.seconds)}: {len(self.source):,} source images, each "
            f"under {len(CONDITIONS)} conditions{target}{calibration}"
        )


def plan_of(
    adapters: Mapping[Candidate, Adapter],
    source: UInt8[Tensor, "n channels h w"],
    target: UInt8[Tensor, "m channels h w"] | None,
    *,
    calibrated: bool,
    minutes: float,
    order: Order,
) -> Plan:
    """Time a few batches of each candidate, and choose how many images there is time for.

    Args:
        adapters: The candidates; they begin anew afterwards.
        source: All source images.
        target: All target images; None without.
        calibrated: Whether the bundle has a guard's calibration.
        minutes: The time there is. At least `FEWEST` source images are taken, whatever it is, and
            at least `BATCHES` batches of the largest size.
        order: How the images come.
    """
    source = source[permutation(key(0, "advise"), len(source))[:MOST].sort().values]
    rows = evenly(0 if target is None else len(target), TARGET)
    target = source[:0] if target is None else target[rows]
    speeds = [seconds_an_image(c, adapter, source) for c, adapter in adapters.items()]
    calibrates = len(target) > 0 and not calibrated
    any_adapter = next(iter(adapters.values()))
    encoder, most = any_adapter.model.encoder, enough(source, any_adapter.preprocessing)
    each_image = min(speeds) * _PASSES[not batch_norms(encoder)]
    fixed = len(target) * sum(speeds) + calibrates * _calibration(each_image, len(source), most)
    each = (1 + _OTHER) * len(CONDITIONS) * sum(speeds)
    least = max(FEWEST, BATCHES[order] * max(candidate.batch for candidate in adapters))
    count = int(min(len(source), max(least, (60 * minutes - fixed) / each)))
    source = source[evenly(len(source), count)]
    return Plan(source, target, rows, calibrates, fixed + count * each)


def _calibration(seconds: float, images: int, most: int) -> float:
    """About how long a guard's calibration takes, from the time of its models for an image."""
    sets, slower = _SINGLE
    alone = sets * slower * min(images, guard.ALONE)
    return seconds * (_SETS * min(images, most) + alone)


def evenly(total: int, count: int) -> Int64[Tensor, " count"]:
    """At most so many of the numbers below a total, evenly spaced."""
    count = min(total, count)
    return torch.arange(count) * total // max(count, 1)


def duration(seconds: float) -> str:
    """A time in words.

    ```python
    duration(200)  # "3 minutes"
    ```
    """
    if seconds < 100:
        return f"{max(seconds, 1):.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 6000 else f"{seconds / 3600:.1f} hours"
