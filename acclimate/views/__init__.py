"""Random views of whole batches, as pure functions of (key, image index)."""

from acclimate.views.augment import cutout, shifted_crop
from acclimate.views.augmix import augmix_views
from acclimate.views.mild import mild_views
from acclimate.views.rotate import all_rotations, rotate
from acclimate.views.simclr import SimCLRViews, simclr_views

__all__ = [
    "SimCLRViews",
    "all_rotations",
    "augmix_views",
    "cutout",
    "mild_views",
    "rotate",
    "shifted_crop",
    "simclr_views",
]
