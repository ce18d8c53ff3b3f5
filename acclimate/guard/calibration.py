"""The calibration of a guard: where two answers differ, how probably each is right."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from acclimate.bundle import Bundle
from acclimate.errors import InputError
from acclimate.guard.curve import Corrected, corrected, fitted
from acclimate.guard.looks import Places
from acclimate.guard.signals import Recent, features, signals
from acclimate.methods import method

HALF_LIFE = 64.0
"""Half-life of the recent stream, in images; calibrations and decisions share it."""
_HARD = (16.0, HALF_LIFE)  # within a class, and over the change to the next one
_WEIGHT = 4.0  # of an image that is clean, or in an order that harms: there are fewer of them


@dataclass(frozen=True)
class Answered:
    """Source images under one shift, as both models answered for them."""

    shift: str
    """Name of the shift without its severity; the clean images have one of their own."""
    hard: bool
    """True for images in an order that harms: sorted by class, or one by one."""
    by_sight: bool
    """True for images under a change that only counts where a stream looks as they do."""
    looks: Float[Tensor, "n 5"]
    """How the images look, see `acclimate.guard.looks`."""
    frozen: Float[Tensor, "n classes"]
    """Logits of the frozen classifier."""
    adapted: Float[Tensor, "n classes"]
    """Logits of the adapted model."""
    sizes: Sequence[int]
    """Images of each batch, in the order in which they came."""
    truth: Float[Tensor, "n classes"]
    """Probabilities of each image's classes, as several models see the clean image."""


@dataclass(frozen=True)
class Calibration:
    """Curves that turn signals into chances, and what is usual on clean source images.

    Each is a curve of `features` or of `seen` that holds for any stream, and a correction where the
    stream looks like one of the calibration's sets.
    """

    better: Corrected
    """P(the adapted answer is right), given that the two answers differ and one is right, of
    `features`."""
    frozen: Corrected
    """P(the frozen answer is right), of `seen`: by the frozen model's own confidence."""
    adapted: Corrected
    """P(the adapted answer is right), of `seen`."""
    places: Places
    """How the sets look."""
    usual: Float[Tensor, " signals"]
    """Mean of `signals` on clean source images: how the recent stream begins."""
    error: Float[Tensor, "2"]
    """Typical error of an estimated accuracy under a shift that is not in the calibration: of the
    frozen and of the adapted model. Of the frozen one beyond what its two views are apart."""

    def tensors(self, prefix: str) -> dict[str, Tensor]:
        """The calibration's tensors by name, as a bundle keeps them."""
        found = {f"{prefix}usual": self.usual, f"{prefix}error": self.error}
        for name in ("better", "frozen", "adapted"):
            found |= getattr(self, name).tensors(f"{prefix}{name}.")
        return found | self.places.tensors(f"{prefix}places.")

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], model: str) -> "Calibration":
        """The calibration that a bundle's statistics hold.

        Args:
            tensors: `Bundle.statistics`.
            model: ``classifier`` or ``twin``: the model that adapts.

        Raises:
            InputError: they hold none for this model, or one of an older version.
        """
        prefix = f"{model}.guard."
        try:
            return cls(
                Corrected.of(tensors, f"{prefix}better."),
                Corrected.of(tensors, f"{prefix}frozen."),
                Corrected.of(tensors, f"{prefix}adapted."),
                Places.of(tensors, f"{prefix}places."),
                tensors[f"{prefix}usual"],
                tensors[f"{prefix}error"],
            )
        except KeyError:
            if f"{prefix}usual" in tensors:
                raise InputError(
                    f"the guard's calibration for this bundle's {model} is of an older version; "
                    "make a new one with acclimate measure BUNDLE IMAGES."
                ) from None
            raise InputError(
                f"this bundle has no calibration of a guard for its {model}; add it with acclimate "
                "measure BUNDLE IMAGES, or acclimate.guard.measure_guard in Python."
            ) from None


def is_calibrated(bundle: Bundle, name: str) -> bool:
    """Whether a bundle has the calibration of a guard for a method.

    ```python
    mode = "bounded" if is_calibrated(bundle, adapter.name) else "off"
    ```

    Args:
        bundle: Any.
        name: A name of `acclimate.methods.METHODS`.
    """
    return f"{method(name).model}.guard.places.of_sets" in bundle.statistics


def seen(
    signals: Float[Tensor, "batch signals"], recent: Float[Tensor, " signals"]
) -> Float[Tensor, "batch 6"]:
    """The numbers that tell whether an answer is right: both log-odds and agreement.

    Of the image, and their means over the recent stream (of the agreement, its logarithm).

    Args:
        signals: From `acclimate.guard.signals.signals`.
        recent: Their mean over the recent stream.
    """
    return torch.cat([signals[:, :3], features(signals, recent)[:, 2:5]], 1)


def by_agreement(
    agree: Float[Tensor, " batch"], adapted: Float[Tensor, " batch"], classes: int
) -> Float[Tensor, " batch"]:
    """Chance that the frozen answer is right, as far as the adapted one tells.

    An answer that agrees is as probably right; of one that differs, the classes that the adapted
    model did not answer with are taken as equally probable. Beside the frozen classifier's own
    confidence this is a second view, which a shift that makes it certain and wrong fools less.

    ```python
    by_agreement(torch.tensor([1.0, 0.0]), torch.tensor([0.7, 0.7]), 4)  # 0.7, 0.1
    ```

    Args:
        agree: 1 where both models answer the same, else 0.
        adapted: Chance that the adapted answer is right.
        classes: Number of classes.
    """
    return torch.lerp((1 - adapted) / max(classes - 1, 1), adapted, agree)


def calibrated(sets: Sequence[Answered]) -> Calibration:
    """Fit a calibration.

    Args:
        sets: Source images under stand-ins for shifts; the first are the clean images, shuffled.
    """
    places = Places.between(sets[0].looks, [e.looks for e in sets if not e.hard])
    known = [_Rows(each, HALF_LIFE, places) for each in sets]
    hard = [_Rows(e, half_life, places) for e in sets if e.hard for half_life in _HARD]
    plain = [each for each in known if not each.hard]
    clean = sets[0].shift
    decisions = [(each, _WEIGHT if each.shift == clean else 1.0) for each in plain]
    decisions += [(each, _WEIGHT / len(_HARD)) for each in hard]
    usual = signals(sets[0].frozen, sets[0].adapted).mean(0)
    right = _right(plain, "frozen"), _right(known, "adapted")
    return Calibration(_better(decisions), *right, places, usual, _errors(plain, known))


class _Rows:
    """The numbers and chances of the images of a set.

    Args:
        answered: The set.
        half_life: Of the recent stream.
        places: Of all sets.
    """

    def __init__(self, answered: Answered, half_life: float, places: Places):
        self.shift, self.hard, self.by_sight = answered.shift, answered.hard, answered.by_sight
        each = signals(answered.frozen, answered.adapted)
        recent = Recent.of(torch.zeros_like(each[0]), 1e-6)
        looked = Recent.of(torch.zeros_like(places.mean), 1e-6)
        features_of, seen_of, alike = [], [], []
        sizes = list(answered.sizes)
        for part, look in zip(each.split(sizes), answered.looks.split(sizes), strict=True):
            recent.add(part, torch.ones_like(part[:, 0]), half_life)
            looked.add(look, torch.ones_like(part[:, 0]), half_life)
            features_of.append(features(part, recent.mean))
            seen_of.append(seen(part, recent.mean))
            alike.append(places.alike(looked.mean).expand(len(part), -1))
        self.features, self.seen = torch.cat(features_of), torch.cat(seen_of)
        self.alike = torch.cat(alike)
        self.differ = each[:, 2] == 0
        self.classes = answered.frozen.shape[1]
        self.chances = {
            name: answered.truth.gather(1, logits.argmax(1, keepdim=True))[:, 0]
            for name, logits in (("frozen", answered.frozen), ("adapted", answered.adapted))
        }


def _better(sets: Sequence[tuple[_Rows, float]]) -> Corrected:
    """The curve of who is right where two differ."""
    found = []
    for rows, weight in sets:
        frozen, adapted = (rows.chances[name][rows.differ] for name in ("frozen", "adapted"))
        one, x = frozen + adapted, (rows.features[rows.differ], rows.alike[rows.differ])
        found.append((rows.by_sight, *x, adapted / one.clamp(min=1e-9), weight * one))
    return _fitted(found)


def _right(sets: Sequence[_Rows], name: str) -> Corrected:
    """The curve of whether a model is right."""
    found = ((e.by_sight, e.seen, e.alike, e.chances[name]) for e in sets)
    return _fitted([(*each, torch.ones_like(each[-1])) for each in found])


def _fitted(sets: Sequence[tuple[bool, Tensor, Tensor, Tensor, Tensor]]) -> Corrected:
    """The curve by sets that count everywhere, and the correction by all.

    Args:
        sets: Of each, whether it counts by sight alone; then numbers, what looks alike, chances and
            how much they count.
    """
    x, _, chance, count = (torch.cat(each) for each in zip(*(e[1:] for e in sets if not e[0])))
    curve = fitted(x, chance, count)
    return corrected(curve, *(torch.cat(each) for each in zip(*(e[1:] for e in sets))))


def _errors(plain: Sequence[_Rows], known: Sequence[_Rows]) -> Float[Tensor, "2"]:
    """`Calibration.error`: each shift is estimated by the curves of the others.

    Root mean squares, of the frozen accuracy less half the distance of its two views.
    """
    errors = []
    for shift in dict.fromkeys(each.shift for each in plain if not each.by_sight):
        others = [[e for e in sets if e.shift != shift] for sets in (plain, known)]
        if all(each.by_sight for each in others[0]):
            continue
        curves = _right(others[0], "frozen"), _right(others[1], "adapted")
        for each in plain:
            if each.shift == shift:
                frozen, adapted = (curve(each.seen, each.alike) for curve in curves)
                other = by_agreement(1 - each.differ.to(adapted), adapted, each.classes)
                wrong = (frozen + other) / 2 - each.chances["frozen"]
                # Where the two are apart, the interval is wider anyway.
                beyond = wrong.mean() ** 2 - ((frozen - other).mean() / 2) ** 2
                own = (adapted - each.chances["adapted"]).mean() ** 2
                errors.append(torch.stack([beyond.clamp(min=0), own]))
    return torch.stack(errors).mean(0).sqrt() if errors else torch.ones(2)
