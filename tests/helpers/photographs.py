"""Generated photographs of all shapes."""

import numpy as np
from PIL import Image

SHAPES = ((61, 37), (40, 90), (48, 48), (300, 7), (2, 2), (1, 1), (50, 1), (1, 33), (225, 224))
"""Width and height: odd, square, narrow, tiny, one pixel high or wide."""


def photograph(width, height, seed=0):
    """A smooth picture with noise, in RGB."""
    generator = np.random.default_rng(seed + 1000 * width + height)
    coarse = generator.integers(0, 256, (5, 5, 3), np.uint8)
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    noise = generator.normal(0, 12, (height, width, 3))
    return Image.fromarray(np.clip(np.asarray(smooth) + noise, 0, 255).astype(np.uint8))


def photographs():
    """Photographs of all shapes, and a grey one."""
    grey = photograph(53, 71).convert("L").convert("RGB")
    return [*(photograph(*shape) for shape in SHAPES), grey]
