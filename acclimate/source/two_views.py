"""Two augmented views of a batch, for the alignment."""

from torch import Tensor

from acclimate.randomness import Key, key
from acclimate.source.images import SourceImages
from acclimate.views import SimCLRViews, simclr_views


def draw_two_views(
    source: SourceImages, index: Tensor, views: SimCLRViews, epoch_key: Key
) -> Tensor:
    """Two normalised views per image, on the indices' device: all first, then all second views."""
    batch = source.preprocessing.unit(source.rows(index))
    drawn = simclr_views(batch, views, key=key(epoch_key, "views"), index=index, count=2)
    return source.preprocessing.normalize(drawn)
