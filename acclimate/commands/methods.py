"""``acclimate methods``."""

from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from acclimate.methods import METHODS


@dataclass(frozen=True)
class Methods:
    """List the methods that an adapter can run, with their settings."""

    def run(self, console: Console) -> None:
        """Do it."""
        table = Table("method", "what it is", "steps", "learning rate", "batch norm", "source")
        for name, row in METHODS.items():
            settings = row.settings
            rate = f"{settings.learning_rate:g}" if settings.steps else "-"
            table.add_row(
                name, row.summary, str(settings.steps), rate, settings.normalisation, row.citation
            )
        console.print(table)
