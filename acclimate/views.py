"""Random views of whole batches: SimCLR's, and the shifted crop of supervised training.

Each transformation is a pair: a function that draws every image's parameters, and one that applies
given parameters. The arithmetic is torchvision's on float images; the parameters are counter-based,
so that a view depends on (key, image index) alone.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor
from torch.nn.functional import grid_sample, pad

from acclimate.randomness import uniform

# Luma weights of ITU-R BT.601, as torchvision rounds them.
_GREY = (0.2989, 0.587, 0.114)
# A chunk of this many values stays in a core's cache through a whole chain of operations.
_CHUNK_VALUES = 2**18
# Numbers that one view takes: 20 for the crop, 1 flip, 9 for the jitter, 1 grey.
_NUMBERS = 31


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
    index: Int64[Tensor, "batch"],
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
    numbers = numbers.view(batch, count, _NUMBERS).transpose(0, 1)  # [count, batch, 31]
    views = torch.empty((count, batch, 3, height, width), dtype=images.dtype, device=images.device)
    chunk = max(1, _CHUNK_VALUES // (3 * height * width)) if images.device.type == "cpu" else batch
    for view, drawn in zip(views, numbers):
        for start in range(0, batch, chunk):
            part = slice(start, start + chunk)
            view[part] = _simclr_view(images[part], drawn[part], settings)
    return views.flatten(0, 1).contiguous(memory_format=torch.channels_last)


def _simclr_view(images: Tensor, numbers: Tensor, settings: SimCLRViews) -> Tensor:
    height, width = images.shape[-2:]
    boxes = draw_boxes(numbers[:, :20], height, width, settings.smallest_crop)
    images = resized_crop(images, boxes, flip=numbers[:, 20] < 0.5)
    jittered = (numbers[:, 29] < settings.jitter_probability).nonzero().squeeze(1)
    factors, order = draw_jitter(numbers[jittered, 21:29], settings)
    images[jittered] = jitter(images[jittered], factors, order)
    grey = (numbers[:, 30] < settings.grey_probability).nonzero().squeeze(1)
    images[grey] = luma(images[grey]).expand(-1, 3, -1, -1)
    return images


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
    flip: Bool[Tensor, "batch"],
) -> Float[Tensor, "batch 3 h w"]:
    """Cut a box from each image, resize it bilinearly to the images' size, mirror some.

    Boxes are never larger than the image, so this enlarges, and antialiasing would change nothing.

    Args:
        images: Any range.
        boxes: Top, left, height, width in pixels.
        flip: Which results to mirror left to right.
    """
    height, width = images.shape[-2:]
    top, left, crop_height, crop_width = boxes.to(images.dtype).unsqueeze(2).unbind(1)  # [batch, 1]
    y = _source_positions(height, top, crop_height)  # [batch, h]
    x = _source_positions(width, left, crop_width)
    x = x.flip(1).where(flip[:, None], x)
    # grid_sample counts from -1 to 1 between the image's outer edges.
    grid = torch.stack(
        torch.broadcast_tensors(
            ((2 * x + 1) / width - 1)[:, None, :], ((2 * y + 1) / height - 1)[:, :, None]
        ),
        dim=-1,
    )  # [batch, h, w, 2]
    return grid_sample(
        images.contiguous(), grid, mode="bilinear", padding_mode="border", align_corners=False
    )


def _source_positions(size: int, start: Tensor, length: Tensor) -> Float[Tensor, "batch size"]:
    """Where each output pixel's centre falls in the source, held inside the box."""
    centres = torch.arange(size, device=start.device, dtype=start.dtype) + 0.5
    inside = (centres * (length / size) - 0.5).clamp_min(0)
    return start + torch.minimum(inside, length - 1)


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
    operations = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)
    for turn in order.unbind(1):
        for number, operation in enumerate(operations):
            chosen = (turn == number).nonzero().squeeze(1)
            if len(chosen):
                images[chosen] = operation(images[chosen], factors[chosen, number])
    return images


def adjust_brightness(images: Tensor, factor: Float[Tensor, "batch"]) -> Tensor:
    """Scale each image's values, clipped to 0..1."""
    return (images * _column(factor)).clamp_(0, 1)


def adjust_contrast(images: Tensor, factor: Float[Tensor, "batch"]) -> Tensor:
    """Blend each image with the mean of its grey version, clipped to 0..1."""
    return _blend(images, luma(images).mean((1, 2, 3), keepdim=True), factor)


def adjust_saturation(images: Tensor, factor: Float[Tensor, "batch"]) -> Tensor:
    """Blend each image with its grey version, clipped to 0..1."""
    return _blend(images, luma(images), factor)


def adjust_hue(images: Tensor, shift: Float[Tensor, "batch"]) -> Tensor:
    """Turn each image's hues in HSV space by a share of the colour circle.

    Value and chroma stay, so RGB follows from the turned hue H' (in sixths of a turn) directly:
    channel = V − C·max(0, min(k, 4 − k, 1)) with k = (n + H') mod 6 and n = 5, 3, 1 for R, G, B.
    """
    red, green, blue = images.unbind(1)  # [batch, h, w]
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    scale = 1 / chroma.clamp_min(1e-12)
    sixths = torch.where(
        value == red,
        (green - blue) * scale,
        torch.where(value == green, (blue - red) * scale + 2, (red - green) * scale + 4),
    )
    sixths += 6 * shift[:, None, None]
    k = torch.stack([sixths + 5, sixths + 3, sixths + 1], dim=1).remainder_(6)
    k = torch.minimum(k, 4 - k).clamp_(0, 1)  # [batch, 3, h, w]
    return value[:, None] - chroma[:, None] * k


def luma(images: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch 1 h w"]:
    """Grey values of RGB images."""
    red, green, blue = images.split(1, dim=1)
    return _GREY[0] * red + _GREY[1] * green + _GREY[2] * blue


def _blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    return torch.lerp(other.expand_as(images), images, _column(factor)).clamp_(0, 1)


def _column(factor: Tensor) -> Tensor:
    return factor[:, None, None, None]


def shifted_crop(
    images: UInt8[Tensor, "batch 3 h w"], padding: int, *, key: int, index: Int64[Tensor, "batch"]
) -> UInt8[Tensor, "batch 3 h w"]:
    """Random crop of the zero-padded image, and a random flip: the supervised augmentation.

    Args:
        images: Any dtype.
        padding: Pixels of black on each side, and so the largest shift.
        key: From `acclimate.randomness.key`.
        index: Each image's number in its data set.

    Returns:
        Images of the same size and dtype, in channels_last layout.
    """
    batch, _, height, width = images.shape
    numbers = uniform(key, index, 3)  # [batch, 3]
    shift = (numbers[:, :2] * (2 * padding + 1)).long()
    rows = torch.arange(height, device=images.device) + shift[:, :1]  # [batch, h]
    columns = torch.arange(width, device=images.device) + shift[:, 1:]
    columns = columns.flip(1).where(numbers[:, 2:] < 0.5, columns)
    padded = pad(images.permute(0, 2, 3, 1), (0, 0, padding, padding, padding, padding))
    which = torch.arange(batch, device=images.device)
    # [batch, h, w, 3]
    cropped = padded[which[:, None, None], rows[:, :, None], columns[:, None, :]]
    return cropped.permute(0, 3, 1, 2)
