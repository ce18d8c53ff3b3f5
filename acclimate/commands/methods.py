"""``acclimate methods``."""

from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from acclimate.methods import METHODS, RECIPES
from acclimate.methods.words import learns, needs


@dataclass(frozen=True)
class Methods:
    """List the methods: what each needs, how it adapts, and its cost per image.

    The cost is counted on untrained models: multiplications in units of one forward pass of the
    classifier, in batches of 128 as published.
    """

    model: str = "acclimate:resnet14-w16"
    """Classifier for which costs are counted."""
    transformer: str = "acclimate:vit6-w192-p4"
    """Classifier for methods that need a vision transformer."""
    size: int = 32
    """Height and width of its images, in pixels."""
    cost: bool = True
    """Whether to count the costs, which takes some seconds."""

    def run(self, console: Console) -> None:
        """Run the command."""
        from acclimate.runtime.progress import live

        table = Table("method", "learns", "needs", "cost", "moving")
        with live() as progress:
            for done, (name, row) in enumerate(METHODS.items()):
                progress("count costs", done, len(METHODS), name)
                costs = self._costs(name) if self.cost else ("-", "-")
                table.add_row(name, learns(row), needs(row), *costs)
        console.print(table)
        for name, row in METHODS.items():
            console.print(f"{name}: {row.summary} ({row.citation})", highlight=False)

    def _costs(self, name: str) -> tuple[str, str]:
        from acclimate.adapt import Adapter
        from acclimate.errors import InputError
        from acclimate.source.train import untrained

        transformer = RECIPES[METHODS[name].recipe].transformer
        try:
            bundle = untrained(name, self.transformer if transformer else self.model, self.size)
            cost = Adapter(bundle, name).cost()
        except InputError as error:
            return f"not on {self.model}: {error}", "-"
        return f"{cost.forward_equivalents:.1f}", f"{cost.moving_parameters:,}"
