"""Changes of images that are no corruption of a benchmark: tones, geometry, covered parts.

Those of tones and geometry are among the ones that AugMix takes because they do not overlap with
ImageNet-C's corruptions (Hendrycks et al. 2020); covered parts are those of Cutout (DeVries and
Taylor 2017).
"""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import UInt8
from torch import Tensor
from torchvision.transforms import functional

from acclimate.errors import unknown_name
from acclimate.randomness import key, uniform

Images = UInt8[Tensor, "n channels h w"]
_TOGETHER = 64  # images whose noise is drawn at a time; as floats it takes many times their memory


def stand_in(images: Images, name: str, severity: int) -> Images:
    """Images under a change.

    ```python
    stand_in(images, "zoom out", 5)
    ```

    Args:
        images: Of one or three channels, on any device.
        name: Of `STAND_INS`.
        severity: One of ``STAND_INS[name]``: 2 is mild, 5 is strong.

    Raises:
        InputError: unknown name.
    """
    if name not in STAND_INS:
        raise unknown_name("change", name, STAND_INS)
    return STAND_INS[name][severity](images)


def _turned(images: Images, *, degrees: float = 0, move: float = 0, scale: float = 1) -> Images:
    """Rotated, moved or zoomed out, every fourth image in the same direction; gaps are black."""
    found, side = images.clone(), images.shape[-1]
    ways = ((1, 1), (-1, 1), (1, -1), (-1, -1))
    for number, (across, along) in enumerate(ways[: len(images)]):
        moved = [round(across * move * side), round(along * move * side)]
        part = functional.affine(images[number::4], across * degrees, moved, scale, [0.0])
        found[number::4] = part
    return found


def _covered(images: Images, *, share: float, noise: bool) -> Images:
    """With a square somewhere that is grey, or noise."""
    count, channels, height, width = images.shape
    numbers = torch.arange(count, device=images.device)
    drawn = uniform(key(0, "covered"), numbers, 2)  # [n, 2]
    part = share**0.5
    rows, columns = (torch.arange(side, device=images.device) / side for side in (height, width))
    top, left = (drawn * (1 - part)).T[:, :, None]
    inside = ((rows >= top) & (rows < top + part))[:, :, None]
    inside = inside & ((columns >= left) & (columns < left + part))[:, None]
    fill = images.new_full((), 127)
    if noise:
        size, drawn_together = channels * height * width, numbers.split(_TOGETHER)
        random = (uniform(key(0, "noise"), some, size) for some in drawn_together)
        fill = torch.cat([(256 * each).to(torch.uint8) for each in random]).view_as(images)
    return torch.where(inside[:, None], fill, images)


STAND_INS: dict[str, dict[int, Callable[[Images], Images]]] = {
    "posterize": {s: partial(functional.posterize, bits=b) for s, b in ((2, 2), (5, 1))},
    "solarize": {s: partial(functional.solarize, threshold=t) for s, t in ((2, 180), (5, 100))},
    "invert": {5: functional.invert},
    "equalize": {5: functional.equalize},
    "rotate": {s: partial(_turned, degrees=d) for s, d in ((2, 12), (5, 35))},
    "translate": {s: partial(_turned, move=m) for s, m in ((2, 0.12), (5, 0.3))},
    "zoom out": {s: partial(_turned, scale=z) for s, z in ((2, 0.8), (5, 0.5))},
    "cover": {s: partial(_covered, share=a, noise=False) for s, a in ((2, 0.15), (5, 0.4))},
    "cover with noise": {
        s: partial(_covered, share=a, noise=True) for s, a in ((2, 0.15), (5, 0.4))
    },
}
"""Each change, by name and severity."""
