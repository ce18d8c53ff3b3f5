"""Reset: when all that was learned is forgotten."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from acclimate.parts.step import Step

Forget = Callable[[], None]
"""Takes everything that learning changes back to the source."""


@dataclass(frozen=True)
class EachBatch:
    """Each batch starts from the source weights."""

    always: ClassVar[bool] = True

    def build(self) -> "EachBatch":
        """Nothing is kept."""
        return self

    def before(self, forget: Forget) -> None:
        """Forget what earlier batches taught."""
        forget()

    def after(self, step: Step, forget: Forget) -> None:
        """Go on within the batch."""

    def state(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}


@dataclass(frozen=True)
class Never:
    """Each batch starts from the last one's weights."""

    always: ClassVar[bool] = False

    def build(self) -> "Never":
        """Nothing is kept."""
        return self

    def before(self, forget: Forget) -> None:
        """Go on."""

    def after(self, step: Step, forget: Forget) -> None:
        """Go on."""

    def state(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}


Reset = EachBatch | Never
