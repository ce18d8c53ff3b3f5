"""``acclimate compare``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from acclimate.errors import InputError

if TYPE_CHECKING:
    from acclimate.evaluate.store import Measured
    from acclimate.report.against import Against, Beside, Pair


@dataclass(frozen=True)
class Compare:
    """Say how two results differ: in which fields of their protocol cards, then in accuracy.

    Results of the same method are compared. The options choose some of them: one value for both
    folders, or one for each. Differences are first minus second, with a 95 % interval where both
    answered for the same images.

    The exit code is 0 if nothing differs, 1 if something does, and 2 for bad input. The commit and
    the machine are said, but are no difference.

    Example: acclimate compare runs/mine runs/theirs --methods tent

    Example: acclimate compare runs/main runs/main --methods tent tent:steps=0 --conditions fog
    """

    first: tyro.conf.Positional[Path]
    """Folder that acclimate bench wrote."""
    second: tyro.conf.Positional[Path]
    """Another one, or the same."""
    methods: tuple[str, ...] = ()
    """Methods or variants; without it all."""
    bundles: tuple[str, ...] = ()
    """Names of bundles; without it all."""
    conditions: tuple[str, ...] = ()
    """Names of corruptions or domains, none for clean images; without it all."""
    protocols: tuple[str, ...] = ()
    """Names of protocols; without it all."""
    seeds: tuple[str, ...] = ()
    """Seeds; without it all."""

    def run(self, console: Console) -> None:
        """Compare, and end with the code."""
        from acclimate.report.against import against, results_of
        from acclimate.report.measured import read_grid

        sides, manifests = [], []
        for place, folder in enumerate((self.first, self.second)):
            measured, manifest = read_grid(folder)
            sides.append(results_of(self._chosen(measured, place), manifest))
            manifests.append(manifest)
        found = against(*sides)
        console.print(f"first: {self.first}", markup=False, highlight=False, soft_wrap=True)
        console.print(f"second: {self.second}", markup=False, highlight=False, soft_wrap=True)
        show(found, console)
        for line in _elsewhere(*manifests):
            console.print(line, style="dim", markup=False, highlight=False, soft_wrap=True)
        if not found.same:
            raise SystemExit(1)

    def _chosen(self, measured: "Sequence[Measured]", place: int) -> "list[Measured]":
        """The cells of the first or the second folder that the options choose.

        Raises:
            InputError: an option has more than two values, or chooses nothing.
        """
        from acclimate.evaluate.protocols import protocol_name
        from acclimate.evaluate.variant import Variant

        values = {
            "methods": lambda each: str(each.cell.variant),
            "bundles": lambda each: each.cell.bundle,
            "conditions": lambda each: each.cell.condition,
            "protocols": lambda each: protocol_name(each.cell.order, each.cell.window),
            "seeds": lambda each: str(each.cell.seed),
        }
        left = list(measured)
        for name, value in values.items():
            given = getattr(self, name)
            if len(given) > 2:
                raise InputError(f"--{name} takes one value for both folders, or one for each.")
            if not given:
                continue
            wanted = given[min(place, len(given) - 1)]
            if name == "methods":
                wanted = str(Variant.parse(wanted))
            kept = [each for each in left if value(each) == wanted]
            if not kept:
                has = ", ".join(dict.fromkeys(map(value, left)))
                folder = (self.first, self.second)[place]
                raise InputError(f"{folder} has no {name} {wanted!r} here; choose among {has}.")
            left = kept
        return left


def show(found: "Against", console: Console) -> None:
    """Print in which fields each pair differs, and the accuracies beside each other."""
    groups: dict[tuple, list[Pair]] = {}
    for pair in found.pairs:
        groups.setdefault(pair.fields, []).append(pair)
    for fields, pairs in groups.items():
        names = ", ".join(pair.name for pair in pairs)
        if not fields:
            _say(console, f"{names}: the protocol cards are the same")
            continue
        count = "1 field" if len(fields) == 1 else f"{len(fields)} fields"
        _say(console, f"{names}: the protocol cards differ in {count}")
        table = Table("field", "first", "second", box=None, padding=(0, 2, 0, 2))
        for each in fields:
            table.add_row(*(escape(text) for text in (each.words, each.first, each.second)))
        console.print(table)
    _show_accuracies(found.pairs, console)
    for pair in found.pairs:
        if pair.missing:
            _say(console, f"{pair.name}: only one of both has {', '.join(pair.missing)}")
    for place, names in (("first", found.only_first), ("second", found.only_second)):
        if names:
            _say(console, f"only in the {place}: {', '.join(names)}")


def _show_accuracies(pairs: "Sequence[Pair]", console: Console) -> None:
    """Every shift of one pair; of several pairs the means."""
    rows = [(pair.name, each) for pair in pairs for each in _worth_showing(pair, len(pairs))]
    if not rows:
        return
    table = Table("method", "shift", title="accuracy, %", title_justify="left", box=None)
    for name in ("first", "second", "difference, points"):
        table.add_column(name, justify="right")
    for name, each in rows:
        shown = (name, each.label.replace("_", " "), *_figures(each))
        table.add_row(*map(escape, shown))
    console.print(table)
    if len(pairs) > 1:
        _say(console, "choose one method with --methods to see every shift")


def _worth_showing(pair: "Pair", pairs: int) -> "Sequence[Beside]":
    return pair.beside if pairs == 1 else pair.beside[:1]


def _figures(each: "Beside") -> tuple[str, str, str]:
    from acclimate.report.exports import points

    return f"{100 * each.first:.1f}", f"{100 * each.second:.1f}", points(each.gain)


def _elsewhere(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Commits and machines, where they differ."""
    found = []
    if first["commits"] != second["commits"]:
        commits = [", ".join(manifest["commits"]) for manifest in (first, second)]
        found.append(f"no difference, but other commits: {commits[0]} | {commits[1]}")
    one, other = first["machine"], second["machine"]
    for name in one | other:
        if name != "commit" and one.get(name) != other.get(name):
            found.append(f"no difference, but another {name}: {one.get(name)} | {other.get(name)}")
    return found


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
