"""Two augmented views of a batch, for the alignment."""

from torch import Tensor, nn

from acclimate.randomness import Key, key
from acclimate.source.images import SourceImages
from acclimate.views import SimCLRViews, simclr_views


def draw_two_views(
    module: nn.Module, source: SourceImages, index: Tensor, views: SimCLRViews, epoch_key: Key
) -> Tensor:
    """Two normalised views per image, on the module's device: all first views, then all second."""
    device = next(module.parameters()).device
    batch = source.preprocessing.unit(source.images[index].to(device))
    drawn = simclr_views(batch, views, key=key(epoch_key, "views"), index=index.to(device), count=2)
    return source.preprocessing.normalize(drawn)
