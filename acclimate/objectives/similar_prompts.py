"""Images learn from how similar they and their prompts are to each other (CLIPArTT, WATT)."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import log_softmax, normalize

from acclimate.backbones import Classifier
from acclimate.backbones.prompted import Words
from acclimate.backbones.zero_shot import ZeroShotHead, words_in
from acclimate.errors import InputError
from acclimate.objectives.confident_views import zero_shot_head
from acclimate.objectives.objective import Objective, ObjectiveOptions
from acclimate.preprocessing import Preprocessing
from acclimate.runtime.precision import at_least_float32


def similarity_targets(
    images: Float[Tensor, "batch dim"], texts: Float[Tensor, "batch dim"], temperature: float
) -> Float[Tensor, "batch batch"]:
    """How similar the images of a batch and their prompts are to each other (CLIPArTT, Eq. 4).

    ```python
    targets = similarity_targets(images, texts, 0.01)  # each row adds up to 1
    ```

    Args:
        images: Features of length 1.
        texts: Features of each image's prompt, of length 1.
        temperature: τ of softmax((I Iᵀ + T Tᵀ)/2/τ).
    """
    return ((images @ images.T + texts @ texts.T) / 2 / temperature).softmax(1)


def similarity_losses(
    logits: Float[Tensor, "batch batch"], targets: Float[Tensor, "batch batch"]
) -> Float[Tensor, " batch"]:
    """Cross entropy of each image against the prompts of all: −Σ_j Q_ij log P_ij.

    ```python
    losses = similarity_losses(100 * images @ texts.T, targets)
    ```

    Args:
        logits: Of each image (row) for each prompt.
        targets: Q.
    """
    return -(targets * log_softmax(logits, dim=1)).sum(1)


class SimilarPrompts(Objective):
    """The cross entropy of images against the prompts of a batch, with similarities for targets.

    A subclass says which prompt an image has.

    Args:
        model: A zero-shot classifier; not kept.
        preprocessing: Not used.
        temperature: Of the targets.
        released: Whether targets are as in the releases: transposed, so that an image's do not add
            up to 1, and with gradients through them.

    Raises:
        InputError: the model is no zero-shot classifier.
    """

    min_images = 2  # the only prompt of a single image has probability 1, and the loss is 0
    replayable = True

    def __init__(
        self,
        model: Classifier,
        preprocessing: Preprocessing,
        *,
        temperature: float = 0.01,
        released: bool = False,
    ):
        super().__init__()
        self.temperature: float = temperature
        self.released: bool = released
        zero_shot_head(model)

    @abstractmethod
    def prompts(
        self, head: ZeroShotHead, features: Float[Tensor, "batch dim"]
    ) -> Float[Tensor, "batch dim"]:
        """Features of each image's prompt, of length 1, without gradients.

        Args:
            head: The classifier's.
            features: The images', of length 1.
        """

    def forward(
        self, model: Classifier, views: Float[Tensor, "batch 3 h w"]
    ) -> Float[Tensor, " batch"]:
        """The loss of each image, from the normalised images."""
        head, features = zero_shot_head(model), model.encoder(views)
        with torch.autocast(views.device.type, enabled=False):
            images = normalize(at_least_float32(features), dim=1)
            with torch.no_grad():
                texts = at_least_float32(self.prompts(head, images))
            if self.released:
                targets = similarity_targets(images, texts, self.temperature).T
            else:
                targets = similarity_targets(images.detach(), texts, self.temperature)
            return similarity_losses(head.compared(images, texts), targets)


class LikelyClasses(SimilarPrompts):
    """Each image's prompt names its most likely classes: "a photo of a A or B or C" (CLIPArTT).

    ```python
    losses = LikelyClasses(model, preprocessing, top=3)(model, preprocessing.normalize(images))
    ```

    Args:
        model: A zero-shot classifier with a text encoder; not kept.
        preprocessing: Not used.
        top: Number K of classes in a prompt.
        temperature: Of the targets.
        released: As for `SimilarPrompts`.

    Raises:
        InputError: the model is no such classifier, has fewer classes, or the joined names are
            longer than its text encoder reads.
    """

    def __init__(
        self,
        model: Classifier,
        preprocessing: Preprocessing,
        *,
        top: int = 3,
        temperature: float = 0.01,
        released: bool = False,
    ):
        super().__init__(model, preprocessing, temperature=temperature, released=released)
        words = words_in(zero_shot_head(model))
        if top > model.num_classes:
            raise InputError(
                f"prompts cannot name the {top} most likely of {model.num_classes} classes; set "
                f"objective.top to fewer."
            )
        self.top: int = top
        self.length: int = words.longest_joined(top)
        if self.length > words.positions:
            raise InputError(
                f"a prompt of {top} class names takes up to {self.length} tokens, and the text "
                f"encoder reads {words.positions}; set objective.top to fewer, or shorten the "
                f"names."
            )

    def prompts(
        self, head: ZeroShotHead, features: Float[Tensor, "batch dim"]
    ) -> Float[Tensor, "batch dim"]:
        """Features of prompts of the classes that are most likely now."""
        words: Words = words_in(head)
        likely = head(features).topk(self.top, dim=1).indices
        return words.vectors(words.joined(likely, self.length))


class TemplateTurns(SimilarPrompts):
    """Each image's prompt names its most likely class, in one template after another (WATT).

    ```python
    objective = TemplateTurns(model, preprocessing, templates=8, steps=2)
    losses = objective(model, preprocessing.normalize(images))  # with the first template
    ```

    Args:
        model: A zero-shot classifier; not kept.
        preprocessing: Not used.
        templates: How many of the classifier's templates take turns.
        steps: Steps with each template before the next one's turn.
        temperature: Of the targets.
        released: As for `SimilarPrompts`.

    Attributes:
        taken: How many steps there were.

    Raises:
        InputError: the model is no zero-shot classifier, or has fewer templates.
    """

    taken: Tensor

    def __init__(
        self,
        model: Classifier,
        preprocessing: Preprocessing,
        *,
        templates: int = 8,
        steps: int = 2,
        temperature: float = 0.01,
        released: bool = False,
    ):
        super().__init__(model, preprocessing, temperature=temperature, released=released)
        there = len(zero_shot_head(model).by_template)
        if templates > there:
            raise InputError(
                f"the method takes turns of {templates} templates, and this classifier has "
                f"{there}; make the bundle with more, or set objective.templates and "
                f"aftermath.0.templates to {there}."
            )
        self.templates: int = templates
        self.steps: int = steps
        self.register_buffer("taken", torch.zeros((), dtype=torch.int64, device="cpu"))

    def prompts(
        self, head: ZeroShotHead, features: Float[Tensor, "batch dim"]
    ) -> Float[Tensor, "batch dim"]:
        """Text features, by the present template, of the classes that are most likely by it."""
        turn = (self.taken // self.steps % self.templates)[None]
        texts = head.by_template.index_select(0, turn)[0]  # [classes, dim]
        self.taken += 1
        return texts[head.compared(features, texts).argmax(1)]


@dataclass(frozen=True)
class _SimilarPromptsOptions(ObjectiveOptions):
    temperature: float = 0.01
    """Temperature of the targets."""
    released: bool = False
    """Whether targets are as in the releases: transposed, so that an image's do not add up to 1,
    and with gradients through them."""

    def check(self) -> None:
        """Raise an InputError if the temperature is not above 0."""
        if not self.temperature > 0:
            raise InputError(f"temperature must be above 0, not {self.temperature}.")


@dataclass(frozen=True)
class LikelyClassesOptions(_SimilarPromptsOptions):
    """Options of `LikelyClasses` at deployment."""

    top: int = 3
    """Number of classes in a prompt."""
    kind: ClassVar[type[Objective]] = LikelyClasses

    def check(self) -> None:
        """Raise an InputError if a prompt would name no class, or the temperature is none."""
        super().check()
        if self.top < 1:
            raise InputError(f"top must be at least 1, not {self.top}.")


@dataclass(frozen=True)
class TemplateTurnsOptions(_SimilarPromptsOptions):
    """Options of `TemplateTurns` at deployment."""

    templates: int = 8
    """How many of the classifier's templates take turns."""
    steps: int = 2
    """Steps with each template before the next one's turn."""
    kind: ClassVar[type[Objective]] = TemplateTurns

    def check(self) -> None:
        """Raise an InputError if no template would have a turn, or the temperature is none."""
        super().check()
        if self.templates < 1 or self.steps < 1:
            raise InputError(
                f"templates and steps must be at least 1, not {self.templates} and {self.steps}."
            )
