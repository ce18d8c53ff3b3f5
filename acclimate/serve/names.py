"""Names of streams."""

from acclimate.serve.refused import RefusedError

LONGEST = 128
"""Most characters of a name."""


def check_name(name: str) -> str:
    """Return the name of a stream, if it is one.

    ```python
    check_name("Straße 5 / north")  # refused: it has a /
    ```

    Raises:
        RefusedError: it is empty or too long, has control characters or a ``/``, is no valid text,
            or is ``.`` or ``..``.
    """
    if not 1 <= len(name) <= LONGEST:
        raise RefusedError("bad_value", f"a stream's name has 1 to {LONGEST} characters.")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise RefusedError("bad_value", "the stream's name is no valid Unicode text.") from error
    if name in (".", ".."):  # clients and proxies take these out of a path
        raise RefusedError("bad_value", "a stream's name is not . or .. alone.")
    if not name.isprintable() or "/" in name or "\ufffd" in name:
        raise RefusedError("bad_value", "a stream's name has printable characters alone, and no /.")
    return name


def is_name(name: str) -> bool:
    """Tell whether a stream may have this name."""
    try:
        return bool(check_name(name))
    except RefusedError:
        return False
