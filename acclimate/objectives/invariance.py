"""Invariance of predictions to small adversarial perturbations (TIPI, Nguyen et al. 2023)."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax

from acclimate.backbones import Classifier
from acclimate.backbones.batch_norm import own_statistics
from acclimate.errors import InputError
from acclimate.objectives.entropy import entropies
from acclimate.objectives.objective import Objective, ObjectiveOptions, Outcome
from acclimate.preprocessing import Preprocessing
from acclimate.randomness import Key, uniform


def reverse_kl(
    shifted: Float[Tensor, "batch classes"], clean: Float[Tensor, "batch classes"]
) -> Float[Tensor, " batch"]:
    """KL( p(x′) ‖ p(x) ) of each image, in nats and in at least float32.

    ```python
    divergence = reverse_kl(model(images + perturbation), model(images))  # [batch]
    ```

    Args:
        shifted: Logits for the perturbed images x′.
        clean: Logits for the images x.
    """
    precise = torch.promote_types(shifted.dtype, torch.float32)
    log_q, log_p = (log_softmax(logits, dim=1, dtype=precise) for logits in (clean, shifted))
    return kl_div(log_q, log_p, log_target=True, reduction="none").sum(1)


class Invariance(Objective):
    """KL( p(x′) ‖ p(x) ) with x′ an adversarial perturbation of x within ± ε (TIPI).

    One signed gradient step finds x′. The gradient of the divergence is zero at x, so the step
    starts at a random point within ± ε, as the released code does on ImageNet. The predictions for
    x are detached. Batch norm normalises the perturbed images by their own statistics, which do not
    enter its running averages.

    Unlike the other losses this one is a *sum* over images: TIPI's learning rate is per image.

    ```python
    objective = Invariance(model, preprocessing, epsilon=2 / 255)
    views, start = objective.draw(images, key(0), torch.arange(len(images)))
    loss = objective(model, preprocessing.normalize(views), start).losses
    ```

    Args:
        model: Not used.
        preprocessing: Preprocessing of the images; its standard deviations scale ε to normalised
            images.
        epsilon: Largest perturbation ε of a pixel in 0..1.
        entropy: Weight of the entropy of the predictions for x, a term of the released code: 0 on
            CIFAR-10, 5 on CIFAR-100, 1 on ImageNet.

    Raises:
        InputError: ε not above 0, or a negative weight.
    """

    epsilon: Float[Tensor, "3 1 1"]
    gives_logits = True
    replayable = True

    def __init__(
        self,
        model: Classifier,
        preprocessing: Preprocessing,
        *,
        epsilon: float = 2 / 255,
        entropy: float = 0.0,
    ):
        super().__init__()
        if not (0 < epsilon < math.inf and 0 <= entropy < math.inf):
            raise InputError(
                f"invariance needs an epsilon above 0 and an entropy weight of 0 or more, not "
                f"{epsilon} and {entropy}."
            )
        self.entropy = entropy
        scaled = epsilon / torch.tensor(preprocessing.std)[:, None, None]
        self.register_buffer("epsilon", scaled, persistent=False)

    def draw(
        self, images: Float[Tensor, "batch 3 h w"], key: Key, index: Int64[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch 3 h w"], Float[Tensor, "batch 3 h w"]]:
        """The images unchanged, and random initial perturbations in units of ε: -1..1."""
        start = 2 * uniform(key, index, images[0].numel()) - 1
        return images, start.view(images.shape)

    def forward(
        self,
        model: Classifier,
        views: Float[Tensor, "batch 3 h w"],
        start: Float[Tensor, "batch 3 h w"],
    ) -> Outcome:
        """The divergence, summed over images, and the logits for the unperturbed images.

        Args:
            model: The classifier that adapts.
            views: Normalised images.
            start: Initial perturbations from `draw`.
        """
        clean = model(views)
        entropy = self.entropy * entropies(clean).sum() if self.entropy else 0.0
        clean = clean.detach()  # frees the graph, unless the entropy needs it
        with own_statistics(model):
            shifted = model(adversarial(model, views, clean, start, self.epsilon))
        return Outcome(reverse_kl(shifted, clean).sum() + entropy, clean)


def adversarial(
    model: nn.Module,
    views: Float[Tensor, "batch 3 h w"],
    clean: Float[Tensor, "batch classes"],
    start: Float[Tensor, "batch 3 h w"],
    epsilon: Float[Tensor, "3 1 1"],
) -> Float[Tensor, "batch 3 h w"]:
    """Perturb images within ± ε by one signed gradient step of size ε on the divergence.

    ```python
    start = 2 * torch.rand_like(views) - 1
    perturbed = adversarial(model, views, model(views).detach(), start, epsilon)
    ```

    Args:
        model: The classifier; its parameters receive no gradients.
        views: Normalised images x.
        clean: Logits for x.
        start: Initial perturbations in units of ε: -1..1.
        epsilon: ε of each channel, scaled to normalised images.
    """
    shift = (start * epsilon).requires_grad_()
    with torch.enable_grad():
        divergence = reverse_kl(model(views + shift), clean).sum()
    (gradient,) = torch.autograd.grad(divergence, shift)
    step = shift.detach() + epsilon * gradient.sign()
    return views + step.clamp(-epsilon, epsilon)


@dataclass(frozen=True)
class InvarianceOptions(ObjectiveOptions):
    """Options of `Invariance` at deployment.

    ```python
    AdapterSettings(steps=1, objective=InvarianceOptions(entropy=5.0), update=SGD(4e-6))
    ```
    """

    epsilon: float = 2 / 255
    """Largest perturbation ε of a pixel in 0..1."""
    entropy: float = 0.0
    """Weight of an entropy term: as released 0 on CIFAR-10, 5 on CIFAR-100, 1 on ImageNet."""

    kind: ClassVar[type[Objective]] = Invariance
