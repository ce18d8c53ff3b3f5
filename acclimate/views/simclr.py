"""SimCLR's random views of whole batches.

Each transformation is a pair of functions: one draws the parameters of every image, the other
applies given parameters. The arithmetic is that of torchvision on float images. Random numbers are
counter-based, so a view depends only on (key, image index).
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import grid_sample

from acclimate.randomness import Key, uniform
from acclimate.runtime.constants import on_device
from acclimate.views.colours import adjust_hue, blend, luma
from acclimate.views.together import coloured

# Values per chunk of images: few enough to stay in a core's cache through a chain of operations,
# and enough that the operations cost more than their calls.
_CHUNK_VALUES = 2**18
# Random numbers per view: 20 for the crop, 1 for the flip, 9 for the jitter, 1 for grey.
_NUMBERS = 31
# The position of the hue shift in the jitter's order that stands for: no jitter.
_NEVER = 4


@dataclass(frozen=True)
class SimCLRViews:
    """Settings of `simclr_views`. The defaults are those of TTT++, which CTA uses.

    ```python
    mild = SimCLRViews(smallest_crop=0.5, jitter_probability=0)
    ```
    """

    smallest_crop: float = 0.2
    """Smallest share of the image's area that a crop keeps."""
    brightness: float = 0.4
    """Largest change of the brightness factor: factors lie in 1 ± this."""
    contrast: float = 0.4
    """Largest change of the contrast factor: factors lie in 1 ± this."""
    saturation: float = 0.4
    """Largest change of the saturation factor: factors lie in 1 ± this."""
    hue: float = 0.1
    """Largest hue shift in either direction, as a share of the colour circle."""
    jitter_probability: float = 0.8
    """Probability of colour jitter."""
    grey_probability: float = 0.2
    """Probability that a view is converted to grey."""


def simclr_views(
    images: Float[Tensor, "batch 3 h w"],
    settings: SimCLRViews,
    *,
    key: Key,
    index: Int64[Tensor, " batch"],
    count: int = 1,
) -> Float[Tensor, "count*batch 3 h w"]:
    """Random resized crop, flip, colour jitter in random order, grey (SimCLR; TTT++; CTA).

    ```python
    views = simclr_views(images, SimCLRViews(), key=key(0, "views"), index=index, count=2)
    first, second = views.chunk(2)
    ```

    Args:
        images: RGB or grey, 0..1. Of images with another number of channels only crop and flip
            are random.
        settings: Ranges and probabilities.
        key: From `acclimate.randomness.key`.
        index: Index of each image in its data set or stream.
        count: Number of views of each image.

    Returns:
        All first views, then all second views, and so on; 0..1, in channels_last layout.
    """
    batch, _, height, width = images.shape
    numbers = uniform(key, index, _NUMBERS * count)  # [batch, 31 count]
    numbers = numbers.view(batch, count, _NUMBERS).transpose(0, 1).flatten(0, 1)
    boxes = draw_boxes(numbers[:, :20], height, width, settings.smallest_crop)
    x, y = _source_positions(boxes, numbers[:, 20] < 0.5, height, width)
    factors, order = draw_jitter(numbers[:, 21:29], settings)
    jittered = numbers[:, 29] < settings.jitter_probability
    grey = numbers[:, 30] < settings.grey_probability
    draw = _grouped if images.device.type == "cpu" else _together
    return draw(images, x, y, factors, order, jittered, grey)


def _together(
    images: Tensor,
    x: Tensor,
    y: Tensor,
    factors: Tensor,
    order: Tensor,
    jittered: Tensor,
    grey: Tensor,
) -> Tensor:
    """The views without waiting for a device: every operation is one of all views.

    What an image does not get is computed for it all the same. The number of operations depends
    on no value, and so a graph can hold them.
    """
    views = _sample(images.repeat(len(x) // max(1, len(images)), 1, 1, 1), x, y)
    if images.shape[1] in (1, 3):
        views = coloured(views, factors, order, jittered, grey)
    return views.contiguous(memory_format=torch.channels_last)


def _grouped(
    images: Tensor,
    x: Tensor,
    y: Tensor,
    factors: Tensor,
    order: Tensor,
    jittered: Tensor,
    grey: Tensor,
) -> Tensor:
    """The views in groups with the same hue step, each of what it needs alone: fast on a CPU."""
    batch, channels, height, width = images.shape
    hue_steps = _hue_step(order).masked_fill_(~jittered, _NEVER)
    has_colours = channels in (1, 3)
    if not has_colours:
        hue_steps.fill_(_NEVER)
    views = images.new_empty((len(x), height, width, channels))
    chunk = max(1, _CHUNK_VALUES // (channels * height * width))
    for hue_step in (*range(4), _NEVER) if has_colours else (_NEVER,):
        for rows in _indices(hue_steps == hue_step).split(chunk):
            crops = _sample(images.index_select(0, rows % batch), x[rows], y[rows])
            if hue_step != _NEVER:
                _jitter(crops, factors[rows], order[rows], hue_step)
            if has_colours:
                grey_rows = _indices(grey[rows])
                crops[grey_rows] = luma(crops[grey_rows])
            for channel, plane in enumerate(crops.unbind(1)):
                views[..., channel].index_copy_(0, rows, plane)
    return views.permute(0, 3, 1, 2)


def _indices(condition: Bool[Tensor, " batch"]) -> Int64[Tensor, " chosen"]:
    return condition.nonzero().squeeze(1)


def draw_boxes(
    numbers: Float[Tensor, "batch 20"], height: int, width: int, smallest: float
) -> Int64[Tensor, "batch 4"]:
    """Random crop boxes (top, left, height, width) as in torchvision's ``RandomResizedCrop``.

    The area's share is uniform in smallest..1 and the aspect ratio log-uniform in 3/4..4/3. The
    first of eight tries that fits into the image is used (torchvision makes ten tries), or the
    whole image if none fits.

    Args:
        numbers: Random numbers, uniform in [0, 1).
        height: Height of the images in pixels.
        width: Width of the images in pixels.
        smallest: Smallest share of the image's area.
    """
    area = (smallest + (1 - smallest) * numbers[:, 0:8]) * (height * width)
    ratio = ((2 * numbers[:, 8:16] - 1) * math.log(4 / 3)).exp()
    sides = torch.stack([area / ratio, area * ratio], dim=1).sqrt_().round_()  # [batch, 2, 8]
    whole = on_device((float(height), float(width)), numbers.device)
    fits = ((sides <= whole[:, None]) & (sides > 0)).all(1)  # [batch, 8]
    first = fits.to(torch.int8).argmax(1)[:, None, None].expand(-1, 2, 1)
    crop = sides.gather(2, first).squeeze(2).where(fits.any(1, keepdim=True), whole)  # [batch, 2]
    corner = (numbers[:, 16:18] * (whole - crop + 1)).floor_()
    return torch.cat([corner, crop], dim=1).long()


def resized_crop(
    images: Float[Tensor, "batch 3 h w"],
    boxes: Int64[Tensor, "batch 4"],
    *,
    flip: Bool[Tensor, " batch"],
) -> Float[Tensor, "batch 3 h w"]:
    """Crop a box from each image, resize it bilinearly to the image's size, flip some results.

    A box is never larger than its image, so resizing only enlarges and needs no antialiasing.

    Args:
        images: Images with values in any range.
        boxes: Top, left, height and width of each box in pixels.
        flip: Which results to flip horizontally.
    """
    x, y = _source_positions(boxes, flip, *images.shape[-2:])
    return _sample(images, x.to(images.dtype), y.to(images.dtype))


def _source_positions(
    boxes: Tensor, flip: Tensor, height: int, width: int
) -> tuple[Float[Tensor, "batch w"], Float[Tensor, "batch h"]]:
    """The source coordinates of each output column's and row's centre, clamped to the box.

    Coordinates are those of `grid_sample`: -1 to 1 between the image's outer edges.
    """
    start, length = boxes.float().unsqueeze(2).split(2, dim=1)  # [batch, 2, 1]: down, across
    if height == width:
        y, x = _axis_positions(width, start, length).unbind(1)
    else:
        y, x = (
            _axis_positions(size, start[:, axis], length[:, axis])
            for axis, size in enumerate((height, width))
        )
    return x.flip(1).where(flip[:, None], x), y


def _axis_positions(size: int, start: Tensor, length: Tensor) -> Float[Tensor, "batch ... size"]:
    centres = on_device(tuple(place + 0.5 for place in range(size)), start.device)
    inside = (centres * (length / size) - 0.5).clamp_min(0)
    return (2 * (start + torch.minimum(inside, length - 1)) + 1) / size - 1


def _sample(images: Tensor, x: Tensor, y: Tensor) -> Tensor:
    # A complex tensor stores x and y next to each other, as grid_sample expects them.
    grid = torch.view_as_real(torch.complex(x[:, None, :], y[:, :, None]))  # [batch, h, w, 2]
    return grid_sample(
        images.contiguous(), grid, mode="bilinear", padding_mode="border", align_corners=False
    )


def draw_jitter(
    numbers: Float[Tensor, "batch 8"], settings: SimCLRViews
) -> tuple[Float[Tensor, "batch 4"], Int64[Tensor, "batch 4"]]:
    """Draw brightness, contrast and saturation factors and hue shift of each image, and an order.

    Args:
        numbers: Random numbers, uniform in [0, 1).
        settings: Ranges of the factors and the shift.
    """
    spread = on_device(
        (settings.brightness, settings.contrast, settings.saturation, settings.hue), numbers.device
    )
    middle = on_device((1.0, 1.0, 1.0, 0.0), numbers.device)
    factors = middle + spread * (2 * numbers[:, :4] - 1)
    factors[:, :3].clamp_(min=0)
    return factors, numbers[:, 4:8].argsort(dim=1)


def jitter(
    images: Float[Tensor, "batch 3 h w"],
    factors: Float[Tensor, "batch 4"],
    order: Int64[Tensor, "batch 4"],
) -> Float[Tensor, "batch 3 h w"]:
    """Colour jitter as in torchvision's ``ColorJitter``; each image has its own order.

    Args:
        images: RGB, 0..1.
        factors: Brightness, contrast and saturation factors and hue shift of each image.
        order: Permutation of 0..3 for each image: the order in which the four are applied.
    """
    images = images.clone()
    hue_steps = _hue_step(order)
    for hue_step in range(4):
        rows = _indices(hue_steps == hue_step)
        images[rows] = _jitter(images[rows], factors[rows], order[rows], hue_step)
    return images


def _hue_step(order: Int64[Tensor, "batch 4"]) -> Int64[Tensor, " batch"]:
    return (order == 3).int().argmax(1)


def _jitter(images: Tensor, factors: Tensor, order: Tensor, hue_step: int) -> Tensor:
    """`jitter` in place, for images that all have their hue shift at the same step.

    Brightness, contrast and saturation are one blend with different weights, so one call serves a
    whole batch. Selecting the images of each operation and writing them back would cost more.
    """
    own = factors.gather(1, order)  # [batch, step]
    mean = (1 - own) * (order == 1)
    grey = (1 - own) * (order == 2)
    for step in range(4):
        if step == hue_step and images.shape[1] == 1:
            continue  # grey has no hue
        if step == hue_step:
            adjust_hue(images, factors[:, 3], out=images)
        else:
            blend(images, own[:, step], grey[:, step], mean[:, step], out=images)
    return images
