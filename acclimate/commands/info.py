"""``acclimate info``."""

from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console


@dataclass(frozen=True)
class Info:
    """Say what is in a bundle, after checking that it is undamaged."""

    bundle: tyro.conf.Positional[Path]
    """Its folder."""

    def run(self, console: Console) -> None:
        """Do it."""
        from acclimate.bundle import Bundle, read_record

        record = read_record(self.bundle)
        if record["architecture"] != "custom":
            Bundle.load(self.bundle)
        console.print_json(data=record)
