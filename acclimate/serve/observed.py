"""What an operator sees of the service's requests: logs as lines of JSON, and traces."""

import json
import logging
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from typing import Any, TextIO

from fastapi import FastAPI

from acclimate.errors import InputError

_requests = logging.getLogger("acclimate.serve.requests")


def log_as_json(*, requests: bool = False, stream: TextIO | None = None) -> logging.Handler:
    """Write acclimate's warnings and errors as lines of JSON, each an object.

    ```python
    log_as_json(requests=True)
    ```

    No line holds an image, a header or a body.

    Args:
        requests: Whether each request has a line too.
        stream: Where to; None is the standard error output.

    Returns:
        The handler, at the logger ``acclimate``.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_Lines())
    logger = logging.getLogger("acclimate")
    logger.handlers[:] = [handler]  # in place of the command line's, which writes plain text
    logger.propagate = False
    _requests.setLevel(logging.INFO if requests else logging.WARNING)
    return handler


def observe(app: FastAPI, *, traces: bool = False) -> None:
    """Log each request of an application; with traces, each is a span of OpenTelemetry as well.

    Where spans go to is said by OpenTelemetry's own variables, such as OTEL_EXPORTER_OTLP_ENDPOINT.

    Raises:
        InputError: OpenTelemetry is not installed.
    """
    app.add_middleware(Observed, tracer=_tracer() if traces else None)


class Observed:
    """ASGI middleware around all others: a line in the log and a span for each request.

    Args:
        app: What comes after.
        tracer: OpenTelemetry's; None makes no spans.
    """

    def __init__(self, app: Any, tracer: Any = None):
        self._app, self._tracer = app, tracer

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handle a connection, as ASGI says."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0

        async def seen(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with self._span(scope) as span:
            try:
                await self._app(scope, receive, seen)
            finally:
                if span is not None:
                    span.set_attribute("http.response.status_code", status)
                headers = dict(scope["headers"])
                fields = {
                    "method": scope["method"],
                    "path": scope["path"],
                    "status": status,
                    "ms": round(1000 * (time.perf_counter() - began), 3),
                    "bytes": headers.get(b"content-length", b"").decode("latin-1"),
                    "client": (scope.get("client") or ("",))[0],
                }
                _requests.info("request", extra={"fields": fields})

    def _span(self, scope: Any) -> AbstractContextManager[Any]:
        if self._tracer is None:
            return nullcontext()
        from opentelemetry.propagate import extract
        from opentelemetry.trace import SpanKind

        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        return self._tracer.start_as_current_span(
            f"{scope['method']} {_route(scope['path'])}",
            context=extract(headers),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": scope["method"], "url.path": scope["path"]},
        )


def _route(path: str) -> str:
    """A path without the stream's name: spans have few names."""
    parts = path.split("/")
    if parts[1:3] == ["v1", "streams"] and len(parts) > 3:
        parts[3] = "{stream}"
    return "/".join(parts)


def _tracer() -> Any:
    """A tracer whose spans are exported by OTLP."""
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # pyright: ignore[reportMissingImports]
            OTLPSpanExporter,
        )
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise InputError(
            f"--traces needs {error.name}: pip install 'acclimate[otel]', or leave it out."
        ) from error
    provider = TracerProvider(resource=_resource())
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    return provider.get_tracer("acclimate.serve")


def _resource() -> Any:
    """What OpenTelemetry's variables say of this service, with a name where they give none."""
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource

    given = Resource.create()
    if not str(given.attributes[SERVICE_NAME]).startswith("unknown_service"):
        return given
    return given.merge(Resource({SERVICE_NAME: "acclimate"}))


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)
