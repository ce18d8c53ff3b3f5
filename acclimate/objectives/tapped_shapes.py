"""Names and shapes of the feature maps that an objective reads from the encoder."""

from collections.abc import Sequence

import torch

from acclimate.backbones import Classifier, duplicate
from acclimate.backbones.stages import as_map, resolve_tap
from acclimate.backbones.taps import tapped
from acclimate.preprocessing import Preprocessing


def tapped_shapes(
    model: Classifier, preprocessing: Preprocessing, taps: Sequence[str | int]
) -> tuple[list[str], list[tuple[int, int, int]]]:
    """Names of the tapped layers, and channels, height and width of their feature maps.

    ```python
    names, shapes = tapped_shapes(model, preprocessing, [1, 2])
    ```

    Args:
        model: The classifier, which does not change: a copy processes one black image.
        preprocessing: Preprocessing of its images; only their size is used.
        taps: Names of modules, or indices of stages, counted from 1.

    Raises:
        InputError: there is no such module or stage, or the forward pass never calls it.
    """
    names = [resolve_tap(model.encoder, tap, preprocessing.size) for tap in taps]
    # In training mode the image would change the running statistics of batch norm.
    encoder = duplicate(model.encoder).eval()
    parameter = next(encoder.parameters())
    height, width, channels = preprocessing.shape
    image = torch.zeros(1, channels, height, width).to(parameter)
    with torch.no_grad():
        shapes = [as_map(features).shape for features in tapped(encoder, names, image)]
    return names, [(channels, height, width) for _, channels, height, width in shapes]
