"""Corruptions by weather."""

from jaxtyping import Float32, UInt8
from torch import Tensor

from acclimate.data.corruptions.pixels import Draws, to_levels, to_unit


def fog(
    images: UInt8[Tensor, "n 3 h w"], constant: tuple[float, float], scale: float, draws: Draws
) -> UInt8[Tensor, "n 3 h w"]:
    """Add a cloud, then restore the image's brightest value.

    ``constant`` is the cloud's weight, and the factor by which its roughness falls from one octave
    to the next.
    """
    weight, decay = constant
    height, width = images.shape[2:]
    fractions = to_unit(images)
    brightest = fractions.amax((1, 2, 3), keepdim=True)
    cloud = _plasma(draws, 1 << (max(height, width) - 1).bit_length(), decay)
    cloud = cloud[:, None, :height, :width].mul(weight)
    return to_levels(fractions.add_(cloud).mul_(brightest / (brightest + weight)))


def _plasma(draws: Draws, side: int, decay: float) -> Float32[Tensor, "n side side"]:
    """Plasma fractals on a torus, 0..1 each, by the diamond-square algorithm.

    The benchmark multiplies the uniform noise by its own bound, so that an octave's amplitude falls
    by the square of ``decay``. Its absolute size is lost when the map is normalised.
    """
    heights = draws.uniform("cloud", side * side).view(-1, side, side).mul_(2).sub_(1)
    heights[:, 0, 0] = 0
    amplitude, step = 1.0, side
    while step >= 2:
        half = step // 2
        corner, centre = heights[:, ::step, ::step], heights[:, half::step, half::step]
        top, left = heights[:, ::step, half::step], heights[:, half::step, ::step]
        # Each new point: the mean of its four neighbours, plus its noise at this octave's size.
        pairs = corner + corner.roll(-1, 1)
        centre.mul_(amplitude).add_((pairs + pairs.roll(-1, 2)) / 4)
        top.mul_(amplitude).add_((centre + centre.roll(1, 1) + corner + corner.roll(-1, 2)) / 4)
        left.mul_(amplitude).add_((centre + centre.roll(1, 2) + corner + corner.roll(-1, 1)) / 4)
        amplitude /= decay**2
        step = half
    low, high = heights.amin((1, 2), keepdim=True), heights.amax((1, 2), keepdim=True)
    return (heights - low) / (high - low)
