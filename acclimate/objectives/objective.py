"""What every objective is to an adapter, and to the stages before deployment."""

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import ClassVar, NamedTuple

from jaxtyping import Float, Int64
from torch import Tensor, nn

from acclimate.backbones import Classifier
from acclimate.errors import InputError
from acclimate.preprocessing import Preprocessing
from acclimate.views import shifted_crop


class Outcome(NamedTuple):
    """What an objective computes in a pass at deployment."""

    losses: Float[Tensor, "*batch"]
    """One loss an image, or a scalar."""
    logits: Float[Tensor, "batch classes"] | None = None
    """The classifier's logits of the plain images, if it has computed them."""
    features: Float[Tensor, "batch dim"] | None = None
    """The encoder's features of the plain images, if it has computed them."""


class Objective(nn.Module):
    """A loss without labels, and the modules that it owns: projector, rotation branch, decoder.

    A subclass has at least `forward`. Its constructor takes the classifier that is to be adapted
    and the preprocessing of its images, then keyword options that JSON can hold: a bundle rebuilds
    its objective from them. The classifier itself is not kept.

    A buffer that `forward` writes to is part of the adapter's state, as are running statistics of
    batch norm; all other buffers are constants at deployment.
    """

    min_images: int = 1
    """The fewest images with a loss; an adapter takes no step on fewer."""
    min_source_images: int = 1
    """The fewest images that `observe` must see."""
    gives_logits: bool = False
    """Whether `forward` gives the logits of the plain images in its `Outcome`."""
    keeps_source: tuple[str, ...] = ()
    """Names of submodules whose batch norm keeps the source's statistics at deployment."""

    def draw(
        self, images: Float[Tensor, "batch 3 h w"], key: int, index: Int64[Tensor, " batch"]
    ) -> tuple[Tensor, ...]:
        """Views of images at deployment, 0..1, and whatever else `forward` takes behind them.

        Args:
            images: 0..1, not normalised.
            key: From `acclimate.randomness.key`.
            index: Index of each image in the stream, so that views do not depend on the batch.
        """
        return (images,)

    def forward(
        self, model: Classifier, views: Float[Tensor, "views 3 h w"], *drawn: Tensor
    ) -> Float[Tensor, "*batch"] | Outcome:
        """The loss at deployment: a mean over images, one loss an image, or an `Outcome`.

        Args:
            model: The classifier that adapts.
            views: The first of what `draw` gave, normalised.
            drawn: The rest of it.
        """
        raise NotImplementedError

    def source_draw(
        self, images: Float[Tensor, "batch 3 h w"], key: int, index: Int64[Tensor, " batch"]
    ) -> tuple[Tensor, ...]:
        """As `draw`, before deployment."""
        return self.draw(images, key, index)

    def source_loss(
        self, model: Classifier, views: Float[Tensor, "views 3 h w"], *drawn: Tensor
    ) -> Float[Tensor, ""]:
        """The loss before deployment, a mean over images; it trains the objective's modules."""
        return as_outcome(self(model, views, *drawn)).losses.mean()

    def observe(self, model: Classifier, batches: Iterable[Float[Tensor, "batch 3 h w"]]) -> None:
        """Keep, in buffers, what deployment needs to know of the source.

        Args:
            model: The trained classifier, in evaluation mode, without gradients.
            batches: Normalised source images.
        """


class TrainedOnCrops(Objective):
    """An objective that sees shifted, flipped crops before deployment and whole images at it."""

    padding: int
    """The largest shift, in pixels."""

    def source_draw(
        self, images: Float[Tensor, "batch 3 h w"], key: int, index: Int64[Tensor, " batch"]
    ) -> tuple[Tensor, ...]:
        """The images shifted, and some of them flipped: the supervised augmentation."""
        return (shifted_crop(images, self.padding, key=key, index=index),)


def as_outcome(given: Tensor | Outcome) -> Outcome:
    """What an objective's `forward` returned, with its parts by name."""
    return given if isinstance(given, Outcome) else Outcome(given)


@dataclass(frozen=True)
class ObjectiveOptions:
    """Which objective an adapter minimises, and what of it can be set at deployment.

    The objective is the bundle's if that is of this kind, and otherwise made on the spot. Options
    that are None keep the value that the bundle's was trained with.
    """

    kind: ClassVar[type[Objective]]

    def build(
        self, model: Classifier, preprocessing: Preprocessing, trained: Objective | None
    ) -> Objective:
        """The objective of an adapter, its own copy.

        Args:
            model: The classifier that adapts.
            preprocessing: The preprocessing of its images.
            trained: The bundle's objective.

        Raises:
            InputError: as the objective's constructor.
        """
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        given = {name: value for name, value in values.items() if value is not None}
        if trained is None or type(trained) is not self.kind:
            return self.kind(model, preprocessing, **given)
        own = copy.deepcopy(trained)
        for name, value in given.items():
            setattr(own, name, value)
        return own


@dataclass(frozen=True)
class TemperatureOptions(ObjectiveOptions):
    """The options of an objective that contrasts views."""

    temperature: float | None = None
    """τ at deployment; None keeps the value that the objective was trained with."""

    def check(self) -> None:
        """Refuse settings that cannot be meant."""
        value = self.temperature
        if value is not None and not (math.isfinite(value) and value > 0):
            raise InputError(f"temperature must be a finite number above 0, not {value}.")
