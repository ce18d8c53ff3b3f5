"""Predict the same for an image and for a small, adversarial shift of it (TIPI, Nguyen et al.)."""

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
from acclimate.randomness import uniform


def reverse_kl(
    shifted: Float[Tensor, "batch classes"], clean: Float[Tensor, "batch classes"]
) -> Float[Tensor, " batch"]:
    """KL( p(x′) ‖ p(x) ) of each image, in nats, in at least float32.

    Args:
        shifted: Logits of the shifted images x′.
        clean: Logits of the images x.
    """
    precise = torch.promote_types(shifted.dtype, torch.float32)
    target, found = (log_softmax(logits, dim=1, dtype=precise) for logits in (clean, shifted))
    return kl_div(target, found, log_target=True, reduction="none").sum(1)


class Invariance(Objective):
    """KL( p(x′) ‖ p(x) ), x′ the image within ± ε at which predictions differ most (TIPI, 2023).

    One step of the gradient's sign finds x′. At x itself the gradient of the divergence is zero, so
    the step leaves from a random point within ± ε, as the release does on ImageNet. Predictions for
    x are constants. The shifted images are normalised by statistics of their own, which do not
    enter batch norm's running averages.

    Unlike other objectives' this loss is a *sum* over images: TIPI's learning rate is per image.

    Args:
        model: Not used.
        preprocessing: Its standard deviations turn ε into units of normalised images.
        epsilon: ε, for pixels in 0..1.
        entropy: Weight of the entropy of the predictions for x, which the release adds: 0 on
            CIFAR-10, 5 on CIFAR-100, 1 on ImageNet.

    Raises:
        InputError: ε not above zero, or a negative weight.
    """

    epsilon: Float[Tensor, "3 1 1"]
    gives_logits = True

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
        self, images: Float[Tensor, "batch 3 h w"], key: int, index: Int64[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch 3 h w"], Float[Tensor, "batch 3 h w"]]:
        """The images themselves, and where their shifts start, in units of ε: -1..1."""
        start = 2 * uniform(key, index, images[0].numel()) - 1
        return images, start.view(images.shape)

    def forward(
        self,
        model: Classifier,
        views: Float[Tensor, "batch 3 h w"],
        start: Float[Tensor, "batch 3 h w"],
    ) -> Outcome:
        """The divergence, summed over images, and the logits of the images themselves.

        Args:
            model: The classifier that adapts.
            views: Normalised images.
            start: From `draw`.
        """
        clean = model(views)
        entropy = self.entropy * entropies(clean).sum() if self.entropy else 0.0
        clean = clean.detach()  # which frees the graph, unless the entropy needs it
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
    """Images within ± ε whose predictions differ from the clean ones, after one step of ε.

    Args:
        model: Its parameters' gradients are left alone.
        views: Normalised images x.
        clean: Their logits.
        start: The shift to step from, in units of ε: -1..1.
        epsilon: ε of each channel, in units of normalised images.
    """
    shift = (start * epsilon).requires_grad_()
    with torch.enable_grad():
        divergence = reverse_kl(model(views + shift), clean).sum()
    (gradient,) = torch.autograd.grad(divergence, shift)
    step = shift.detach() + epsilon * gradient.sign()
    return views + step.clamp(-epsilon, epsilon)


@dataclass(frozen=True)
class InvarianceOptions(ObjectiveOptions):
    """Options of `Invariance` at deployment."""

    epsilon: float = 2 / 255
    """ε, the largest shift of a pixel in 0..1."""
    entropy: float = 0.0
    """Weight of the entropy that the release adds: 0 on CIFAR-10, 5 on CIFAR-100, 1 on ImageNet."""

    kind: ClassVar[type[Objective]] = Invariance
