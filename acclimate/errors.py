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
