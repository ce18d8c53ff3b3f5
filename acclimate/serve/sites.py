"""Where a request of a browser comes from, and by which name it reached the service."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address

from acclimate.errors import InputError
from acclimate.serve.refused import RefusedError

_HOST = re.compile(r"\[([0-9a-f:.]+)\](?::\d*)?|([^\s:/@\[\]*?#]+)(?::\d*)?")
_SHOWN = 80  # characters of a Host in a message


@dataclass(frozen=True)
class Hosts:
    """The names by which a service without tokens is asked; its ``check`` refuses all others.

    A web page can let its own name point at this machine (DNS rebinding). The browser then takes
    the service for a part of that page, which may read and change all. Its requests have the page's
    name as their ``Host``.

    ```python
    Hosts("0.0.0.0", ("gpu-box",)).check("gpu-box:8000")
    ```

    Raises:
        InputError: a name has a scheme, a port, a path or a ``*``.
    """

    bound: str = "127.0.0.1"
    """Address or name that the service listens on."""
    more: tuple[str, ...] = ()
    """Further names that are accepted."""

    def __post_init__(self) -> None:
        for name in self.more:
            if not _is_address(_plain(name)) and _name(name) != _plain(name):
                raise InputError(
                    f"--allowed-host is a name without scheme, port, path and *, not {name!r}."
                )

    def check(self, host: str | None) -> None:
        """Refuse a ``Host`` that is none of this service.

        Always accepted are ``localhost``, what the service listens on, and addresses: where it
        listens on this machine alone, those of this machine. No browser leaves the header out.

        Raises:
            RefusedError: it is another name.
        """
        if host is None:
            return
        name = _name(host)
        if name in {"localhost", _plain(self.bound), *map(_plain, self.more)}:
            return
        if _is_address(name) and (_is_loopback(name) or not _is_loopback(_plain(self.bound))):
            return
        raise RefusedError(
            "forbidden",
            f"{host[:_SHOWN]!r} is no name of this server; ask at its address, or start it with "
            "--allowed-host and this name.",
        )


def check_site(headers: Mapping[bytes, str], *, by_origin: bool) -> None:
    """Refuse a change that a page of another site asks for, which a browser sends unasked.

    A page cannot set either header. ``Sec-Fetch-Site`` comes from browsers of today, to this
    machine and by HTTPS; ``Origin`` from all of them.

    ```python
    check_site({b"host": "localhost", b"origin": "http://elsewhere.example"}, by_origin=True)
    ```

    Args:
        headers: Of the request.
        by_origin: Whether ``Origin``, where the other is missing, must name the same host.

    Raises:
        RefusedError: the page is of another site.
    """
    site, origin = headers.get(b"sec-fetch-site"), headers.get(b"origin")
    foreign = site not in (None, "none", "same-origin")
    if site is None and origin is not None and by_origin:
        foreign = origin.partition("://")[2].lower() != headers.get(b"host", "").lower()
    if foreign:
        raise RefusedError("forbidden", "pages of other sites may change nothing here.")


def _name(host: str) -> str | None:
    """The name or address of a ``Host``, without its port; None if it is none."""
    found = _HOST.fullmatch(host.lower())
    return found and _plain(found[1] or found[2])


def _plain(name: str) -> str:
    return name.strip("[]").lower().removesuffix(".")


def _is_address(name: str | None) -> bool:
    try:
        return name is not None and bool(ip_address(name))
    except ValueError:
        return False


def _is_loopback(name: str | None) -> bool:
    return name == "localhost" or (_is_address(name) and ip_address(name or "").is_loopback)
