"""The command line: parse, call, print."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Union

import tyro
from rich.console import Console

from acclimate.bundle import read_record
from acclimate.commands import VERBS, Adapt, Align, Train
from acclimate.commands.script import one_sentence
from acclimate.errors import unknown_name
from acclimate.methods import METHODS
from acclimate.runtime.determinism import repeat_bits
from acclimate.runtime.memory import keep_freed_memory
from acclimate.source.presets import PRESETS, with_epochs


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``acclimate``; bad input ends in one sentence and exit code 2."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    with one_sentence("run the same command again to resume"):
        command = _parse(given)
        keep_freed_memory()
        repeat_bits()
        command.run(Console())


def _parse(given: list[str]) -> Any:
    """Read a command; some flags, and the bundle, set the defaults of others."""
    verb = given[0] if given else ""
    if verb and not verb.startswith("-") and verb not in VERBS:
        raise unknown_name("command", verb, VERBS)
    stages = PRESETS.get(_value(given, "--preset") or "small", PRESETS["small"])
    epochs = _value(given, "--epochs")
    if epochs is not None and epochs.removeprefix("-").isdecimal():
        stages = with_epochs(stages, int(epochs))
    method = _value(given, "--method") or _bundled_method(given)
    if method not in METHODS:
        raise unknown_name("method", method, METHODS)
    missing = tyro.MISSING
    defaults = {
        "train": Train(data=missing, out=missing, settings=stages),
        "align": Align(model=missing, images=missing, out=missing, settings=stages),
        "adapt": Adapt(
            bundle=missing,
            images=missing,
            out=missing,
            method=method,
            settings=METHODS[method].settings,
        ),
    }
    commands = [
        Annotated[kind, tyro.conf.subcommand(name, prefix_name=False, **_default(defaults, name))]
        for name, kind in VERBS.items()
    ]
    return tyro.cli(
        Union[tuple(commands)],  # type: ignore[arg-type]  # noqa: UP007
        args=given,
        prog="acclimate",
        description="Image classifiers that go on learning, without labels, where they run.",
    )


def _bundled_method(given: Sequence[str]) -> str:
    """The method of the bundle that is to adapt, the default of ``--method``."""
    for argument in given[1:] if given[:1] == ["adapt"] else ():
        if (Path(argument) / "bundle.json").is_file():
            return read_record(argument)["method"]
    return "cta"


def _default(defaults: dict[str, Any], name: str) -> dict[str, Any]:
    return {"default": defaults[name]} if name in defaults else {}


def _value(given: Sequence[str], flag: str) -> str | None:
    """What follows a flag, as ``--flag value`` or ``--flag=value``."""
    for here, after in zip(given, [*given[1:], ""]):
        if here == flag:
            return after
        if here.startswith(f"{flag}="):
            return here.partition("=")[2]
    return None
