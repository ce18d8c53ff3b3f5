"""Labels that come later: recent answers are kept, and a label says how far the curves were off."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int32
from torch import Tensor

from acclimate.errors import InputError
from acclimate.guard.signals import Recent

KEPT = 1024
"""Recent answers that are kept for labels to come."""
HALF_LIFE = 350.0
"""Half-life of what labels have shown, in labels."""
_SPREAD = 0.25  # the largest variance of right or wrong about its chance
_SURE = 1.645**2  # so many variances of its error a bias must exceed to be taken for one
_OF_SHARE = 0.1  # typical error of the share; assumed, since a calibration does not measure it
_BEGIN = 1e-6  # labels that an average begins with, all 0: as good as none
NONE = -1  # class of an answer that there is not


@dataclass(frozen=True)
class Answers:
    """Answers of a batch, as they are kept."""

    classes: Int32[Tensor, "batch 2"]
    """Classes of the frozen and of the adapted answer; `NONE` where there is none."""
    chances: Float[Tensor, "batch 4"]
    """Chances that the frozen, the adapted and the given answer are right, and that of two
    different answers of which one is right, the adapted one is."""
    adapted: Bool[Tensor, " batch"]
    """Whether the adapted answer was given."""


@dataclass(frozen=True)
class Labels:
    """Recent answers, and what labels have shown. Changed in place; its size does not grow."""

    classes: Int32[Tensor, "kept 2"]
    """As in `Answers`; image number i is at i modulo `KEPT`."""
    chances: Float[Tensor, "kept 4"]
    """As in `Answers`."""
    adapted: Bool[Tensor, " kept"]
    """As in `Answers`."""
    right: Recent
    """Average of right (1) or wrong (0) less its chance: of frozen, adapted and given answers."""
    better: Recent
    """The same of the adapted answer, where two differ and one is right."""

    @classmethod
    def new(cls, device: torch.device | None = None) -> "Labels":
        """The state before any image."""
        classes = torch.full((KEPT, 2), NONE, dtype=torch.int32, device=device)
        chances = torch.zeros(KEPT, 4, device=device)
        right, better = _nothing(3, device), _nothing(1, device)
        return cls(classes, chances, classes[:, 0] > 0, right, better)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name."""
        found = {name: getattr(self, name) for name in ("classes", "chances", "adapted")}
        for name in ("right", "better"):
            found |= {
                f"{name}.{part}": tensor for part, tensor in vars(getattr(self, name)).items()
            }
        return found

    def keep(self, first: int, answers: Answers) -> None:
        """Keep the answers of a batch.

        Args:
            first: Number of its first image.
            answers: Of its images, in their order.
        """
        count = len(answers.classes)
        skipped = max(count - KEPT, 0)
        numbers = torch.arange(first + skipped, first + count, device=self.classes.device)
        for name in ("classes", "chances", "adapted"):
            getattr(self, name)[numbers % KEPT] = getattr(answers, name)[skipped:]

    def skip(self, first: int, count: int) -> None:
        """Note that a batch was not judged."""
        numbers = torch.arange(first, first + min(count, KEPT), device=self.classes.device)
        self.classes[numbers % KEPT] = NONE

    def learn(self, index: int, label: int, *, counts: bool = True) -> None:
        """Compare the answers for an image with its label, once.

        Args:
            index: Number of the image, one of the last `KEPT`.
            label: Its class.
            counts: False only notes that the label has come.

        Raises:
            InputError: its answers are not there, or were compared already.
        """
        place = index % KEPT
        frozen, adapted = self.classes[place].tolist()
        if frozen == NONE:
            raise InputError(
                f"image {index} was not judged, or its label is known already; give each label "
                "once, and none of images that came with the mode off."
            )
        self.classes[place] = NONE
        if not counts:
            return
        chances = self.chances[place]
        truth = [float(each == label) for each in (frozen, adapted)]
        truth.append(truth[int(self.adapted[place])])
        seen = torch.tensor(truth, device=chances.device) - chances[:3]
        if adapted == NONE:
            seen[1] = self.right.mean[1]  # no answer, no evidence
        one = torch.ones(1, device=chances.device)
        self.right.add(seen[None], one, HALF_LIFE)
        if adapted != NONE and truth[0] != truth[1]:
            self.better.add((truth[1] - chances[3:])[None], one, HALF_LIFE)

    def forget(self) -> None:
        """Forget what labels have shown: the stream has become another one."""
        for each in (self.right, self.better):
            each.total.zero_()
            each.weight.fill_(_BEGIN)
            each.squares.fill_(_BEGIN)


def bias(
    known: Recent, errors: Float[Tensor, " values"]
) -> tuple[Float[Tensor, " values"], Float[Tensor, " values"]]:
    """How far chances are off by what labels have shown, and the error that is left.

    The mean difference b of n labels, shrunk: b · n e² / (n e² + v), v = 1/4 at most the variance
    of right or wrong. e² is the squared error that is typical without labels, or b² - 2.7 v / n
    where that is more: labels that clearly contradict the calibration are believed.

    ```python
    shift, error = bias(labels.right, torch.tensor([0.03, 0.04, 0.04]))
    ```

    Args:
        known: Average of right or wrong less its chance.
        errors: Typical error of each value without labels.
    """
    mean, count = known.mean, known.images
    own = torch.maximum(errors**2, mean**2 - _SURE * _SPREAD / count)
    weight = own * count / (own * count + _SPREAD)
    return mean * weight, (own * (1 - weight)).sqrt()


def bias_of_share(labels: Labels) -> float:
    """How far the share is off by what labels have shown."""
    shift, _ = bias(labels.better, torch.full_like(labels.better.total, _OF_SHARE))
    return float(shift)


def _nothing(values: int, device: torch.device | None) -> Recent:
    """An average before any label."""
    return Recent.of(torch.zeros(values, device=device), _BEGIN)
