"""The protocol card of a number: all that must be the same for another to be comparable."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from acclimate.evaluate.arrival import TOGETHER
from acclimate.evaluate.protocols import protocol_name
from acclimate.evaluate.task import Task
from acclimate.methods.changes import settings_record

METRIC = "accuracy: the share of right answers, one whenever an image comes"
UNKNOWN = "not recorded"
"""The value of a field that older results do not have."""
_LEFT_OUT = ("shifts", "seed", "length", "curve", "frost", "bundle")
"""Fields of a task that vary within a card, or do not change a result."""
_WORDS = {
    "reset": {"batch": "at each batch", "never": ""},
    "answer": {
        "after": "after the steps",
        "before": "before the steps",
        "teacher": "by the teacher, after the steps",
    },
    "normalisation": {
        "source": "the source's",
        "batch": "the batch's",
        "running": "running averages",
    },
}
"""What kinds of parts are called; others go by their names."""


@dataclass(frozen=True)
class ProtocolCard:
    """What determines the numbers of one variant under one protocol, beside shift and seed."""

    protocol: str
    """Name of the protocol."""
    method: str
    """The method and its changes."""
    weights: str
    """SHA-256 of the bundle's weights."""
    network: str
    """Architecture of the classifier."""
    bundle: str
    """Checksum of all of the bundle that determines its answers."""
    preprocessing: Mapping[str, Any]
    """How images are resized and normalised: size, mean, standard deviation and so on."""
    dataset: str
    """Name of the data."""
    images: str
    """SHA-256 of the clean images and labels."""
    n_images: int
    """Number of images."""
    order: str
    """Order of arrival."""
    batch: int
    """Images that arrive together."""
    window: int
    """Length of the window that single images pass through; 0 without."""
    reset: str
    """When all that was learned is forgotten."""
    answer: str
    """Whether images are answered for before or after the steps on them."""
    statistics: str
    """Whose statistics batch norm uses."""
    settings: Mapping[str, Any]
    """All other settings of the method."""
    metric: str = METRIC
    """What the number is."""
    frost: str = ""
    """Source of the frost pictures, if some images were under frost."""
    seeds: tuple[int, ...] = ()
    """Seeds of order, corruption and views."""
    shifts: tuple[str, ...] = ()
    """Shifts with their severities, in the order of the streams."""
    commits: tuple[str, ...] = field(default=())
    """Versions of the code that measured."""

    def record(self) -> dict[str, Any]:
        """The card as JSON holds it."""
        return json.loads(json.dumps(asdict(self)))


def card_name(task: Task) -> str:
    """Name of a task's card: twelve letters that stand for all that its numbers share.

    ```python
    manifest["cards"][card_name(task)]
    ```
    """
    record = task.record()
    same = {name: value for name, value in record.items() if name not in _LEFT_OUT}
    return hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()[:12]


def protocol_cards(
    tasks: Iterable[Task],
    bundles: Mapping[str, Mapping[str, Any]],
    commits: Mapping[str, str],
) -> dict[str, dict[str, Any]]:
    """The cards of tasks by their names, as records.

    Args:
        tasks: Tasks that were measured.
        bundles: Records of bundles by label: ``weights_sha256``, ``architecture``,
            ``preprocessing``; what is missing is not recorded.
        commits: The commit that measured each task, by the task's key.
    """
    groups: dict[str, list[Task]] = {}
    for task in tasks:
        groups.setdefault(card_name(task), []).append(task)
    return {
        name: _card(group, bundles.get(group[0].bundle, {}), commits).record()
        for name, group in groups.items()
    }


def _card(tasks: list[Task], bundle: Mapping[str, Any], commits: Mapping[str, str]) -> ProtocolCard:
    task = tasks[0]
    settings = settings_record(task.settings)
    del settings["seed"]  # the grid's
    own = settings.pop("reset")
    shifts = [
        shift.domain or f"{shift.corruption} {shift.severity:g}"
        for t in tasks
        for shift in t.shifts
    ]
    return ProtocolCard(
        protocol=protocol_name(task.order, task.window),
        method=str(task.variant),
        weights=bundle.get("weights_sha256", UNKNOWN),
        network=bundle.get("architecture") or UNKNOWN,
        bundle=task.checksum or UNKNOWN,
        preprocessing=bundle.get("preprocessing", {}),
        dataset=task.dataset,
        images=task.images if len(task.images) == 64 else UNKNOWN,  # a line has their number alone
        n_images=task.n_images,
        order=task.order,
        batch=task.batch,
        window=task.window,
        reset=_reset(own, together=task.order in TOGETHER),
        answer=_said("answer", settings.pop("answer")),
        statistics=_said("normalisation", settings.pop("normalisation")),
        settings=settings,
        frost=next((t.frost for t in tasks if t.frost), ""),
        seeds=tuple(sorted({t.seed for t in tasks})),
        shifts=tuple(dict.fromkeys(shifts)),
        commits=tuple(sorted({commits[t.key] for t in tasks if t.key in commits})),
    )


def _reset(own: Mapping[str, Any], *, together: bool) -> str:
    """When is forgotten: by the stream, whose adapter is a new one, and by the method itself."""
    said = _said("reset", own)
    if own["kind"] == "batch":
        return said
    stream = "never" if together else "at each shift"
    return f"{stream}; {said}" if said else stream


def _said(part: str, record: Mapping[str, Any]) -> str:
    """A part in words, with its settings; what is switched off is left out."""
    kind: str = record["kind"]
    name = _WORDS[part].get(kind, kind)
    own = {key: value for key, value in record.items() if key != "kind" and value is not False}
    return ", ".join([name, *(f"{key} {value}" for key, value in own.items())])
