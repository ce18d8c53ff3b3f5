"""How an adapter learns: one kind of each part, with its settings."""

from dataclasses import dataclass, field, fields

from acclimate.objectives import ObjectiveOptions
from acclimate.parts.aftermath import Aftermath
from acclimate.parts.answer import After, Answer
from acclimate.parts.correction import Correction, Uncorrected
from acclimate.parts.memory import CurrentBatch, Memory
from acclimate.parts.normalisation import Normalisation, SourceStatistics
from acclimate.parts.penalty import Penalty, Unpenalised
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
    """The objective that the steps minimise; None without steps."""
    memory: Memory = field(default=CurrentBatch())
    """Which images a step learns from."""
    selection: Selection = field(default=All())
    """Which of these count in the loss."""
    penalty: Penalty = field(default=Unpenalised())
    """What is added to the loss."""
    update: Update | None = None
    """The optimiser and the parameters that it moves; None without steps."""
    aftermath: tuple[Aftermath, ...] = ()
    """Changes of weights that follow each step."""
    normalisation: Normalisation = field(default=SourceStatistics())
    """Statistics of batch norm."""
    answer: Answer = field(default=After())
    """When a batch is answered for, and by which model."""
    correction: Correction = field(default=Uncorrected())
    """Correction of the final logits."""
    reset: Reset = field(default=EachBatch())
    """When all that was learned is forgotten."""
    one_by_one: bool = False
    """Whether each image is learned from alone, as if it came in a batch of its own."""
    seed: int = 0
    """Seed of the views."""
    precision: Precision = "auto"
    """``bf16`` or ``fp32``; ``auto`` is bf16 where the device multiplies it natively."""

    @property
    def source_statistics(self) -> tuple[str, ...]:
        """Kinds of statistics of source images that the parts need of the bundle."""
        values = [getattr(self, field.name) for field in fields(self)]
        parts = [p for value in values for p in (value if isinstance(value, tuple) else (value,))]
        kinds = (kind for part in parts for kind in getattr(part, "source_statistics", ()))
        return tuple(dict.fromkeys(kinds))

    @property
    def alone(self) -> bool:
        """Whether images do not affect each other, so that any order gives the same answers."""
        return self.one_by_one and self.reset.always and not self.memory.keeps
