"""Random views of whole batches: functions of (key, image number), not of hidden state."""

from acclimate.views.augment import cutout, shifted_crop
from acclimate.views.rotate import all_rotations, rotate
from acclimate.views.simclr import SimCLRViews, simclr_views

__all__ = ["SimCLRViews", "all_rotations", "cutout", "rotate", "shifted_crop", "simclr_views"]
