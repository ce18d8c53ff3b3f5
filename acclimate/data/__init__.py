"""Images: named sets, folders, zips and arrays as uint8 tensors, and their corruptions."""

from acclimate.data import streams
from acclimate.data.cache import Skipped
from acclimate.data.corruptions import CORRUPTIONS, corrupt
from acclimate.data.datasets import (
    Images,
    LabelledImages,
    domains,
    hold_out,
    load,
    load_images,
    subset,
)
from acclimate.data.streams import Shift, Stream

__all__ = [
    "CORRUPTIONS",
    "Images",
    "LabelledImages",
    "Shift",
    "Skipped",
    "Stream",
    "corrupt",
    "domains",
    "hold_out",
    "load",
    "load_images",
    "streams",
    "subset",
]
