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
from acclimate.evaluate.arrival import arrange, groups
from acclimate.evaluate.measure import LR0, settings_of
from acclimate.methods import METHODS, AdapterSettings, method


@dataclass(frozen=True)
class Task:
    """One stream through one adapter. What it says determines the result but for rounding."""

    bundle: str
    """Its label: the name of its folder."""
    checksum: str
    """Of the bundle, see `checksum_of`."""
    method: str
    settings: AdapterSettings
    dataset: str
    images: str
    """The fingerprint of the images and labels."""
    n_images: int
    length: int
    """How many images come, some of them perhaps several times."""
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

    def __str__(self) -> str:
        shift = self.shifts[0].corruption if len(self.shifts) == 1 else f"{len(self.shifts)} shifts"
        return f"{self.bundle} {self.method} {shift} {self.order} seed {self.seed}"


@dataclass(frozen=True)
class Grid:
    """Which tasks there are: every combination. What is named twice counts once."""

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

    def __post_init__(self):
        for name in ("corruptions", "severities", "orders", "seeds"):
            if not getattr(self, name):
                raise InputError(f"there are no {name}; give at least one.")

    def streams(self) -> list[tuple[int, str, tuple[Shift, ...]]]:
        """Seed, order and shifts of each stream.

        Raises:
            InputError: an unknown corruption, severity or order, or an order that none of the
                corruptions can come in.
        """
        shifts = [
            Shift(name, severity if name != "none" else 0)
            for name in self.corruptions
            for severity in self.severities
        ]
        shifts = list(dict.fromkeys(shifts))
        found = [(order, group) for order in self.orders for group in groups(order, shifts)]
        return list(dict.fromkeys((seed, *stream) for seed in self.seeds for stream in found))


def tasks_of(grid: Grid, bundles: Mapping[str, Path], data: LabelledImages) -> list[Task]:
    """All tasks of a grid, bundle by bundle, method by method.

    Args:
        grid: What to combine.
        bundles: Folders by their labels.
        data: Test images.

    Raises:
        InputError: an unknown name, a method that fits no bundle, no bundle, a damaged one, or one
            for another number of classes.
    """
    lengths = {
        stream: arrange(stream[1], data, stream[2], batch=grid.batch, seed=stream[0]).length
        for stream in grid.streams()
    }
    if not bundles:
        raise InputError("there is no bundle; make one with acclimate train or acclimate align.")
    methods = methods_of(bundles, grid.methods)
    images = _fingerprint(data)
    tasks = []
    for label, names in methods.items():
        _check_classes(bundles[label], data)
        checksum = checksum_of(bundles[label])
        tasks += [
            Task(
                bundle=label,
                checksum=checksum,
                method=name,
                settings=settings_of(name),
                dataset=data.name,
                images=images,
                n_images=len(data.images),
                length=length,
                order=order,
                shifts=shifts,
                batch=grid.batch,
                seed=seed,
                curve=grid.curve and settings_of(name).steps > 0,
                frost=_frost(shifts),
            )
            for name in names
            for (seed, order, shifts), length in lengths.items()
        ]
    return tasks


def checksum_of(bundle: Path) -> str:
    """A hash of all of a bundle but where it comes from: two that answer alike may share it.

    Raises:
        InputError: the bundle is missing or damaged.
    """
    record = read_record(bundle)
    answering = {name: record[name] for name in record.keys() - {"provenance", "method"}}
    return hashlib.sha256(json.dumps(answering, sort_keys=True).encode()).hexdigest()


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
        for name in dict.fromkeys(chosen or METHODS):
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


def _check_classes(path: Path, data: LabelledImages) -> None:
    mine, theirs = len(read_record(path)["classes"]), len(data.classes)
    if mine != theirs:
        raise InputError(
            f"{path} answers with one of {mine} classes, but {data.name} has {theirs}; "
            "measure it on images of its own classes."
        )


def _frost(shifts: Iterable[Shift]) -> str:
    if all(shift.corruption != "frost" for shift in shifts):
        return ""
    return json.dumps(frost_source(), sort_keys=True)


def _fingerprint(data: LabelledImages) -> str:
    labels = hashlib.sha256(data.labels.cpu().numpy().tobytes()).hexdigest()
    return hashlib.sha256((fingerprint(data.images) + labels).encode()).hexdigest()
