"""The twin: SimCLR on unlabelled source images, CTA's Eq. 1."""

from torch import Tensor, nn

from acclimate.objectives import contrastive_loss
from acclimate.ranks import gather
from acclimate.source.images import SourceImages
from acclimate.source.loop import Run, Training, train
from acclimate.source.two_views import draw_two_views
from acclimate.views import SimCLRViews


def contrastive(
    twin: nn.Module,
    source: SourceImages,
    settings: Training,
    run: Run,
    *,
    temperature: float,
    views: SimCLRViews,
) -> None:
    """Train π∘g in place so that views of one image agree (CTA, Eq. 1).

    Args:
        twin: Images to features; trained in place, left in training mode.
        source: Images; no labels.
        settings: Length and optimiser.
        run: Seed, checkpoints, device, progress.
        temperature: τ.
        views: How views are drawn.

    Raises:
        InputError: as `acclimate.source.loop.train`.
    """

    def loss(module, numbers: Tensor, epoch_key: int) -> Tensor:
        drawn = draw_two_views(module, source, numbers, views, epoch_key)
        first, second = module(drawn).chunk(2)
        return contrastive_loss(gather(first), gather(second), temperature=temperature)

    train(
        "contrastive",
        twin,
        loss,
        settings,
        run,
        count=len(source.images),
        identity=[source.identity(), temperature, vars(views)],
    )
