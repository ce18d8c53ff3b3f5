"""What the contrastive and the alignment stage both begin with."""

from torch import Tensor, nn

from acclimate.randomness import key
from acclimate.source.images import SourceImages
from acclimate.views import SimCLRViews, simclr_views


def draw_two_views(
    module: nn.Module, source: SourceImages, numbers: Tensor, views: SimCLRViews, epoch_key: int
) -> Tensor:
    """Two normalised views of the numbered images, on the module's device: firsts, then seconds."""
    device = next(module.parameters()).device
    batch = source.preprocessing.unit(source.images[numbers].to(device))
    drawn = simclr_views(
        batch, views, key=key(epoch_key, "views"), index=numbers.to(device), count=2
    )
    return source.preprocessing.normalize(drawn)
