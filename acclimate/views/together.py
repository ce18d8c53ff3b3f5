"""Colour jitter and grey of all views in the same operations, whose number depends on no value.

On a GPU an operation costs much the same for some images as for all, and to find out for which
would wait for it.
"""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from acclimate.runtime.constants import on_device
from acclimate.views.colours import blend_in_few, hue_in_few, luma_in_few

_SLOTS = (0, 1, 2, 1, 2, 3)
"""The step of the jitter that each blend stands for: three before the hue, three after it."""


def coloured(
    images: Float[Tensor, "batch channels h w"],
    factors: Float[Tensor, "batch 4"],
    order: Int64[Tensor, "batch 4"],
    jittered: Bool[Tensor, " batch"],
    grey: Bool[Tensor, " batch"],
) -> Float[Tensor, "batch channels h w"]:
    """Jitter and grey where they are due; images without either keep their values exactly.

    An image has its three blends before or after its hue shift. Here every image has three before
    and three after, of which the others are the identity: an image's own weight is 1 then.

    Args:
        images: RGB or grey, 0..1; changed in place.
        factors: Brightness, contrast and saturation factors and hue shift of each image.
        order: Permutation of 0..3 for each image: the order in which the four are applied.
        jittered: Which images are jittered.
        grey: Which images become grey.
    """
    steps = on_device(_SLOTS, images.device, torch.int64)
    sign = on_device((1, 1, 1, -1, -1, -1), images.device, torch.int64)
    hue_step = (order == 3).int().argmax(1, keepdim=True)
    due = ((steps - hue_step) * sign < 0) & jittered[:, None]  # [batch, 6]
    operation = order.index_select(1, steps)
    own = factors.gather(1, operation).where(due, 1)
    rest = 1 - own
    mean, other = rest * (operation == 1), rest * (operation == 2)
    for slot in range(len(_SLOTS)):
        if slot == 3 and images.shape[1] == 3:  # grey has no hue
            shifted = hue_in_few(images, factors[:, 3])
            images = torch.where(jittered[:, None, None, None], shifted, images)
        images = blend_in_few(images, own[:, slot], other[:, slot], mean[:, slot])
    if images.shape[1] == 1:
        return images
    return torch.where(grey[:, None, None, None], luma_in_few(images), images)
