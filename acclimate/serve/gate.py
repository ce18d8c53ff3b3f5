"""The gate of the service: tokens, whole bodies within bounds, and errors as JSON."""

import asyncio
import json
import logging
import time
from collections.abc import Mapping
from typing import Any

from acclimate.errors import InputError
from acclimate.serve.auth import Access, Tokens
from acclimate.serve.metrics import Metrics
from acclimate.serve.refused import RefusedError
from acclimate.serve.settings import ServeSettings
from acclimate.serve.sites import Hosts, check_site

_OPEN = ("/", "/docs", "/openapi.json", "/v2/health/live", "/v2/health/ready")
_OPEN_FOLDER = "/page/"
_SWALLOWED = 4  # bodies: of one that is too large, so much is read before the answer
_log = logging.getLogger(__name__)


class Gate:
    """ASGI middleware: lets a request in, reads its body, and tells in JSON why it was refused.

    A body is read here, once and within all bounds, because what comes after takes it whole. The
    token is checked before. What an endpoint raises becomes a JSON error; an error that nobody
    expected is logged without the request and becomes a 500.

    Args:
        app: What comes after.
        tokens: Who may come in.
        settings: With the bounds.
        metrics: Where requests are counted.
        hosts: By which names the service is asked; None: by any.
    """

    def __init__(
        self,
        app: Any,
        tokens: Tokens,
        settings: ServeSettings,
        metrics: Metrics,
        hosts: Hosts | None = None,
    ):
        self._app, self._tokens, self._settings, self._hosts = app, tokens, settings, hosts
        self._metrics, self._held, self._open = metrics, 0, 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handle a connection, as ASGI says."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0

        async def counted(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self._open += 1
        try:
            if self._open > self._settings.connections:
                raise RefusedError("overloaded", "the server has too many requests; ask again.", 1)
            await self._let_in(scope, receive, counted)
        except InputError as error:
            await _tell(scope, counted, error, started=status != 0)
        except Exception as error:
            _log.error(f"a request failed: {type(error).__name__}: {error}", exc_info=True)
            await _tell(scope, counted, error, started=status != 0)
        finally:
            self._open -= 1
        interface = "v1" if scope["path"].startswith("/v1/") else "v2"
        interface = interface if scope["path"].startswith(("/v1/", "/v2")) else "other"
        self._metrics.requests.labels(interface, str(status)).inc()
        if scope["path"].endswith(("/predict", "/infer")):
            self._metrics.latency.labels(interface).observe(time.perf_counter() - began)

    async def _let_in(self, scope: Any, receive: Any, send: Any) -> None:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        path = scope["path"]
        state = scope.setdefault("state", {})
        state["access"] = Access()
        if self._hosts is not None:
            self._hosts.check(headers.get(b"host"))
        if path not in _OPEN and not path.startswith(_OPEN_FOLDER):
            state["access"] = self._tokens.access(headers.get(b"authorization"))
        if scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            # Pages of other sites know no token. Behind a proxy, Host may be another one.
            check_site(headers, by_origin=not self._tokens.needed)
        length = headers.get(b"content-length")
        if length is None and b"transfer-encoding" not in headers:
            await self._app(scope, receive, send)
            return
        held = 0

        def hold(more: int) -> None:
            nonlocal held
            if self._held + more > self._settings.body_bytes:
                sentence = "the server is reading as much as it can hold; ask again later."
                raise RefusedError("overloaded", sentence, 1)
            held += more
            self._held += more

        try:
            body = await self._read(headers, receive, hold)
            await self._app(scope, _replayed(body, receive), send)
        finally:
            self._held -= held

    async def _read(self, headers: Mapping[bytes, str], receive: Any, hold: Any) -> bytes:
        """The whole body of a request.

        Raises:
            RefusedError: it is too large, too slow, cut off, or compressed.
        """
        if headers.get(b"content-encoding", "identity") not in ("", "identity"):
            raise RefusedError("wrong_type", "bodies must not be compressed; send it as it is.")
        limit = self._settings.request_bytes
        if "json" in headers.get(b"content-type", "json").lower():
            limit //= 4
        if b"inference-header-content-length" in headers:
            limit = self._settings.request_bytes
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._settings.upload_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise RefusedError("bad_request", "the connection ended within the body.")
                    part = message.get("body", b"")
                    size += len(part)
                    if size <= limit:
                        hold(len(part))
                        parts.append(part)
                    elif size > _SWALLOWED * self._settings.request_bytes:
                        break
                    else:
                        parts.clear()
                    if not message.get("more_body", False):
                        break
        except TimeoutError as error:
            sentence = f"the body did not arrive within {self._settings.upload_s:g} s."
            raise RefusedError("too_slow", sentence) from error
        if size > limit:
            raise RefusedError(
                "too_large", f"the body has more than {limit:,} bytes; send fewer images at a time."
            )
        return b"".join(parts)


def error_body(kind: str, sentence: str, path: str) -> dict[str, str]:
    """The JSON of an error. Clients of the Open Inference Protocol look for ``error``."""
    body = {"type": kind, "sentence": sentence}
    return body | {"error": sentence} if path.startswith("/v2") else body


async def _tell(scope: Any, send: Any, error: Exception, *, started: bool) -> None:
    """Answer with an error, unless an answer has begun."""
    if started:
        return
    headers = []
    if isinstance(error, RefusedError):
        kind, status, sentence = error.kind, error.status, str(error)
        if error.retry_after is not None:
            headers.append((b"retry-after", str(error.retry_after).encode()))
        if kind == "unauthorized":
            headers.append((b"www-authenticate", b"Bearer"))
        if kind in ("too_slow", "too_large"):
            headers.append((b"connection", b"close"))
    elif isinstance(error, InputError):
        kind, status, sentence = "bad_value", 422, str(error)
    else:
        kind, status, sentence = "internal", 500, "the server has a fault; its log says more."
    body = json.dumps(error_body(kind, sentence, scope["path"])).encode()
    headers += [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _replayed(body: bytes, receive: Any) -> Any:
    """A body that was read, as ASGI's ``receive`` gives it."""
    given = False

    async def replay() -> Any:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
