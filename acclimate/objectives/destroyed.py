"""Entropy, and what destroying an image's shapes changes (DeYO, Lee et al. 2024)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import interpolate

from acclimate.backbones import Classifier
from acclimate.backbones.batch_norm import own_statistics
from acclimate.errors import InputError
from acclimate.objectives.entropy import entropies
from acclimate.objectives.objective import Objective, ObjectiveOptions, Outcome
from acclimate.preprocessing import Preprocessing
from acclimate.randomness import Key, uniform


def shuffled_patches(
    images: Float[Tensor, "batch channels h w"], order: Int64[Tensor, "batch places"]
) -> Float[Tensor, "batch channels h w"]:
    """Images cut into a square grid of patches, which change places.

    Images whose sides are no multiples of the grid's are resized to the next smaller multiple, and
    back afterwards, as in DeYO's release.

    ```python
    order = torch.rand(len(images), 16).argsort(1)
    shuffled = shuffled_patches(images, order)
    ```

    Args:
        images: Any images.
        order: For each place, row by row, the patch that it receives; a permutation for each image.

    Returns:
        Images of the same size.
    """
    batch, channels, *size = images.shape
    side = round(order.shape[1] ** 0.5)
    height, width = (max(side, length // side * side) for length in size)
    if [height, width] != size:
        images = interpolate(images, (height, width), mode="bilinear", antialias=True)
    cut = images.reshape(batch, channels, side, height // side, side, width // side)
    cut = cut.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)  # [batch, places, channels, h, w]
    cut = cut.gather(1, order[:, :, None, None, None].expand_as(cut))
    cut = cut.unflatten(1, (side, side)).permute(0, 3, 1, 4, 2, 5)
    whole = cut.reshape(batch, channels, height, width)
    if [height, width] != size:
        whole = interpolate(whole, size, mode="bilinear", antialias=True)
    return whole


class Destroyed(Objective):
    """Entropy of each prediction, and the drop of its probability once the image is destroyed.

    PLPD = p_ŷ(x) − p_ŷ(x′), where ŷ is the predicted class of x, and x′ is x with its patches
    shuffled: texture stays, shape goes. The loss is the entropy. The drop has no gradient; a
    selection reads it. Batch norm normalises x′ by the statistics of the whole shuffled batch,
    which do not enter its running averages.

    ```python
    objective = Destroyed(model, preprocessing, patches=4)
    views, order = objective.draw(images, key(0), torch.arange(len(images)))
    drops = objective(model, preprocessing.normalize(views), order).drops
    ```

    Args:
        model: Not used.
        preprocessing: Not used.
        patches: Patches in each row and column.

    Raises:
        InputError: fewer than two patches a row.
    """

    gives_logits = True
    replayable = True

    def __init__(self, model: Classifier, preprocessing: Preprocessing, *, patches: int = 4):
        super().__init__()
        if patches < 2:
            raise InputError(f"patches must be 2 or more, not {patches}: one cannot be shuffled.")
        self.patches = patches

    def draw(
        self, images: Float[Tensor, "batch 3 h w"], key: Key, index: Int64[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch 3 h w"], Int64[Tensor, "batch places"]]:
        """The images unchanged, and for each the random order of its patches."""
        return images, uniform(key, index, self.patches**2).argsort(1)

    def forward(
        self,
        model: Classifier,
        views: Float[Tensor, "batch 3 h w"],
        order: Int64[Tensor, "batch places"],
    ) -> Outcome:
        """The entropy of each prediction, the logits, and the drops.

        Args:
            model: The classifier that adapts.
            views: Normalised images.
            order: The order of each image's patches.
        """
        logits = model(views)
        with torch.no_grad(), own_statistics(model):
            destroyed = model(shuffled_patches(views, order))
        return Outcome(entropies(logits), logits, drops=probability_drops(logits, destroyed))


@torch.no_grad()
def probability_drops(
    logits: Float[Tensor, "batch classes"], destroyed: Float[Tensor, "batch classes"]
) -> Float[Tensor, " batch"]:
    """PLPD: the predicted class's probability, less its probability for the destroyed image.

    ```python
    probability_drops(model(images), model(shuffled_patches(images, order)))
    ```

    Args:
        logits: For the images.
        destroyed: For the destroyed images.

    Returns:
        -1..1, in at least float32.
    """
    precise = torch.promote_types(logits.dtype, torch.float32)
    answers = logits.argmax(1, keepdim=True)
    before, after = (z.softmax(1, dtype=precise).gather(1, answers) for z in (logits, destroyed))
    return (before - after).squeeze(1)


@dataclass(frozen=True)
class DestroyedOptions(ObjectiveOptions):
    """Options of `Destroyed` at deployment.

    ```python
    AdapterSettings(steps=1, objective=DestroyedOptions(), selection=ReliableByShape())
    ```
    """

    patches: int = 4
    """Patches in each row and column of a destroyed image."""

    kind: ClassVar[type[Objective]] = Destroyed
