"""The command line: parse the arguments and run the command.

Nothing heavy is imported before a command needs it, so that help and messages come at once.
"""

import io
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import MISSING, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro
from rich.console import Console
from rich.table import Table

from acclimate.commands import VERBS, kept_help, summary, verb_class
from acclimate.commands.script import exit_on_error, shown_messages
from acclimate.errors import InputError, unknown_name
from acclimate.version import __version__

if TYPE_CHECKING:
    from acclimate.advise.settings_file import SettingsFile
    from acclimate.methods import AdapterSettings

_HELP = ("-h", "--help")
_WITH_SETTINGS = {"train": "source", "align": "source", "adapt": "adapter"}
"""The verbs that take settings besides their own flags: of training, or of an adapter."""
_WITHOUT_TORCH = ("methods", "doctor")
"""The verbs that work, or say what is wrong, where torch takes long or cannot be imported."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``acclimate``. Bad input ends with a one-sentence message and exit code 2."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    with exit_on_error("run the same command again, which goes on if there is a checkpoint"):
        if not given or given[0] in _HELP:
            _show_verbs(Console(stderr=not given))
            raise SystemExit(0 if given else 2)
        verb, *rest = given
        if verb == "--version":
            print(f"acclimate {__version__}")
            raise SystemExit(0)
        if verb == "--completion":
            print(completion_script(rest), end="")
            raise SystemExit(0)
        if verb not in VERBS:
            raise unknown_name("command", verb, VERBS)
        if len(rest) == 1 and rest[0] in _HELP and (text := kept_help(verb)):
            print(text, end="")
            raise SystemExit(0)
        run(verb, parse(verb, rest))


def run(verb: str, command: Any) -> None:
    """Run a parsed command, with torch prepared for those that need it."""
    if verb not in _WITHOUT_TORCH:
        from acclimate.runtime.determinism import repeat_bits
        from acclimate.runtime.memory import keep_freed_memory

        keep_freed_memory()
        repeat_bits()
        from acclimate.backbones.code import trusted_code

        with shown_messages(), trusted_code(getattr(command, "trust_code", False)):
            command.run(Console())
        return
    command.run(Console())


def parse(verb: str, given: Sequence[str]) -> Any:
    """Parse the arguments of a verb.

    --preset, --epochs, --method, the kinds of parts and the bundle set the defaults of others.
    """
    defaults, given = {}, list(given)
    if _WITH_SETTINGS.get(verb) == "source":
        defaults = {"settings": _stages(given)}
    elif _WITH_SETTINGS.get(verb) == "adapter":
        from acclimate.methods import METHODS

        named, file = _value(given, "--method"), _settings_file(given)
        method = named or (file.variant.method if file else _bundled_method(given))
        if method not in METHODS:
            raise unknown_name("method", method, METHODS)
        same = file is not None and method == file.variant.method
        own = file.variant.settings if file and same else METHODS[method].settings
        settings, given = _with_kinds(own, given)
        whose = "the settings file's" if file else "the bundle's"
        _check_parts(settings, given, method if named else f"{method}, {whose} method,")
        defaults = {"method": method, "settings": settings}
        defaults |= {"batch": file.batch, "guard": file.guard} if file else {}
    kind = verb_class(verb)
    defaults = {each.name: defaults[each.name] for each in fields(kind) if each.name in defaults}
    default = {}
    if defaults:
        required = [each.name for each in fields(kind) if each.default is MISSING]
        default = {"default": kind(**dict.fromkeys(required, tyro.MISSING) | defaults)}
    command = tyro.cli(kind, args=given, prog=f"acclimate {verb}", **default)
    if _WITH_SETTINGS.get(verb) == "source":
        _check_stages(getattr(command, "method", None), given)
    return command


def completion_script(given: Sequence[str]) -> str:
    """The script that makes a shell complete commands.

    Raises:
        InputError: no shell is named, or one that is not known.
    """
    from acclimate.commands.completion import SHELLS, script

    if len(given) != 1:
        raise InputError(f"--completion takes the name of one shell: {', '.join(SHELLS)}.")
    return script(given[0], {verb: kept_help(verb) or help_of(verb) for verb in VERBS})


def help_of(verb: str) -> str:
    """What the parser of a verb says to ``--help``."""
    text = io.StringIO()
    with redirect_stdout(text), suppress(SystemExit):
        parse(verb, _HELP[-1:])
    return text.getvalue()


def _show_verbs(console: Console) -> None:
    """Print all verbs with what each does."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 2))
    for verb in VERBS:
        table.add_row(f"[bold]{verb}[/bold]", summary(verb))
    console.print("usage: acclimate VERB ...  (acclimate VERB --help says more)\n", markup=False)
    console.print("Test-time training of image classifiers, without labels.\n")
    console.print(table)
    console.print("\nacclimate --version prints the version. acclimate --completion bash|zsh|fish")
    console.print("prints a script with which a shell completes these words.")


def _stages(given: Sequence[str]) -> Any:
    """The settings of training that --preset and --epochs stand for."""
    from acclimate.source.presets import PRESETS, with_epochs

    stages = PRESETS.get(_value(given, "--preset") or "small", PRESETS["small"])
    epochs = _value(given, "--epochs")
    if epochs is not None:
        with suppress(ValueError):  # the parser refuses it
            stages = with_epochs(stages, int(epochs))
    return stages


def _bundled_method(given: Sequence[str]) -> str:
    """The method that the bundle was trained for, which is the default of ``--method``."""
    from acclimate.bundle import read_record

    for argument in given:
        if (Path(argument) / "bundle.json").is_file():
            return read_record(argument)["method"]
    return "cta"


def _settings_file(given: Sequence[str]) -> "SettingsFile | None":
    """The file of --settings, whose values are defaults of the options; None without it."""
    path = _value(given, "--settings")
    if path is None:
        return None
    from acclimate.advise.settings_file import load

    return load(Path(path))


def _with_kinds(
    settings: "AdapterSettings", given: list[str]
) -> tuple["AdapterSettings", list[str]]:
    """The settings with the kinds of parts that flags such as ``--update sgd`` name.

    Returns:
        The settings, and the arguments without these flags.
    """
    from acclimate.methods.changes import changed
    from acclimate.methods.kinds import KINDS

    for part in KINDS:
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


def _check_parts(settings: "AdapterSettings", given: Sequence[str], whose: str) -> None:
    """Refuse options of parts that the method does not have."""
    from acclimate.methods.changes import missing

    for flag in _flags(given):
        name = flag.removeprefix("--").replace("-", "_").replace(".no_", ".")
        if reason := missing(settings, name, whose=whose, flag="--"):
            raise InputError(f"there is no {flag}: {reason}.")


def _check_stages(method: str | None, given: Sequence[str]) -> None:
    """Refuse options of stages that are not run: those of a method, None for align's."""
    from acclimate.methods import METHODS, RECIPES
    from acclimate.source.presets import STAGES

    stages = ("contrastive", "align")
    if method is not None:
        if method not in METHODS:
            raise unknown_name("method", method, METHODS)
        stages = RECIPES[METHODS[method].recipe].stages
    for flag in _flags(given):
        stage = flag.removeprefix("--").partition(".")[0]
        if "." in flag and stage in STAGES and stage not in stages:
            raise InputError(
                f"{flag} would have no effect: {method or 'align'} runs no stage {stage}, only "
                f"{', '.join(stages)}; leave it out."
            )


def _flags(given: Sequence[str]) -> list[str]:
    """The names of the flags among arguments."""
    return [word.partition("=")[0] for word in given if word.startswith("--")]


def _value(given: Sequence[str], flag: str) -> str | None:
    """The value of a flag, given as ``--flag value`` or ``--flag=value``."""
    for argument, following in zip(given, [*given[1:], ""]):
        if argument == flag:
            return following
        if argument.startswith(f"{flag}="):
            return argument.partition("=")[2]
    return None
