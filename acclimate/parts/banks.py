"""Banks: memories that choose by the answers which images are kept, and learn now and then."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from acclimate.errors import InputError
from acclimate.parts.checks import not_negative
from acclimate.randomness import key, uniform

Shape = tuple[int, int, int]  # height, width, channels
Images = Float[Tensor, "n channels height width"]
Context = tuple[Images, Int64[Tensor, " n"], Float32[Tensor, " n"]]

_MOST = 10_000
"""Images that a bank may hold, and that may pass between two updates."""


@dataclass(frozen=True)
class Balanced:
    """A bank that is balanced by predicted class and prefers recent, certain images (RoTTA).

    Yuan et al. 2023, *Robust test-time adaptation in dynamic scenarios*, § 3.2. The batch is cut
    where an update is due: an image is answered for, then offered to the bank, then learned from.
    """

    images: int = 64
    """N, the number of images that are kept."""
    every: int = 64
    """A gradient step follows each time that so many images have been seen."""
    timeliness: float = 1.0
    """λ_t, weight of an image's age in the score by which images are removed."""
    uncertainty: float = 1.0
    """λ_u, weight of its uncertainty in that score."""
    weigh_by_age: bool = True
    """Whether old images count less in the loss."""
    keeps: ClassVar[bool] = True

    def check(self) -> None:
        """Refuse settings that cannot be meant."""
        _check_sizes(self)
        not_negative("timeliness", self.timeliness)
        not_negative("uncertainty", self.uncertainty)

    def build(self, shape: Shape, device: torch.device, classes: int) -> "BalancedBank":
        """An empty bank for images of this height, width and number of channels."""
        return BalancedBank(self, shape, device, classes)


@dataclass(frozen=True)
class Reservoir:
    """A random sample of the stream, balanced by predicted class (NOTE).

    Gong et al. 2022, *NOTE: Robust continual test-time adaptation against temporal correlation*,
    § 3.2, prediction-balanced reservoir sampling. The batch is cut where an update is due.
    """

    images: int = 64
    """Number of images that are kept."""
    every: int = 64
    """A gradient step follows each time that so many images have been seen."""
    seed: int = 0
    """Seed of the random choices."""
    keeps: ClassVar[bool] = True

    def check(self) -> None:
        """Refuse settings that cannot be meant."""
        _check_sizes(self)

    def build(self, shape: Shape, device: torch.device, classes: int) -> "ReservoirBank":
        """An empty bank for images of this height, width and number of channels."""
        return ReservoirBank(self, shape, device, classes)


def _check_sizes(settings: Balanced | Reservoir) -> None:
    for name in ("images", "every"):
        if not 1 <= getattr(settings, name) <= _MOST:
            raise InputError(f"{name} must be 1 to {_MOST}, not {getattr(settings, name)}.")


class Bank:
    """Images in tensors of a fixed size, and on the CPU what is known of each.

    Which image stays depends on those before it, so that images are offered one after another. Only
    numbers are: pixels are copied once for all images of a call.

    Args:
        settings: Its capacity, and after how many images an update is due.
        shape: Height, width and channels of an image.
        device: Where images are kept.
        classes: Number of classes.

    Attributes:
        images: The places; the first `count` are taken.
        arrivals: How many images had been offered before that of each place.
    """

    def __init__(
        self, settings: Balanced | Reservoir, shape: Shape, device: torch.device, classes: int
    ):
        (height, width, channels), capacity = shape, settings.images
        self.classes: int = classes
        self.capacity, self.every = capacity, settings.every
        self.images: Tensor = torch.zeros(capacity, channels, height, width, device=device)
        self.index: Tensor = torch.zeros(capacity, dtype=torch.int64, device=device)
        # On the CPU: they decide shapes, and no one waits for a device to read them.
        self._labels, self._arrivals = (torch.zeros(capacity, dtype=torch.int64) for _ in range(2))
        self._count, self._offered = (torch.zeros((), dtype=torch.int64) for _ in range(2))
        self.labels: np.ndarray = self._labels.numpy()
        self.arrivals: np.ndarray = self._arrivals.numpy()

    @property
    def count(self) -> int:
        """The number of images that it holds."""
        return int(self._count)

    def until_update(self) -> int:
        """How many more images are taken before the next update."""
        return self.every - int(self._offered) % self.every

    def offer(
        self,
        images: Images,
        index: Int64[Tensor, " n"],
        labels: Sequence[int],
        uncertainties: Sequence[float],
    ) -> bool:
        """Offer images one after another.

        Args:
            images: 0..1, not normalised.
            index: Index of each in the stream.
            labels: Their predicted classes.
            uncertainties: The uncertainties of these predictions.

        Returns:
            Whether an update is due.
        """
        latest: dict[int, int] = {}  # of each place that is written to, the last image
        numbers = self._draw(len(images))
        for number, (label, uncertainty) in enumerate(zip(labels, uncertainties)):
            place = self._place(label, uncertainty, numbers[number])
            if place is not None:
                latest[place] = number
                self._keep(place, label, uncertainty)
            self._offered += 1
        if latest:
            places = torch.tensor(list(latest), device=self.images.device)
            chosen = torch.tensor(list(latest.values()), device=self.images.device)
            self.images.index_copy_(0, places, images[chosen].to(self.images.dtype))
            self.index.index_copy_(0, places, index[chosen])
        return int(self._offered) % self.every == 0

    def context(self) -> Context:
        """What is learned from: the images, an index for random views, and weights in the loss.

        The index differs from update to update, so that the views of an image do, too.
        """
        count, time = self.count, int(self._offered)
        weights = torch.from_numpy(self._weights()).float().to(self.images.device)
        return self.images[:count], self.index[:count] + (time << 32), weights

    def ages(self) -> np.ndarray:
        """How many images have been offered since that of each place, itself included."""
        return int(self._offered) - self.arrivals[: self.count]

    def state(self) -> dict[str, Tensor]:
        """All that is kept."""
        return {
            "images": self.images,
            "index": self.index,
            "labels": self._labels,
            "arrivals": self._arrivals,
            "count": self._count,
            "offered": self._offered,
        }

    def _keep(self, place: int, label: int, uncertainty: float) -> None:
        self.labels[place] = label
        self.arrivals[place] = int(self._offered)
        self._count.fill_(max(self.count, place + 1))

    def _sizes(self) -> np.ndarray:
        """How many images of each predicted class are held."""
        labels = self.labels[: self.count].clip(0, self.classes)  # a forged state names others
        return np.bincount(labels, minlength=self.classes)

    def _draw(self, count: int) -> Sequence[Any]:
        """Random numbers for so many images; none."""
        return [None] * count

    def _weights(self) -> np.ndarray:
        """The weight of each image in the loss."""
        return np.ones(self.count)

    def _place(self, label: int, uncertainty: float, numbers: Any) -> int | None:
        """The place that an image takes, or None if it is not kept."""
        raise NotImplementedError


class BalancedBank(Bank):
    """RoTTA's bank.

    The score of an image of age a and uncertainty u is λ_t / (1 + e^{−a/N}) + λ_u u / log C. A
    class has room for N/C images, rounded up. If it has room and the bank is full, the image with
    the highest score of the largest classes is to go; if it has none, that of the class itself. It
    goes only if its score is above the new image's.
    """

    def __init__(self, settings: Balanced, shape: Shape, device: torch.device, classes: int):
        super().__init__(settings, shape, device, classes)
        self.settings = settings
        self._uncertainties = torch.zeros(self.capacity, dtype=torch.float64)
        self.uncertainties: np.ndarray = self._uncertainties.numpy()

    def state(self) -> dict[str, Tensor]:
        """All that is kept."""
        return super().state() | {"uncertainties": self._uncertainties}

    def scores(self, ages: np.ndarray, uncertainties: np.ndarray) -> np.ndarray:
        """By which images are removed."""
        settings = self.settings
        old = settings.timeliness / (1 + np.exp(-ages / self.capacity))
        # Of a single class every prediction is certain.
        return old + settings.uncertainty * uncertainties / (math.log(self.classes) or 1.0)

    def _keep(self, place: int, label: int, uncertainty: float) -> None:
        super()._keep(place, label, uncertainty)
        self.uncertainties[place] = uncertainty

    def _place(self, label: int, uncertainty: float, numbers: Any) -> int | None:
        count, sizes = self.count, self._sizes()
        labels = self.labels[:count]
        if sizes[label] >= self.capacity / self.classes:
            candidates = labels == label
        elif count < self.capacity:
            return count
        else:
            candidates = sizes[labels] == sizes.max()
        every = np.append(self.uncertainties[:count], uncertainty)
        *scores, own = self.scores(np.append(self.ages(), 0), every)
        scores = np.where(candidates, scores, -np.inf)
        if scores.max() <= own:
            return None
        worst = np.flatnonzero(scores == scores.max())
        return int(worst[np.lexsort((self.arrivals[worst], labels[worst]))[-1]])

    def _weights(self) -> np.ndarray:
        weigh = self.settings.weigh_by_age
        return timeliness(self.ages() / self.capacity) if weigh else super()._weights()


class ReservoirBank(Bank):
    """NOTE's reservoir.

    If it is full, an image of a class that is not among the largest takes the place of a random
    image of a random largest class. Of a largest class y, it takes the place of a random one of its
    own class with probability (images of y held) / (images of y seen).
    """

    def __init__(self, settings: Reservoir, shape: Shape, device: torch.device, classes: int):
        super().__init__(settings, shape, device, classes)
        self._key = key(settings.seed, "reservoir")
        self._seen = torch.zeros(classes, dtype=torch.int64)
        self.seen: np.ndarray = self._seen.numpy()

    def state(self) -> dict[str, Tensor]:
        """All that is kept."""
        return super().state() | {"seen": self._seen}

    def _draw(self, count: int) -> Sequence[Any]:
        first = int(self._offered)
        return uniform(self._key, torch.arange(first, first + count), 3).tolist()

    def _place(self, label: int, uncertainty: float, numbers: Any) -> int | None:
        self.seen[label] += 1
        count, sizes = self.count, self._sizes()
        if count < self.capacity:
            return count
        of_class, accept, member = numbers
        largest = np.flatnonzero(sizes == sizes.max())
        if label in largest and accept > sizes[label] / self.seen[label]:
            return None
        chosen = label if label in largest else largest[int(of_class * len(largest))]
        members = np.flatnonzero(self.labels == chosen)
        members = members[self.arrivals[members].argsort()]
        return int(members[int(member * len(members))])


def timeliness(ages: np.ndarray) -> np.ndarray:
    """Weights in RoTTA's loss, e^{−a} / (1 + e^{−a}), of ages a in capacities of the bank."""
    return 1 / (1 + np.exp(ages))
