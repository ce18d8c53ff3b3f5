"""What an objective must know of the layers that it taps before it can build its parts."""

import copy
from collections.abc import Sequence

import torch

from acclimate.backbones import Classifier
from acclimate.backbones.stages import as_map, resolve_tap
from acclimate.backbones.taps import tapped
from acclimate.preprocessing import Preprocessing


def tapped_shapes(
    model: Classifier, preprocessing: Preprocessing, taps: Sequence[str | int]
) -> tuple[list[str], list[tuple[int, int, int]]]:
    """The names of tapped layers, and the channels, height and width of their maps.

    Args:
        model: Left as it is: a copy sees one black image.
        preprocessing: Gives the size of the images.
        taps: Each a module's name or a stage's number from 1.

    Raises:
        InputError: no such module or stage, or the forward pass never calls it.
    """
    names = [resolve_tap(model.encoder, tap, preprocessing.size) for tap in taps]
    # In training mode the image would move the statistics of batch norm.
    encoder = copy.deepcopy(model.encoder).eval()
    parameter = next(encoder.parameters())
    image = torch.zeros(1, 3, preprocessing.size, preprocessing.size).to(parameter)
    with torch.no_grad():
        shapes = [as_map(features).shape for features in tapped(encoder, names, image)]
    return names, [(channels, height, width) for _, channels, height, width in shapes]
