"""A row of the table of methods."""

from dataclasses import dataclass
from typing import Literal

from acclimate.methods.settings import AdapterSettings
from acclimate.objectives import Objective


@dataclass(frozen=True)
class Method:
    """How a model adapts."""

    summary: str
    """One line for people."""
    citation: str
    """Authors, year and title; "-" for none."""
    recipe: str
    """The row of `RECIPES` that the bundle must have been made by; ``supervised`` is satisfied by
    the classifier of any."""
    settings: AdapterSettings
    """The parts that the adapter is composed of, with the published values."""
    model: Literal["classifier", "twin"] = "classifier"
    """Which of the bundle's models adapts and answers."""
    batch_norm: bool = False
    """Whether the method has no effect without batch norm."""
    transformer: bool = False
    """Whether the method needs a vision transformer, though its recipe does not."""
    zero_shot: bool = False
    """Whether the method needs a zero-shot classifier, which compares images with texts."""
    oracle: bool = False
    """Whether it saw, before deployment, the images on which it is measured: not comparable."""

    @property
    def objective(self) -> type[Objective] | None:
        """The class of the objective; None without steps."""
        return None if self.settings.objective is None else self.settings.objective.kind
