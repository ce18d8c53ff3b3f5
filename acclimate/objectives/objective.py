"""The interface of all objectives: used by the adapter and by training before deployment."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from acclimate.backbones import Classifier, duplicate
from acclimate.errors import InputError
from acclimate.preprocessing import Preprocessing
from acclimate.randomness import Key
from acclimate.views import shifted_crop


class Outcome(NamedTuple):
    """The result of an objective's forward pass at deployment.

    ```python
    Outcome(entropies(logits), logits)
    ```
    """

    losses: Float[Tensor, "*batch"]
    """One loss per image, or a scalar."""
    logits: Float[Tensor, "batch classes"] | None = None
    """The classifier's logits for the images without augmentation, if they were computed."""
    features: Float[Tensor, "batch dim"] | None = None
    """The encoder's features of the images without augmentation, if they were computed."""
    drops: Float[Tensor, " batch"] | None = None
    """By how much the probability of each prediction drops once the image is destroyed, if it was
    computed."""


class Objective(nn.Module):
    """A loss without labels, with its own modules such as a projector, a branch or a decoder.

    A subclass implements at least `forward`. Its constructor takes the classifier that will adapt,
    the preprocessing of its images, and keyword options that JSON can represent: a bundle rebuilds
    its objective from these options. The objective does not keep the classifier.

    A buffer that `forward` writes to belongs to the adapter's state, like the running statistics
    of batch norm. All other buffers are constant at deployment.

    ```python
    class Confidence(Objective):
        def __init__(self, model, preprocessing):
            super().__init__()

        def forward(self, model, views):
            return -model(views).log_softmax(1).amax(1)  # one loss per image
    ```
    """

    min_images: int = 1
    """Smallest batch that has a loss. The adapter takes no step on a smaller one."""
    min_source_images: int = 1
    """Smallest number of source images that `observe` needs."""
    gives_logits: bool = False
    """Whether the `Outcome` of `forward` has the logits for the images without augmentation."""
    gives_features: bool = False
    """Whether it has the features of these images, too."""
    replayable: bool = False
    """Whether a CUDA graph of a step may be replayed with other images: no operation waits for the
    device or takes the shape of its result from values, all that changes from step to step is a
    tensor that changes in place, and all random numbers come from the key. A number or list in
    Python would silently stay what it was when the graph was captured."""
    untrained: bool = False
    """Whether its own layers begin at deployment, with weights of its constructor's choice. Without
    it they must have been trained with the bundle."""
    keeps_source: tuple[str, ...] = ()
    """Names of submodules whose batch norm keeps the source statistics at deployment."""

    def equip(self, model: Classifier) -> None:
        """Give the model what the objective adapts beyond its layers, such as vectors of prompts.

        Args:
            model: The copy that adapts; changed in place, before it is chosen what moves.
        """

    def draw(
        self, images: Float[Tensor, "batch 3 h w"], key: Key, index: Int64[Tensor, " batch"]
    ) -> tuple[Tensor, ...]:
        """Draw the views of images at deployment, and the further inputs of `forward`.

        Args:
            images: Images in 0..1, not normalised.
            key: Random key from `acclimate.randomness.key`.
            index: Index of each image in the stream. Views depend on it and not on the batch.

        Returns:
            The views, in 0..1 and not normalised, then the further tensors that `forward` takes.
        """
        return (images,)

    def forward(
        self, model: Classifier, views: Float[Tensor, "views 3 h w"], *drawn: Tensor
    ) -> Float[Tensor, "*batch"] | Outcome:
        """The loss at deployment: a mean over images, one loss per image, or an `Outcome`.

        Args:
            model: The classifier that adapts.
            views: The views from `draw`, normalised.
            drawn: The further tensors from `draw`.
        """
        raise NotImplementedError

    def source_draw(
        self, images: Float[Tensor, "batch 3 h w"], key: Key, index: Int64[Tensor, " batch"]
    ) -> tuple[Tensor, ...]:
        """Draw the views for `source_loss`; by default the same as `draw`."""
        return self.draw(images, key, index)

    def source_loss(
        self, model: Classifier, views: Float[Tensor, "views 3 h w"], *drawn: Tensor
    ) -> Float[Tensor, ""]:
        """The loss that trains the objective's modules before deployment, a mean over images."""
        return as_outcome(self(model, views, *drawn)).losses.mean()

    def observe(self, model: Classifier, batches: Iterable[Float[Tensor, "batch 3 h w"]]) -> None:
        """Store in buffers the statistics of the source that deployment needs.

        Args:
            model: The trained classifier, in evaluation mode, without gradients.
            batches: Normalised source images.
        """


class TrainedOnCrops(Objective):
    """An objective that is trained on shifted, flipped crops and adapts on whole images."""

    padding: int
    """Largest shift of a crop, in pixels."""

    def source_draw(
        self, images: Float[Tensor, "batch 3 h w"], key: Key, index: Int64[Tensor, " batch"]
    ) -> tuple[Tensor, ...]:
        """Randomly shifted and flipped images: the augmentation of supervised training."""
        return (shifted_crop(images, self.padding, key=key, index=index),)


def as_outcome(result: Tensor | Outcome) -> Outcome:
    """The return value of an objective's `forward` as an `Outcome`.

    ```python
    losses = as_outcome(objective(model, views, *drawn)).losses
    ```
    """
    return result if isinstance(result, Outcome) else Outcome(result)


@dataclass(frozen=True)
class ObjectiveOptions:
    """The objective that an adapter minimises, and its options at deployment.

    If the bundle holds an objective of this kind, the adapter uses that one; otherwise it creates
    a new one. An option that is None keeps the value from training.

    ```python
    objective = EntropyOptions().build(bundle.classifier, bundle.preprocessing, bundle.objective)
    ```
    """

    kind: ClassVar[type[Objective]]
    source_statistics: ClassVar[tuple[str, ...]] = ()
    """Kinds of statistics of source images that it needs, each a keyword of the constructor."""

    def build(
        self,
        model: Classifier,
        preprocessing: Preprocessing,
        trained: Objective | None,
        **source: Mapping[str, Tensor],
    ) -> Objective:
        """Create an adapter's objective, a copy that the adapter owns.

        Args:
            model: The classifier that adapts.
            preprocessing: The preprocessing of its images.
            trained: The bundle's objective, if it has one.
            source: Statistics of source images, by their kind, for the constructor.

        Raises:
            InputError: the objective must be trained, and the bundle has none of its kind; or
                its constructor refuses the options.
        """
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        changes = {name: value for name, value in values.items() if value is not None}
        if trained is None or type(trained) is not self.kind:
            with torch.random.fork_rng(devices=[]):
                made = self.kind(model, preprocessing, **changes, **source)
            if not self.kind.untrained and any(True for _ in made.parameters()):
                raise InputError(
                    f"{self.kind.__name__} must be trained with the bundle, and this one has "
                    f"another objective or none; make a bundle for it with acclimate train."
                )
            return made
        objective = duplicate(trained)
        for name, value in changes.items():
            setattr(objective, name, value)
        return objective


@dataclass(frozen=True)
class TemperatureOptions(ObjectiveOptions):
    """Options of an objective with a contrastive loss."""

    temperature: float | None = None
    """Temperature τ at deployment; None keeps the value from training."""

    def check(self) -> None:
        """Raise an InputError if the temperature is not a finite number above 0."""
        value = self.temperature
        if value is not None and not (math.isfinite(value) and value > 0):
            raise InputError(f"temperature must be a finite number above 0, not {value}.")
