"""Load images from named data sets, folders, zips and arrays as uint8 tensors; corrupt them."""

from acclimate.data import streams
from acclimate.data.cache import Skipped
from acclimate.data.corruptions import CORRUPTIONS, corrupt
from acclimate.data.datasets import domains, load, load_images
from acclimate.data.images import Images, LabelledImages, hold_out, subset
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
