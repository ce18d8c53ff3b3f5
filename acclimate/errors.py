"""The exception for input that cannot be used. Its message says what to do about it."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """The caller's input cannot be used. The message is one sentence: what is wrong, what to do.

    The command line prints the message without a traceback and exits with code 2. It is a
    `ValueError`, so callers may catch that.

    ```python
    try:
        acclimate.Adapter(bundle, "tend")
    except InputError as error:
        print(error)  # unknown method 'tend': did you mean tent or ptbn?
    ```
    """


class Interrupted(KeyboardInterrupt):
    """A signal has stopped a run that kept what it had done. The message says how to go on.

    Args:
        message: What was kept, and how to go on.
        signal: Number of the signal, such as 2 for Ctrl-C.
    """

    def __init__(self, message: str, signal: int):
        super().__init__(message)
        self.signal = signal


def unknown_name(kind: str, name: str, known: Iterable[str]) -> InputError:
    """Build the error for an unknown name; its message suggests the most similar valid names.

    ```python
    raise unknown_name("corruption", "fogg", CORRUPTIONS)  # ...: did you mean fog?
    ```

    Args:
        kind: What the name stands for, e.g. ``"corruption"``.
        name: The unknown name.
        known: All valid names.
    """
    known = sorted(known)
    near = difflib.get_close_matches(str(name), known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"choose one of {', '.join(known)}."
    return InputError(f"unknown {kind} {name!r}: {hint}")
