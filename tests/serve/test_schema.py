"""Requests that a generator makes of the description: no fault, whatever they are."""

import json
from contextlib import suppress

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable

schemathesis = pytest.importorskip("schemathesis")

BAD = "a fault, a traceback, or an error that is no JSON"


@pytest.fixture
def server(served_by):
    return served_by(request_bytes=200_000, timeout_s=5)


def check(response):
    """The answer is one, or a refusal in JSON with one sentence."""
    assert response.status_code < 500 or response.status_code == 503, (BAD, response.text)
    if response.status_code >= 400:
        body = json.loads(response.content)
        assert body["type"] and body["sentence"] and "Traceback" not in response.text, BAD


def run(address, examples, number=0):
    """Make requests of each operation of the description, with bodies as they should be or not."""
    described = httpx.get(f"{address}/openapi.json").json()
    schema = schemathesis.openapi.from_dict(described)
    count = 0
    for result in schema.get_all_operations():
        operation = result.ok()
        if operation.path == "/v1/bundle" and operation.method.upper() == "PUT":
            continue  # would load bundles
        for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):

            @seed(number)
            @settings(
                max_examples=examples,
                deadline=None,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy(generation_mode=mode))
            def test(case):
                nonlocal count
                count += 1
                check(case.call(base_url=address))

            with suppress(Unsatisfiable):  # nothing about some requests can be wrong
                test()
    return count


def test_requests_made_from_the_description_find_no_fault(server):
    assert run(server.address, 2) > 30
    assert httpx.get(f"{server.address}/v2/health/ready").status_code == 200


@pytest.mark.slow
def test_10000_requests_made_from_the_description_find_no_fault(server):
    def stats():
        return httpx.get(f"{server.address}/v1/stats").json()

    before = stats()["rss_bytes"]
    number = 0
    while sum((after := stats())["requests"].values()) < 10_000:
        run(server.address, 300, number)
        number += 1
    assert after["rss_bytes"] - before < 300 * 2**20


_TYPES = ("image/png", "application/x-npy", "application/json", "multipart/form-data; boundary=a")
_STARTS = (b"", b"--a\r\n", b"{", b'{"images":[', b"\x93NUMPY\x01\x00", b"\x89PNG")


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    path=st.sampled_from(
        ["/v1/streams/a/predict", "/v1/streams/a/restore", "/v2/models/acclimate/infer"]
    ),
    kind=st.sampled_from(_TYPES),
    start=st.sampled_from(_STARTS),
    rest=st.binary(max_size=200),
    length=st.none() | st.integers(0, 300),
)
def test_any_bytes_are_answered_or_told(client, path, kind, start, rest, length):
    headers = {"content-type": kind}
    if length is not None:
        headers["Inference-Header-Content-Length"] = str(length)
    check(client.post(path, content=start + rest, headers=headers))
