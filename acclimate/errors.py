"""The one exception that means: the caller's input cannot be used, and here is what to do."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input. The message is one sentence: what is wrong and what to do about it.

    The command line prints it without a traceback and exits with code 2.
    """


def unknown_name(kind: str, name: str, known: Iterable[str]) -> InputError:
    """Build the error for a name that is in no table, with the nearest valid names.

    Args:
        kind: What the name stands for, e.g. ``"corruption"``.
        name: The name that was given.
        known: All valid names.
    """
    known = sorted(known)
    near = difflib.get_close_matches(str(name), known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"choose one of {', '.join(known)}."
    return InputError(f"unknown {kind} {name!r}: {hint}")
