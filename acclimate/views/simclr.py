"""SimCLR's random views of whole batches.

Each transformation is a pair: a function that draws every image's parameters, and one that applies
given parameters. The arithmetic is torchvision's on float images; the parameters are counter-based,
so that a view depends on (key, image index) alone.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import grid_sample

from acclimate.randomness import uniform

# Luma weights of ITU-R BT.601, as torchvision rounds them.
_GREY = (0.2989, 0.587, 0.114)
# A chunk of this many values stays in a core's cache through a whole chain of operations, and is
# large enough for these to cost more than their calls.
_CHUNK_VALUES = 2**18
# Numbers that one view takes: 20 for the crop, 1 flip, 9 for the jitter, 1 grey.
_NUMBERS = 31
# The turn at which hues change where colours do not change at all.
_NEVER = 4


@dataclass(frozen=True)
class SimCLRViews:
    """How SimCLR's views are drawn. The defaults are TTT++'s, which CTA uses."""

    smallest_crop: float = 0.2
    """The smallest share of the image's area that a crop keeps."""
    brightness: float = 0.4
    """Brightness factors lie in 1 ± this."""
    contrast: float = 0.4
    """Contrast factors lie in 1 ± this."""
    saturation: float = 0.4
    """Saturation factors lie in 1 ± this."""
    hue: float = 0.1
    """Hue shifts lie in ± this, in turns of the colour circle."""
    jitter_probability: float = 0.8
    """The share of views whose colours change at all."""
    grey_probability: float = 0.2
    """The share of views that lose their colours."""


def simclr_views(
    images: Float[Tensor, "batch 3 h w"],
    settings: SimCLRViews,
    *,
    key: int,
    index: Int64[Tensor, " batch"],
    count: int = 1,
) -> Float[Tensor, "count*batch 3 h w"]:
    """Random resized crop, flip, colour jitter in random order, grey (SimCLR; TTT++; CTA).

    Args:
        images: RGB, 0..1.
        settings: Ranges and probabilities.
        key: From `acclimate.randomness.key`.
        index: Each image's number in its data set or stream.
        count: Views of each image.

    Returns:
        All first views, then all second views, and so on; 0..1, in channels_last layout.
    """
    batch, _, height, width = images.shape
    numbers = uniform(key, index, _NUMBERS * count)  # [batch, 31 count]
    numbers = numbers.view(batch, count, _NUMBERS).transpose(0, 1).flatten(0, 1)
    boxes = draw_boxes(numbers[:, :20], height, width, settings.smallest_crop)
    x, y = _source_positions(boxes, numbers[:, 20] < 0.5, height, width)
    factors, order = draw_jitter(numbers[:, 21:29], settings)
    turns = _hue_turn(order).masked_fill_(numbers[:, 29] >= settings.jitter_probability, _NEVER)
    grey = numbers[:, 30] < settings.grey_probability

    views = images.new_empty((len(numbers), height, width, 3))
    chunk = len(views) if images.is_cuda else max(1, _CHUNK_VALUES // (3 * height * width))
    for turn in (*range(4), _NEVER):
        for part in _where(turns == turn).split(chunk):
            drawn = _sample(images.index_select(0, part % batch), x[part], y[part])
            if turn != _NEVER:
                _jitter(drawn, factors[part], order[part], turn)
            colourless = _where(grey[part])
            drawn[colourless] = luma(drawn[colourless])
            for channel, plane in enumerate(drawn.unbind(1)):
                views[..., channel].index_copy_(0, part, plane)
    return views.permute(0, 3, 1, 2)


def _where(condition: Bool[Tensor, " batch"]) -> Int64[Tensor, " chosen"]:
    return condition.nonzero().squeeze(1)


def draw_boxes(
    numbers: Float[Tensor, "batch 20"], height: int, width: int, smallest: float
) -> Int64[Tensor, "batch 4"]:
    """Crops as torchvision's ``RandomResizedCrop`` draws them: top, left, height, width.

    The area is uniform in smallest..1 and the aspect ratio log-uniform in 3/4..4/3. The first of
    eight tries that fits the image counts (torchvision makes ten), else the whole image.

    Args:
        numbers: Uniform in [0, 1).
        height: Of the images, in pixels.
        width: Of the images, in pixels.
        smallest: The smallest share of the area.
    """
    area = (smallest + (1 - smallest) * numbers[:, 0:8]) * (height * width)
    ratio = ((2 * numbers[:, 8:16] - 1) * math.log(4 / 3)).exp()
    heights = (area / ratio).sqrt().round()  # [batch, 8]
    widths = (area * ratio).sqrt().round()
    fits = (heights <= height) & (widths <= width) & (heights > 0) & (widths > 0)
    first = fits.to(torch.int8).argmax(1, keepdim=True)
    found = fits.any(1)
    crop_height = heights.gather(1, first).squeeze(1).where(found, height)
    crop_width = widths.gather(1, first).squeeze(1).where(found, width)
    top = (numbers[:, 16] * (height - crop_height + 1)).floor()
    left = (numbers[:, 17] * (width - crop_width + 1)).floor()
    return torch.stack([top, left, crop_height, crop_width], dim=1).long()


def resized_crop(
    images: Float[Tensor, "batch 3 h w"],
    boxes: Int64[Tensor, "batch 4"],
    *,
    flip: Bool[Tensor, " batch"],
) -> Float[Tensor, "batch 3 h w"]:
    """Cut a box from each image, resize it bilinearly to the images' size, mirror some.

    Boxes are never larger than the image, so this enlarges, and antialiasing would change nothing.

    Args:
        images: Any range.
        boxes: Top, left, height, width in pixels.
        flip: Which results to mirror left to right.
    """
    x, y = _source_positions(boxes, flip, *images.shape[-2:])
    return _sample(images, x.to(images.dtype), y.to(images.dtype))


def _source_positions(
    boxes: Tensor, flip: Tensor, height: int, width: int
) -> tuple[Float[Tensor, "batch w"], Float[Tensor, "batch h"]]:
    """Where each output column's and row's centre falls in the source, held inside the box.

    In the units of `grid_sample`: -1 to 1 between the image's outer edges.
    """
    top, left, crop_height, crop_width = boxes.float().unsqueeze(2).unbind(1)  # [batch, 1]
    x = _along(width, left, crop_width)
    return x.flip(1).where(flip[:, None], x), _along(height, top, crop_height)


def _along(size: int, start: Tensor, length: Tensor) -> Float[Tensor, "batch size"]:
    centres = torch.arange(size, device=start.device) + 0.5
    inside = (centres * (length / size) - 0.5).clamp_min(0)
    return (2 * (start + torch.minimum(inside, length - 1)) + 1) / size - 1


def _sample(images: Tensor, x: Tensor, y: Tensor) -> Tensor:
    # A complex number is a pair of neighbours in memory, as grid_sample wants its coordinates.
    grid = torch.view_as_real(torch.complex(x[:, None, :], y[:, :, None]))  # [batch, h, w, 2]
    return grid_sample(
        images.contiguous(), grid, mode="bilinear", padding_mode="border", align_corners=False
    )


def draw_jitter(
    numbers: Float[Tensor, "batch 8"], settings: SimCLRViews
) -> tuple[Float[Tensor, "batch 4"], Int64[Tensor, "batch 4"]]:
    """Each image's brightness, contrast and saturation factors and hue shift, and their order."""
    spread = numbers.new_tensor(
        [settings.brightness, settings.contrast, settings.saturation, settings.hue]
    )
    middle = numbers.new_tensor([1.0, 1.0, 1.0, 0.0])
    factors = middle + spread * (2 * numbers[:, :4] - 1)
    factors[:, :3].clamp_(min=0)
    return factors, numbers[:, 4:8].argsort(dim=1)


def jitter(
    images: Float[Tensor, "batch 3 h w"],
    factors: Float[Tensor, "batch 4"],
    order: Int64[Tensor, "batch 4"],
) -> Float[Tensor, "batch 3 h w"]:
    """Change colours as torchvision's ``ColorJitter`` does, each image in its own order.

    Args:
        images: RGB, 0..1.
        factors: Brightness, contrast, saturation factors and hue shift of each image.
        order: Permutations of 0..3: which of these comes first, second, third, fourth.
    """
    images = images.clone()
    turns = _hue_turn(order)
    for turn in range(4):
        part = _where(turns == turn)
        images[part] = _jitter(images[part], factors[part], order[part], turn)
    return images


def _hue_turn(order: Int64[Tensor, "batch 4"]) -> Int64[Tensor, " batch"]:
    return (order == 3).int().argmax(1)


def _jitter(images: Tensor, factors: Tensor, order: Tensor, hue_turn: int) -> Tensor:
    """`jitter` in place, of images whose hues all turn at the same turn.

    Brightness, contrast and saturation are one blend with different weights, so that whole batches
    take it together; to pick the images of each operation and to put them back costs more.
    """
    own = factors.gather(1, order)  # [batch, turn]
    mean = (1 - own) * (order == 1)
    grey = (1 - own) * (order == 2)
    for turn in range(4):
        if turn == hue_turn:
            adjust_hue(images, factors[:, 3], out=images)
        else:
            _blend(images, own[:, turn], grey[:, turn], mean[:, turn], out=images)
    return images


def adjust_brightness(images: Tensor, factor: Float[Tensor, " batch"]) -> Tensor:
    """Scale each image's values, clipped to 0..1."""
    return (images * _column(factor)).clamp_(0, 1)


def adjust_contrast(images: Tensor, factor: Float[Tensor, " batch"]) -> Tensor:
    """Blend each image with the mean of its grey version, clipped to 0..1."""
    return _blend(images, factor, torch.zeros_like(factor), 1 - factor)


def adjust_saturation(images: Tensor, factor: Float[Tensor, " batch"]) -> Tensor:
    """Blend each image with its grey version, clipped to 0..1."""
    return _blend(images, factor, 1 - factor, torch.zeros_like(factor))


def _blend(
    images: Tensor, own: Tensor, grey: Tensor, mean: Tensor, *, out: Tensor | None = None
) -> Tensor:
    """Weigh each image, its grey version and that one's mean, clipped to 0..1."""
    other = luma(images)
    average = other.mean((1, 2, 3), keepdim=True)
    other.mul_(_column(grey)).add_(average * _column(mean))
    return torch.addcmul(other, images, _column(own), out=out).clamp_(0, 1)


def adjust_hue(
    images: Tensor, shift: Float[Tensor, " batch"], *, out: Tensor | None = None
) -> Tensor:
    """Turn each image's hues in HSV space by a share of the colour circle.

    Value V and chroma C stay, so RGB follows from the turned hue H, in sixths of a turn: with
    k(c) = max(0, min(1, |H − c| − 1)), red is m + C·k(3), green V − C·k(2) and blue V − C·k(4),
    m = V − C. The hue itself needs no case for each largest channel: its angle to red is
    1 + (G + B − R − m)/C, towards green where G ≥ B.
    """
    red, green, blue = images.unbind(1)  # [batch, h, w]
    least = torch.minimum(red, green)
    value = torch.maximum(red, green)
    torch.minimum(least, blue, out=least)
    torch.maximum(value, blue, out=value)
    chroma = value - least
    angle = (green - red).add_(blue - least).add_(chroma)
    angle.copysign_(green - blue)
    hue = torch.addcdiv(shift[:, None, None], angle, chroma.clamp_min(1e-12), value=1 / 6)
    hue.sub_(hue.floor()).mul_(6)
    if out is None:
        out = torch.empty_like(images)
    for channel, (start, centre, sign) in enumerate(
        ((least, 3, 1), (value, 2, -1), (value, 4, -1))
    ):
        k = (hue - centre).abs_().sub_(1).clamp_(0, 1)
        torch.addcmul(start, chroma, k, value=sign, out=out[:, channel])
    return out


def luma(images: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch 1 h w"]:
    """Grey values of RGB images."""
    red, green, blue = images.split(1, dim=1)
    return (_GREY[0] * red).add_(green, alpha=_GREY[1]).add_(blue, alpha=_GREY[2])


def _column(factor: Tensor) -> Tensor:
    return factor[:, None, None, None]
