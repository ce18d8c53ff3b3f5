"""What is to be measured: a method of a bundle on a stream, and all that determines the result."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from acclimate.adapt import model_of
from acclimate.bundle import Bundle, read_record
from acclimate.data import LabelledImages, Shift
from acclimate.data.corruptions.frost import frost_source
from acclimate.data.fingerprint import fingerprint
from acclimate.errors import InputError
from acclimate.evaluate.arrival import groups
from acclimate.evaluate.measure import LR0, settings_of
from acclimate.methods import METHODS, AdapterSettings, method


@dataclass(frozen=True)
class Task:
    """One stream through one adapter. What it says determines the result but for rounding."""

    bundle: str
    """Its label: the name of its folder."""
    weights: str
    """The checksum of the bundle's weights."""
    method: str
    settings: AdapterSettings
    dataset: str
    images: str
    """The fingerprint of the images and labels."""
    n_images: int
    order: str
    shifts: tuple[Shift, ...]
    batch: int
    seed: int
    curve: bool
    frost: str
    """Where pictures of frost come from, if any is laid over images."""

    @property
    def key(self) -> str:
        """Names the task: a hash of all of it."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:32]

    @property
    def length(self) -> int:
        """Images of the stream, at most."""
        return self.n_images * len(self.shifts)

    def __str__(self) -> str:
        shift = self.shifts[0].corruption if len(self.shifts) == 1 else f"{len(self.shifts)} shifts"
        return f"{self.bundle} {self.method} {shift} {self.order} seed {self.seed}"


@dataclass(frozen=True)
class Grid:
    """Which tasks there are: every combination."""

    corruptions: tuple[str, ...]
    """Names; ``none`` is clean images."""
    severities: tuple[int, ...] = (5,)
    """Of each corruption."""
    orders: tuple[str, ...] = ("shuffled",)
    """How images arrive, names of `acclimate.data.streams.ORDERS`."""
    seeds: tuple[int, ...] = (0,)
    """Of order, corruption and views."""
    methods: tuple[str, ...] = ()
    """Names, each for the bundles that it fits; none are all that fit, see `methods_of`."""
    batch: int = 128
    """Images that arrive together."""
    curve: bool = True
    """Whether accuracy is recorded before and after each gradient step."""


def tasks_of(grid: Grid, bundles: Mapping[str, Path], data: LabelledImages) -> list[Task]:
    """All tasks of a grid, bundle by bundle, method by method.

    Args:
        grid: What to combine.
        bundles: Folders by their labels.
        data: Test images.

    Raises:
        InputError: an unknown name, a method that fits no bundle, or a damaged bundle.
    """
    images = _fingerprint(data)
    shifts = [
        Shift(name, severity if name != "none" else 0)
        for name in grid.corruptions
        for severity in (grid.severities if name != "none" else (0,))
    ]
    tasks = []
    for label, names in methods_of(bundles, grid.methods).items():
        weights = read_record(bundles[label])["weights_sha256"]
        tasks += [
            Task(
                label,
                weights,
                name,
                settings_of(name),
                data.name,
                images,
                len(data.images),
                order,
                group,
                grid.batch,
                seed,
                grid.curve and settings_of(name).steps > 0,
                json.dumps(frost_source())
                if "frost" in [shift.corruption for shift in group]
                else "",
            )
            for name in names
            for seed in grid.seeds
            for order in grid.orders
            for group in groups(order, shifts)
        ]
    return tasks


def methods_of(bundles: Mapping[str, Path], chosen: Sequence[str] = ()) -> dict[str, list[str]]:
    """The methods that each bundle is measured with: those that its recipe is for.

    Beside them comes its classifier, frozen and with batch statistics, which alone explain much of
    what others gain. Methods that learn with any classifier come with the first bundle only.

    Args:
        bundles: Folders by their labels.
        chosen: Names; without them all.

    Raises:
        InputError: an unknown name, a chosen method that fits no bundle, or a damaged bundle.
    """
    for name in chosen:
        method(name.removesuffix(LR0))
    found: dict[str, list[str]] = {label: [] for label in bundles}
    misfits: dict[str, InputError] = {}
    for position, (label, path) in enumerate(bundles.items()):
        bundle = Bundle.load(path)
        for name in chosen or METHODS:
            row = method(name.removesuffix(LR0))
            if position and row.recipe == "supervised" and row.settings.steps:
                continue
            try:
                model_of(bundle, name.removesuffix(LR0))
            except InputError as error:
                misfits[name] = error
            else:
                found[label].append(name)
    fitting = {name for names in found.values() for name in names}
    for name in chosen:
        if name not in fitting:
            raise misfits[name]
    return found


def _frost(shifts: Iterable[Shift]) -> str:
    if all(shift.corruption != "frost" for shift in shifts):
        return ""
    return json.dumps(frost_source(), sort_keys=True)


def _fingerprint(data: LabelledImages) -> str:
    labels = hashlib.sha256(data.labels.cpu().numpy().tobytes()).hexdigest()
    return hashlib.sha256((fingerprint(data.images) + labels).encode()).hexdigest()
