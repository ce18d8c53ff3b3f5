"""How an adapter learns: one kind of each part, with its settings."""

from dataclasses import dataclass, field, fields
from typing import get_args

from acclimate.errors import InputError, unknown_name
from acclimate.objectives import ObjectiveOptions
from acclimate.parts.aftermath import Aftermath
from acclimate.parts.answer import After, Answer
from acclimate.parts.correction import Correction, Uncorrected
from acclimate.parts.memory import CurrentBatch, Memory
from acclimate.parts.normalisation import Normalisation, SourceStatistics
from acclimate.parts.reset import EachBatch, Reset
from acclimate.parts.selection import All, Selection
from acclimate.parts.update import Update
from acclimate.runtime.precision import Precision


@dataclass(frozen=True)
class AdapterSettings:
    """How an adapter learns from each batch, and how it answers.

    ```python
    settings = AdapterSettings(
        steps=1,
        objective=EntropyOptions(),
        update=Adam(1e-3, parameters="norm"),
        normalisation=BatchStatistics(),
        reset=Never(),
    )
    ```

    See `acclimate.methods.changes.changed` for changing single settings by name.
    """

    steps: int = 0
    """Gradient steps on each batch."""
    objective: ObjectiveOptions | None = None
    """What the steps minimise; None takes no steps."""
    memory: Memory = field(default=CurrentBatch())
    """Which images a step learns from."""
    selection: Selection = field(default=All())
    """Which of these count in the loss."""
    update: Update | None = None
    """The optimiser, and what it moves; None takes no steps."""
    aftermath: tuple[Aftermath, ...] = ()
    """What follows each step."""
    normalisation: Normalisation = field(default=SourceStatistics())
    """Statistics of batch norm."""
    answer: Answer = field(default=After())
    """When a batch is answered for, and by which model."""
    correction: Correction = field(default=Uncorrected())
    """What is done to the logits in the end."""
    reset: Reset = field(default=EachBatch())
    """When all that was learned is forgotten."""
    one_by_one: bool = False
    """Whether each image is learned from alone, as if it came in a batch of its own."""
    seed: int = 0
    """Seed of the views."""
    precision: Precision = "auto"
    """``bf16`` or ``fp32``; ``auto`` is bf16 where the device multiplies it natively."""

    @property
    def alone(self) -> bool:
        """Whether the images of a batch have nothing in common: any order gives the same."""
        return self.one_by_one and self.reset.always


def check_settings(settings: AdapterSettings) -> None:
    """Refuse settings that cannot be meant.

    Raises:
        InputError: a number of steps that is none, steps without an objective or an update, a
            part's setting that is out of range, or an unknown precision.
    """
    if not (isinstance(settings.steps, int) and settings.steps >= 0):
        raise InputError(f"steps must be a whole number, 0 or more, not {settings.steps!r}.")
    if settings.steps and (settings.objective is None or settings.update is None):
        raise InputError("the method takes no gradient steps; set steps to 0.")
    named = [getattr(settings, field.name) for field in fields(settings)]
    for part in [*named, *settings.aftermath]:
        if hasattr(part, "check"):
            part.check()
    if settings.precision not in get_args(Precision):
        raise unknown_name("precision", settings.precision, get_args(Precision))
