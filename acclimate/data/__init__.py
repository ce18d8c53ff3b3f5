"""Images: named sets, folders, zips and arrays, as uint8 tensors."""

from acclimate.data.cache import Skipped
from acclimate.data.datasets import Images, LabelledImages, load, load_images

__all__ = ["Images", "LabelledImages", "Skipped", "load", "load_images"]
