"""Tasks of a grid: a variant with a bundle on a stream, and all that determines the result."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from acclimate.bundle import read_record
from acclimate.data import LabelledImages, Shift
from acclimate.data.classes import Match, match_classes
from acclimate.data.corruptions.frost import frost_source
from acclimate.data.fingerprint import fingerprint
from acclimate.errors import InputError
from acclimate.evaluate.arrival import arrange, groups
from acclimate.evaluate.cell import CLEAN
from acclimate.evaluate.fitting import variants_of
from acclimate.evaluate.variant import Variant
from acclimate.methods import AdapterSettings
from acclimate.methods.changes import settings_of_record, settings_record


@dataclass(frozen=True)
class Task:
    """One stream through one adapter. Its fields determine the result but for rounding."""

    bundle: str
    """Label of the bundle: the name of its folder."""
    checksum: str
    """Checksum of the bundle, see `checksum_of`."""
    variant: Variant
    settings: AdapterSettings
    """The variant's settings."""
    dataset: str
    images: str
    """Fingerprint of the images and labels."""
    n_images: int
    length: int
    """Length of the stream in images; some images may come several times."""
    order: str
    shifts: tuple[Shift, ...]
    batch: int
    seed: int
    curve: bool
    frost: str
    """Source of the frost pictures, if frost is laid over the images."""
    outputs: tuple[int, ...] = ()
    """The output of each class of the data, where the bundle has them in another order."""
    window: int = 0
    """Length of the window that single images pass through; 0 without."""

    @property
    def key(self) -> str:
        """Name of the task: a hash of all its fields."""
        return key_of(json.dumps(self.record()))

    def record(self) -> dict[str, Any]:
        """The task as plain values, for JSON."""
        plain = {"variant": str(self.variant), "settings": settings_record(self.settings)}
        record = asdict(self) | plain
        for name in ("outputs", "window"):  # as in stores of before there were these fields
            if not record[name]:
                del record[name]
        return record

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> "Task":
        """The task that `record` recorded.

        Raises:
            KeyError: a field is missing.
            TypeError: the record is of another form.
        """
        plain = {
            "variant": Variant.parse(record["variant"]),
            "settings": settings_of_record(record["settings"]),
            "shifts": tuple(Shift(**shift) for shift in record["shifts"]),
            "outputs": tuple(record.get("outputs", ())),
            "window": record.get("window", 0),
        }
        return cls(**{**record, **plain})

    def __str__(self) -> str:
        shift = self.shifts[0].name if len(self.shifts) == 1 else f"{len(self.shifts)} shifts"
        return f"{self.bundle} {self.variant} {shift} {self.order} seed {self.seed}"


@dataclass(frozen=True)
class Grid:
    """Every combination of what is listed. What is named twice counts once.

    ```python
    Grid(("none", "fog"), methods=("source", "cta", "cta:update.learning_rate=0"))
    Grid(methods=("source", "cta"))  # for images of a domain
    ```
    """

    corruptions: tuple[str, ...] = ()
    """Names of corruptions; ``none`` is clean images. Images of a domain take no corruption."""
    severities: tuple[int, ...] = (5,)
    """Severities of each corruption, 1..5."""
    orders: tuple[str, ...] = ("shuffled",)
    """Orders of arrival, names of `acclimate.data.streams.ORDERS`."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of order, corruption and views."""
    methods: tuple[str, ...] = ()
    """Methods and their variants as `Variant.parse` reads them, each for the bundles that it fits.
    Without any, all methods that fit, see
    `acclimate.evaluate.fitting`."""
    batch: int = 128
    """Images that arrive together."""
    curve: bool = True
    """Whether accuracy is recorded before and after each gradient step; never with a window."""
    window: int = 0
    """Length of the sliding window that single images pass through, see
    `acclimate.evaluate.window`; 0 without."""
    parts: bool = False
    """Whether each method is also measured with its parts switched off in turn, see
    `acclimate.evaluate.switches`."""

    def __post_init__(self) -> None:
        for name in ("severities", "orders", "seeds"):
            if not getattr(self, name):
                raise InputError(f"there are no {name}; give at least one.")
        if self.window and (self.window < 2 or self.batch != 1):
            raise InputError(
                f"a window of {self.window} images and batches of {self.batch}: a window takes "
                "single images; give batch 1 and a window of at least 2."
            )

    def variants(self) -> tuple[Variant, ...]:
        """The methods, read.

        Raises:
            InputError: one has another form.
        """
        return tuple(map(Variant.parse, self.methods))

    def shifts(self, domain: str = "") -> list[Shift]:
        """The shifts of images without a domain, or the one shift of a domain's images.

        Raises:
            InputError: an unknown corruption or severity, no corruption, or corruptions for images
                of a domain, which are measured as they are.
        """
        if domain:
            if self.corruptions:
                raise InputError(
                    f"images of the domain {domain!r} are measured as they are; leave the "
                    "corruptions out."
                )
            return [Shift(domain=domain)]
        if not self.corruptions:
            raise InputError("there are no corruptions; give at least one.")
        shifts = [
            Shift(name, severity if name != CLEAN else 0)
            for name in self.corruptions
            for severity in self.severities
        ]
        return list(dict.fromkeys(shifts))

    def streams(self, domain: str = "") -> list[tuple[int, str, tuple[Shift, ...]]]:
        """Seed, order and shifts of each stream of images without a domain, or of this domain.

        Raises:
            InputError: as `shifts`; or an unknown order, or one that none of the shifts can come
                in.
        """
        shifts = self.shifts(domain)
        found = [(order, group) for order in self.orders for group in groups(order, shifts)]
        return list(dict.fromkeys((seed, *stream) for seed in self.seeds for stream in found))


def tasks_of(grid: Grid, bundles: Mapping[str, Path], data: LabelledImages) -> list[Task]:
    """All tasks of a grid on one set of images, bundle by bundle, variant by variant.

    Args:
        grid: What to combine.
        bundles: Folders by their labels.
        data: Test images; if they are of a domain, the domain is the shift.

    Raises:
        InputError: an unknown name, a variant that fits no bundle, no bundle, a damaged one, or one
            for other classes.
    """
    lengths = {
        stream: arrange(stream[1], data, stream[2], batch=grid.batch, seed=stream[0]).length
        for stream in grid.streams(data.domain)
    }
    if not bundles:
        raise InputError("there is no bundle; make one with acclimate train or acclimate align.")
    variants = variants_of(bundles, grid.variants(), parts=grid.parts)
    images = _fingerprint(data)
    tasks = []
    for label, chosen in variants.items():
        match = match_of(bundles[label], data)
        checksum = checksum_of(bundles[label])
        tasks += [
            Task(
                bundle=label,
                checksum=checksum,
                variant=variant,
                settings=variant.settings,
                dataset=data.name,
                images=images,
                n_images=len(data.images),
                length=length,
                order=order,
                shifts=shifts,
                batch=grid.batch,
                seed=seed,
                curve=grid.curve and variant.settings.steps > 0 and not grid.window,
                frost=frost_of(shifts),
                outputs=match.moved,
                window=grid.window,
            )
            for variant in chosen
            for (seed, order, shifts), length in lengths.items()
        ]
    return tasks


def key_of(record: str) -> str:
    """The key of a task whose record is this text."""
    return hashlib.sha256(record.encode()).hexdigest()[:32]


def checksum_of(bundle: Path) -> str:
    """A hash of a bundle without its provenance: two bundles that answer alike may share it.

    Raises:
        InputError: the bundle is missing or damaged.
    """
    record = read_record(bundle)
    answering = {name: record[name] for name in record.keys() - {"provenance", "method"}}
    return hashlib.sha256(json.dumps(answering, sort_keys=True).encode()).hexdigest()


def match_of(bundle: Path, data: LabelledImages) -> Match:
    """Which of a bundle's outputs stands for which class of the data.

    Raises:
        InputError: the bundle is missing or damaged, or answers with other classes.
    """
    outputs = read_record(bundle)["classes"]
    return match_classes(outputs, data.classes, whose=str(bundle), data=data.name)


def frost_of(shifts: Iterable[Shift]) -> str:
    """The source of this machine's frost pictures as JSON, if a shift is frost; otherwise empty."""
    if all(shift.corruption != "frost" for shift in shifts):
        return ""
    return json.dumps(frost_source(), sort_keys=True)


def _fingerprint(data: LabelledImages) -> str:
    labels = hashlib.sha256(data.labels.cpu().numpy().tobytes()).hexdigest()
    return hashlib.sha256((fingerprint(data.images) + labels).encode()).hexdigest()
