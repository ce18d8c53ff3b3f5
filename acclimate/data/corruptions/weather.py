"""Weather: snow and fog."""

import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from acclimate.data.corruptions.blur import enlarged, streak
from acclimate.data.corruptions.layers import fit, published_shape, sample
from acclimate.data.corruptions.pixels import Draws, round_levels, to_levels, to_unit


def snow(
    images: UInt8[Tensor, "n 3 h w"],
    constant: tuple[float, float, float, float, float, float, float],
    scale: float,
    draws: Draws,
) -> UInt8[Tensor, "n 3 h w"]:
    """Whiten the image, then add flakes with motion blur, also rotated by 180 degrees.

    ``constant`` is the mean and the standard deviation of the noise that flakes are made from, the
    factor by which it is enlarged, the threshold for a flake, the radius and the standard deviation
    of the motion blur (as in `motion_blur`, but within 45 degrees of the vertical), and the weight
    of the image that is not whitened. Flakes are made at the published size and resized.
    """
    mean, deviation, zoom, threshold, radius, blur_deviation, kept = constant
    height, width = published_shape(images, scale)
    # `streak` averages to the right and repeats the right edge; the benchmark averages upwards. So
    # the layer is made transposed, with its top at the right.
    flakes = draws.normal("flakes", width * height).view(-1, width, height)
    flakes = flakes.mul_(deviation).add_(mean)
    if zoom != 1:
        flakes = sample(flakes, 1, enlarged(width, zoom, flakes.device))
        flakes = sample(flakes, 2, enlarged(height, zoom, flakes.device))
    flakes = to_levels(flakes.masked_fill(flakes < threshold, 0)).flip(2)
    angle = draws.uniform("angle", 1).double() * 90 - 45
    flakes = round_levels(streak(flakes[:, None], angle, radius, blur_deviation))
    flakes = fit(to_unit(flakes)[:, 0].flip(2).transpose(1, 2), images)[:, None]

    fractions = to_unit(images)
    red, green, blue = fractions.unbind(1)
    grey = (red * 0.299 + green * 0.587 + blue * 0.114)[:, None]
    whitened = torch.maximum(fractions, grey.mul_(1.5).add_(0.5))
    fractions = fractions.mul_(kept).add_(whitened.mul_(1 - kept))
    return to_levels(fractions.add_(flakes + flakes.flip(2, 3)))


def fog(
    images: UInt8[Tensor, "n 3 h w"], constant: tuple[float, float], scale: float, draws: Draws
) -> UInt8[Tensor, "n 3 h w"]:
    """Add a random cloud, then rescale so that no value exceeds the image's brightest one.

    ``constant`` is the cloud's weight and the factor by which its roughness falls from one octave
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
    """Plasma fractals with wrapped edges, normalised to 0..1, by the diamond-square algorithm.

    The benchmark multiplies noise that is uniform in ±amplitude by the amplitude again, so each
    octave's amplitude falls by the square of ``decay``. Normalising removes the absolute scale.
    """
    heights = draws.uniform("cloud", side * side).view(-1, side, side).mul_(2).sub_(1)
    heights[:, 0, 0] = 0
    amplitude, step = 1.0, side
    while step >= 2:
        half = step // 2
        corner, centre = heights[:, ::step, ::step], heights[:, half::step, half::step]
        top, left = heights[:, ::step, half::step], heights[:, half::step, ::step]
        # Each new point is the mean of its four neighbours plus noise of this octave's amplitude.
        pairs = corner + corner.roll(-1, 1)
        centre.mul_(amplitude).add_((pairs + pairs.roll(-1, 2)) / 4)
        top.mul_(amplitude).add_((centre + centre.roll(1, 1) + corner + corner.roll(-1, 2)) / 4)
        left.mul_(amplitude).add_((centre + centre.roll(1, 2) + corner + corner.roll(-1, 1)) / 4)
        amplitude /= decay**2
        step = half
    low, high = heights.amin((1, 2), keepdim=True), heights.amax((1, 2), keepdim=True)
    return (heights - low) / (high - low)
