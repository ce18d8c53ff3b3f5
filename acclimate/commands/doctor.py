"""``acclimate doctor``."""

import json
from dataclasses import asdict, dataclass
from typing import Annotated

import tyro
from rich.console import Console

from acclimate.errors import InputError

_MARKS = {
    "good": "[green]✓[/green]",
    "absent": "[dim]–[/dim]",
    "note": "[yellow]![/yellow]",
    "fault": "[red]✗[/red]",
}


@dataclass(frozen=True)
class Doctor:
    """Say whether this machine is ready, and what would help.

    Looks at Python, torch, devices, threads, memory, the cache and optional packages, and takes one
    gradient step. Nothing is changed. The exit code is 1 if something does not work.

    Example: acclimate doctor

    Example: acclimate doctor --json
    """

    as_json: Annotated[bool, tyro.conf.arg(name="json"), tyro.conf.FlagCreatePairsOff] = False
    """Print the findings as JSON."""

    def run(self, console: Console) -> None:
        """Run the command."""
        try:
            from acclimate.commands.machine_checks import look
        except (ImportError, OSError) as error:  # a library of torch's may be missing
            raise InputError(
                f"torch cannot be imported ({str(error).splitlines()[0]}); install it anew: pip "
                "install --force-reinstall torch torchvision."
            ) from error
        findings = look()
        if self.as_json:
            print(json.dumps([asdict(each) for each in findings], indent=2))
        else:
            width = max(len(each.name) for each in findings)
            for each in findings:
                console.print(_MARKS[each.state], end=" ")
                line = f"{each.name:<{width}}  {each.value}"
                console.print(line, markup=False, highlight=False, soft_wrap=True)
                if each.remedy:
                    console.print(
                        f"{'':<{width + 4}}{each.remedy}",
                        markup=False,
                        highlight=False,
                        soft_wrap=True,
                        style="dim",
                    )
        if any(each.state == "fault" for each in findings):
            raise SystemExit(1)
