"""The twin: SimCLR on unlabelled source images, CTA's Eq. 1."""

from jaxtyping import UInt8
from torch import Tensor, nn

from acclimate.objectives import contrastive_loss
from acclimate.preprocessing import Preprocessing
from acclimate.source.loop import Run, Training, gather, train
from acclimate.source.two_views import draw_two_views
from acclimate.views import SimCLRViews


def contrastive(
    twin: nn.Module,
    images: UInt8[Tensor, "n 3 h w"],
    preprocessing: Preprocessing,
    settings: Training,
    run: Run,
    *,
    temperature: float,
    views: SimCLRViews,
    identity: object = None,
) -> None:
    """Train π∘g in place so that views of one image agree (CTA, Eq. 1).

    Args:
        twin: Images to features; trained in place, left in training mode.
        images: Source images; no labels.
        preprocessing: Normalisation.
        settings: Length and optimiser.
        run: Seed, checkpoints, device, progress.
        temperature: τ.
        views: How views are drawn.
        identity: What determines images and twin, for the checkpoint.

    Raises:
        InputError: as `acclimate.source.loop.train`.
    """

    def loss(module, numbers: Tensor, epoch_key: int) -> Tensor:
        drawn = draw_two_views(module, images, numbers, preprocessing, views, epoch_key)
        first, second = module(drawn).chunk(2)
        return contrastive_loss(gather(first), gather(second), temperature=temperature)

    train(
        "contrastive",
        twin,
        loss,
        settings,
        run,
        count=len(images),
        identity=[identity, temperature, vars(views)],
    )
