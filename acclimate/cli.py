"""The command line: parse the arguments and run the command."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Union

import tyro
from rich.console import Console

from acclimate.bundle import read_record
from acclimate.commands import VERBS, Adapt, Align, Train
from acclimate.commands.script import exit_on_error
from acclimate.errors import unknown_name
from acclimate.methods import METHODS, AdapterSettings, changed
from acclimate.methods.changes import KINDS
from acclimate.runtime.determinism import repeat_bits
from acclimate.runtime.memory import keep_freed_memory
from acclimate.source.presets import PRESETS, with_epochs


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``acclimate``. Bad input ends with a one-sentence message and exit code 2."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    with exit_on_error("run the same command again to resume"):
        command = _parse(given)
        keep_freed_memory()
        repeat_bits()
        command.run(Console())


def _parse(given: list[str]) -> Any:
    """Parse a command. --preset, --epochs, --method and the bundle set the defaults of others."""
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
    settings, given = _with_kinds(METHODS[method].settings, given)
    missing = tyro.MISSING
    defaults = {
        "train": Train(data=missing, out=missing, settings=stages),
        "align": Align(model=missing, images=missing, out=missing, settings=stages),
        "adapt": Adapt(
            bundle=missing,
            images=missing,
            out=missing,
            method=method,
            settings=settings,
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
        description="Test-time training of image classifiers, without labels.",
    )


def _bundled_method(given: Sequence[str]) -> str:
    """The method that the bundle was trained for, which is the default of ``--method``."""
    for argument in given[1:] if given[:1] == ["adapt"] else ():
        if (Path(argument) / "bundle.json").is_file():
            return read_record(argument)["method"]
    return "cta"


def _with_kinds(settings: AdapterSettings, given: list[str]) -> tuple[AdapterSettings, list[str]]:
    """The settings with the kinds of parts that flags such as ``--update sgd`` name.

    Returns:
        The settings, and the arguments without these flags.
    """
    for part in KINDS if given[:1] == ["adapt"] else ():
        flag = f"--{part}"
        kind = _value(given, flag)
        if kind is None or kind.startswith("-"):
            continue
        if part == "memory" and kind[:1].isdigit():  # a limit: --memory 2GB
            continue
        settings = changed(settings, {part: kind})
        place = next(n for n, word in enumerate(given) if word.partition("=")[0] == flag)
        given = given[:place] + given[place + (1 if "=" in given[place] else 2) :]
    return settings, given


def _default(defaults: dict[str, Any], name: str) -> dict[str, Any]:
    return {"default": defaults[name]} if name in defaults else {}


def _value(given: Sequence[str], flag: str) -> str | None:
    """The value of a flag, given as ``--flag value`` or ``--flag=value``."""
    for argument, following in zip(given, [*given[1:], ""]):
        if argument == flag:
            return following
        if argument.startswith(f"{flag}="):
            return argument.partition("=")[2]
    return None
