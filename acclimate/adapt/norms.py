"""The batch norm of what an adapter runs."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from acclimate.backbones import Classifier
from acclimate.methods import AdapterSettings
from acclimate.objectives import Objective
from acclimate.parts.class_balanced import ClassBalanced, ClassNorms
from acclimate.parts.normalisation import AdaptiveBatchNorm, BatchNorms


def norms_of(
    settings: AdapterSettings, model: Classifier, objective: Objective | None
) -> BatchNorms:
    """The batch norm of the encoder and of the objective, but for what keeps the source's."""
    modules: dict[str, nn.Module] = {"model.encoder": model.encoder}
    but: list[nn.Module] = []
    if objective is not None:
        modules["objective"] = objective
        but = [objective.get_submodule(name) for name in objective.keeps_source]
    if isinstance(settings.normalisation, ClassBalanced):
        return ClassNorms(settings.normalisation, modules, model.num_classes, but=but)
    return BatchNorms(settings.normalisation, modules, but=but)


@contextmanager
def values_a_channel(norms: Iterable[AdaptiveBatchNorm]) -> Iterator[set[int]]:
    """Within it, over how many values layers take statistics of their own."""
    seen: set[int] = set()

    def note(norm: AdaptiveBatchNorm, inputs: tuple[Tensor, ...], named: dict) -> None:
        (x,) = (*inputs, *named.values())
        if norm.control.learning:
            seen.add(x.numel() // x.shape[1])

    handles = [norm.register_forward_pre_hook(note, with_kwargs=True) for norm in norms]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
