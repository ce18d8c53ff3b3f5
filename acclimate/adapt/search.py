"""A step without gradients: candidates for a transformer's prompts, each tried by one pass."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from acclimate.adapt.passes import evaluated
from acclimate.backbones import Classifier
from acclimate.backbones.prompts import add_prompts, blocks_of
from acclimate.backbones.trace import two_images
from acclimate.parts.search import CovarianceAdaptation, Search
from acclimate.parts.step import Step, refused
from acclimate.resizing import Side

if TYPE_CHECKING:
    from acclimate.adapt.learner import Learner


def prompted(
    model: Classifier, size: Side, update: CovarianceAdaptation, seed: int
) -> tuple[str, Search]:
    """Give a model prompts, and make the search for them.

    Args:
        model: Changed in place.
        size: Height and width of its images.
        update: The settings.
        seed: Of the candidates.

    Returns:
        The name of the prompts in the encoder, and the search.

    Raises:
        InputError: the model is no vision transformer, or the package of the search is missing.
    """
    encoder = model.encoder
    blocks = blocks_of(encoder, size)
    prompts = add_prompts(encoder, blocks, update.prompts, two_images(encoder, size))
    return f"{blocks[0]}.prompts", update.build(prompts, seed)


@torch.no_grad()
def search_step(
    learner: "Learner",
    views: Tensor,
    drawn: Sequence[Tensor],
    count: int,
    importance: Float[Tensor, " context"] | None,
) -> Step:
    """Try a step's candidates and keep the best; waits for the device to learn which it is.

    Where no candidate's loss is finite, or no image is selected, nothing changes.

    Args:
        learner: Changed in place; what its passes write to has been kept.
        views: Normalised.
        drawn: What else the objective takes.
        count: Images that are learned from.
        importance: A weight of each image, beside what the selection gives; None for ones.
    """
    search = learner.optimizer
    strategy, candidates = search.ask()
    before, losses, selected = search.prompts.clone(), [], []
    try:
        with learner.room.step(count):
            for candidate in candidates:
                search.prompts.copy_(candidate)
                with learner.norms.learning(apart=bool(losses)):
                    _, weights, loss = evaluated(learner, views, drawn, importance, selected)
                selected.append(weights)
                losses.append(loss)
    except BaseException:  # nothing of half a step stays
        learner.undo(refused(views.device))
        raise
    finally:
        search.prompts.copy_(before)
    fitness = torch.stack(losses)
    first = selected[0]
    images = torch.full_like(fitness[0], count) if first is None else first.count_nonzero()
    finite = fitness.isfinite().any()
    best = search.tell(strategy, candidates, fitness) if finite and images else 0
    return Step(fitness[best], torch.zeros_like(fitness[0]), images.long(), finite)
