"""Bearer tokens from a file, each perhaps for the streams with a certain prefix alone."""

import hmac
import re
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from acclimate.errors import InputError
from acclimate.serve.refused import RefusedError

_LEAST = 16  # characters; shorter ones can be guessed
_MOST_BYTES = 2**20
_COMMENT = re.compile(r"(^|\s)#.*")  # site#7 is no comment: cut, it would be for more streams


@dataclass(frozen=True)
class Access:
    """What a request may do."""

    prefix: str = ""
    """Beginning of the names of streams that it may use; empty for all, and for the service."""

    def check_stream(self, name: str) -> None:
        """Refuse a stream that the token is not for.

        Raises:
            RefusedError: it begins otherwise.
        """
        if not name.startswith(self.prefix):
            raise RefusedError("forbidden", f"this token is for streams {self.prefix}... alone.")

    def check_service(self) -> None:
        """Refuse what concerns all streams.

        Raises:
            RefusedError: the token is for some streams alone.
        """
        if self.prefix:
            raise RefusedError("forbidden", "this needs a token that is for all streams.")


class Tokens:
    """The tokens of a file: a line each, ``TOKEN`` or ``TOKEN PREFIX``.

    A ``#`` at its beginning or after a space begins a comment.

    ```python
    access = Tokens(Path("tokens.txt")).access("Bearer 0123456789abcdef")
    ```

    Args:
        path: The file; None lets every request in.

    Raises:
        InputError: it cannot be read, has no token, or a short one.
    """

    def __init__(self, path: Path | None):
        self._path = path
        self._known: list[tuple[bytes, Access]] | None = None
        self.read()

    @property
    def needed(self) -> bool:
        """Whether a request needs a token."""
        return self._known is not None

    def read(self) -> None:
        """Read the file again; what is wrong with it leaves the tokens as they were.

        Raises:
            InputError: as the class.
        """
        if self._path is None:
            return
        try:
            with self._path.open(encoding="utf-8") as file:
                lines = file.read(_MOST_BYTES).splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot read the tokens of {self._path}: {error}.") from error
        known = []
        for number, line in enumerate(lines, 1):
            words = _COMMENT.sub("", line).split(maxsplit=1)
            if not words:
                continue
            if len(words[0]) < _LEAST:
                raise InputError(
                    f"line {number} of {self._path} has a token of fewer than {_LEAST} "
                    "characters; make a longer one, such as with openssl rand -hex 16."
                )
            known.append((_digest(words[0]), Access(words[1].strip() if words[1:] else "")))
        if not known:
            raise InputError(f"{self._path} has no token; write one in a line of its own.")
        self._known = known

    def access(self, header: str | None) -> Access:
        """What a request with this ``Authorization`` header may do.

        All tokens are compared, in a time that does not depend on which one fits.

        Raises:
            RefusedError: there is no such token.
        """
        if self._known is None:
            return Access()
        kind, _, token = (header or "").partition(" ")
        given, found = _digest(token.strip()), None
        for known, access in self._known:
            if hmac.compare_digest(known, given):
                found = access
        if found is None or kind.lower() != "bearer":
            raise RefusedError("unauthorized", "send a known token: Authorization: Bearer TOKEN.")
        return found


def _digest(token: str) -> bytes:
    """A checksum: all have one length, so that a comparison does not tell a token's."""
    return sha256(token.encode("utf-8", "surrogateescape")).digest()
