"""Run the service: a socket, uvicorn, and signals."""

import json
import math
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from acclimate.errors import InputError
from acclimate.serve.service import Service
from acclimate.serve.settings import ServeSettings

_BACKLOG = 1024
_SPARE = 64  # connections beyond those that are answered, to be told so


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one.

    Raises:
        InputError: the address is in use, or none of this machine's.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except (OSError, OverflowError) as error:
        raise InputError(
            f"cannot listen on {host} port {port}: {error}; choose another --port."
        ) from error


def run(server: uvicorn.Server, service: Service, listener: socket.socket) -> None:
    """Answer requests until SIGTERM or Ctrl-C, then answer those in flight and save all states.

    SIGHUP loads the bundle and the tokens again.

    Args:
        server: From `server_of`.
        service: Its service.
        listener: From `listen`.
    """

    # uvicorn takes these over when it runs, and raises what it was sent again after it has ended.
    def end(*_: object) -> None:
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    signal.signal(signal.SIGHUP, lambda *_: _in_thread(_reload(service)))
    server.run(sockets=[listener])


def server_of(
    app: FastAPI, settings: ServeSettings, tls: tuple[Path, Path] | None = None
) -> uvicorn.Server:
    """The server of an application.

    ```python
    server_of(create_app(service), ServeSettings()).run(sockets=[listen("127.0.0.1", 8000)])
    ```

    Args:
        app: From `create_app`.
        settings: With the bounds.
        tls: Certificate and key.

    Raises:
        InputError: certificate or key cannot be read.
    """
    config = uvicorn.Config(
        app,
        http=type("Protocol", (_Patient,), {"settings": settings}),
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        # With uvicorn's 5 s, a busy client's next request may come just as its connection ends.
        timeout_keep_alive=math.ceil(settings.upload_s),
        timeout_graceful_shutdown=int(settings.timeout_s + settings.upload_s) + 1,
        ssl_certfile=tls[0] if tls else None,
        ssl_keyfile=tls[1] if tls else None,
    )
    try:
        config.load()
    except OSError as error:
        raise InputError(f"cannot use the certificate and key for TLS: {error}.") from error
    return uvicorn.Server(config)


def _reload(service: Service) -> Callable[[], None]:
    def reload() -> None:
        try:
            service.tokens.read()
            service.switch(None)
            service.tell(f"loaded {service.engine.model.name} again")
        except InputError as error:
            service.tell(f"goes on with the present bundle: {error}")

    return reload


def _in_thread(work: Callable[[], None]) -> None:
    threading.Thread(target=work, daemon=True).start()


class _Patient(H11Protocol):
    """HTTP as uvicorn speaks it, with a time for the headers and errors in JSON."""

    settings: ServeSettings
    _timer: Any = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > self.settings.connections + _SPARE:
            transport.abort()
            return
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        busy = self.cycle is not None and not self.cycle.response_complete
        self._cancel() if busy else self._expect()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "bad_request", "this is no HTTP request, or its header is too large.")

    def _expect(self) -> None:
        """A request's headers must be here in time."""
        if self._timer is None and not self.transport.is_closing():
            self._timer = self.loop.call_later(self.settings.upload_s, self._late)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        self._timer = None
        if self.cycle is not None and not self.cycle.response_complete:
            return
        if self.conn.our_state is h11.IDLE:
            sentence = f"the headers did not arrive within {self.settings.upload_s:g} s."
            self._refuse(408, "too_slow", sentence)
        else:  # the rest of a body that was refused already
            self.transport.close()

    def _refuse(self, status: int, kind: str, sentence: str) -> None:
        body = json.dumps({"type": kind, "sentence": sentence}).encode()
        headers = [
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            ("connection", "close"),
        ]
        try:
            for event in (
                h11.Response(status_code=status, headers=headers),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        except h11.LocalProtocolError:
            pass  # an answer has begun already
        self.transport.close()
