"""``acclimate info``."""

from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console


@dataclass(frozen=True)
class Info:
    """Check a bundle for damage and print its contents."""

    bundle: tyro.conf.Positional[Path]
    """Folder of the bundle."""
    trust_code: bool = False
    """Allow running the function that a bundle names as its architecture."""

    def run(self, console: Console) -> None:
        """Run the command."""
        from acclimate.bundle import Bundle, read_record

        record = read_record(self.bundle)
        if record["architecture"] != "custom":
            Bundle.load(self.bundle)
        console.print_json(data=record)
