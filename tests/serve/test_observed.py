"""Lines of the log and spans; what a client sends is not in them."""

import gzip
import io
import json
import logging
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from serving import SETTINGS, served_here

from acclimate.errors import InputError
from acclimate.serve import observed
from acclimate.serve.observed import Observed, log_as_json, observe


@pytest.fixture
def lines():
    """The lines that were logged so far."""
    stream, logger = io.StringIO(), logging.getLogger("acclimate")
    before = logger.handlers[:]
    log_as_json(requests=True, stream=stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    logger.handlers[:] = before
    logger.propagate = True


def test_each_request_is_a_line_without_its_content(lines, served, npy):
    with served_here(served, SETTINGS) as (address, _):
        body = npy(np.full((1, 3, 16, 16), 77, np.uint8))
        kind = {"content-type": "application/x-npy", "authorization": "Bearer secret"}
        httpx.post(f"{address}/v1/streams/north/predict", content=body, headers=kind)
        httpx.post(f"{address}/v1/streams/north/predict", content=b"pixels", headers=kind)
    first, second = lines()
    assert first.keys() == {
        "time", "level", "logger", "message", "method", "path", "status", "ms", "bytes", "client",
    }  # fmt: skip
    assert (first["method"], first["path"], first["status"]) == (
        "POST", "/v1/streams/north/predict", 200,
    )  # fmt: skip
    assert first["bytes"] == str(len(body)) and first["ms"] > 0
    assert second["status"] == 400 or second["status"] == 422
    text = json.dumps(lines())
    assert "secret" not in text and "pixels" not in text and "NUMPY" not in text


def test_warnings_have_lines_and_exceptions_a_field(lines):
    logger = logging.getLogger("acclimate.serve.engine")
    try:
        raise ValueError("no\nluck")
    except ValueError:
        logger.error("it failed", exc_info=True)
    logger.info("not said")
    (line,) = lines()
    assert (line["level"], line["message"]) == ("error", "it failed")
    assert line["exception"].endswith("luck") and line["time"].endswith("+00:00")


def small(tracer=None):
    app = FastAPI()

    @app.post("/v1/streams/{stream}/reset")
    async def reset(stream: str) -> str:
        if stream == "bad":
            raise RuntimeError("no luck")
        return stream

    app.add_middleware(Observed, tracer=tracer)
    return TestClient(app, raise_server_exceptions=False)


def test_a_request_is_a_span_of_its_caller():
    trace = pytest.importorskip("opentelemetry.sdk.trace")
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), trace.TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    client = small(provider.get_tracer("test"))
    parent = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    client.post("/v1/streams/north/reset", headers=parent)
    client.post("/v1/streams/bad/reset")
    first, second = exporter.get_finished_spans()
    assert first.name == second.name == "POST /v1/streams/{stream}/reset"
    assert f"{first.context.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
    assert first.attributes["http.response.status_code"] == 200
    assert first.attributes["url.path"] == "/v1/streams/north/reset"
    assert not second.status.is_ok


class Collector(BaseHTTPRequestHandler):
    """Takes what OTLP sends by HTTP."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        self.server.taken.append((self.path, self.headers["content-type"], body))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def test_the_command_sends_its_spans_to_a_collector(served):
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as collector:
        collector.taken = []
        thread = threading.Thread(target=collector.serve_forever, daemon=True)
        thread.start()
        where = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}"}
        command = [sys.executable, "-m", "acclimate", "serve", served, "--port", "0"]
        with subprocess.Popen(
            [*command, "--traces", "--device", "cpu"],
            stdout=subprocess.PIPE, env=os.environ | where, text=True,
        ) as server:  # fmt: skip
            address = server.stdout.readline().split(" on ")[1].split()[0]
            httpx.get(f"{address}/v1/streams/north", timeout=30)
            httpx.get(f"{address}/v2/health/live", timeout=30)
            server.terminate()
            server.communicate(timeout=60)
        collector.shutdown()
    assert server.returncode == 0
    assert {each[:2] for each in collector.taken} == {("/v1/traces", "application/x-protobuf")}
    spans, services = [], set()
    for _, _, body in collector.taken:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            about = {each.key: each.value.string_value for each in resource.resource.attributes}
            services.add(about["service.name"])
            own = (each for each in resource.scope_spans if each.scope.name == "acclimate.serve")
            spans += [span for each in own for span in each.spans]  # FastAPI has some, too
    assert services == {"acclimate"}
    assert {span.name for span in spans} == {"GET /v1/streams/{stream}", "GET /v2/health/live"}
    codes = {each.value.int_value for span in spans for each in span.attributes
             if each.key == "http.response.status_code"}  # fmt: skip
    assert codes == {404, 200}


def test_the_service_is_called_acclimate_unless_it_is_named(monkeypatch):
    pytest.importorskip("opentelemetry.sdk.resources")
    for variable in ("OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES"):
        monkeypatch.delenv(variable, raising=False)
    assert observed._resource().attributes["service.name"] == "acclimate"
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.name=north,site=7")
    assert observed._resource().attributes["service.name"] == "north"
    assert observed._resource().attributes["site"] == "7"
    monkeypatch.setenv("OTEL_SERVICE_NAME", "south")
    assert observed._resource().attributes["service.name"] == "south"


def test_traces_without_opentelemetry_are_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(InputError, match=r"pip install 'acclimate\[otel\]'"):
        observe(FastAPI(), traces=True)


def test_a_name_of_a_span_holds_no_stream():
    assert observed._route("/v1/streams/a/predict") == "/v1/streams/{stream}/predict"
    assert observed._route("/v1/streams") == "/v1/streams"
    assert observed._route("/v2/models/acclimate/infer") == "/v2/models/acclimate/infer"


def test_the_command_logs_requests_to_its_error_output(served):
    command = [sys.executable, "-m", "acclimate", "serve", served, "--port", "0"]
    command += ["--log", "requests", "--device", "cpu"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        address = server.stdout.readline().split(" on ")[1].split()[0]
        httpx.get(f"{address}/v2/health/live", timeout=30)
        server.terminate()
        lines = [json.loads(line) for line in server.communicate(timeout=60)[1].splitlines()]
    assert [line["path"] for line in lines] == ["/v2/health/live"]


def test_pages_of_other_sites_change_nothing(served):
    with served_here(served, SETTINGS) as (address, _):
        for site, status in {"cross-site": 403, "same-site": 403, "same-origin": 404}.items():
            headers = {"sec-fetch-site": site}
            answer = httpx.post(f"{address}/v1/streams/north/reset", headers=headers)
            assert answer.status_code == status
        assert httpx.get(address, headers={"sec-fetch-site": "cross-site"}).status_code == 200
