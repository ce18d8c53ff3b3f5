"""Requests that a generator makes of the description: no fault, whatever they are."""

import json

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

schemathesis = pytest.importorskip("schemathesis")

BAD = "a fault, a traceback, or an error that is no JSON"


@pytest.fixture
def app_client(client_of):
    return client_of(request_bytes=200_000, timeout_s=5)


def check(response):
    """The answer is one, or a refusal in JSON with one sentence."""
    assert response.status_code < 500 or response.status_code == 503, (BAD, response.text)
    if response.status_code >= 400:
        body = json.loads(response.content)
        assert body["type"] and body["sentence"] and "Traceback" not in response.text, BAD


def run(app_client, examples):
    """Make requests of each operation of the description, with bodies as they should be or not."""
    schema = schemathesis.openapi.from_dict(app_client.get("/openapi.json").json())
    seen = set()
    for result in schema.get_all_operations():
        operation = result.ok()
        if operation.path == "/v1/bundle" and operation.method.upper() == "PUT":
            continue  # would load bundles

        for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):

            @settings(
                max_examples=examples,
                deadline=None,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
                derandomize=True,
            )
            @given(case=operation.as_strategy(generation_mode=mode))
            def test(case):
                given = case.as_transport_kwargs(base_url="http://testserver")
                seen.add(case.operation.label)
                check(send(app_client, given))

            try:
                test()
            except Exception as error:
                if "Unsatisfiable" not in type(error).__name__:
                    raise
    return seen


def send(client, given):
    """Send what a case stands for."""
    kept = ("method", "url", "params", "headers", "json", "data", "files", "content", "cookies")
    given = {name: value for name, value in given.items() if name in kept and value is not None}
    if isinstance(given.get("data"), bytes | str):
        given["content"] = given.pop("data")
    return client.request(**given)


def test_requests_made_from_the_description_find_no_fault(app_client):
    seen = run(app_client, 2)
    assert len(seen) > 12, seen
    assert app_client.get("/v2/health/ready").status_code == 200


@pytest.mark.slow
def test_10000_requests_made_from_the_description_find_no_fault(app_client):
    before = app_client.get("/v1/stats").json()["rss_bytes"]
    run(app_client, 320)
    after = app_client.get("/v1/stats").json()
    assert sum(after["requests"].values()) > 10_000 and after["requests"]["failed"] < 50
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
    start=st.sampled_from(
        [b"", b"--a\r\n", b"{", b'{"images":[', b"\x93NUMPY\x01\x00", b"\x89PNG"]
    ),
    rest=st.binary(max_size=200),
    length=st.none() | st.integers(0, 300),
)
def test_any_bytes_are_answered_or_told(app_client, path, kind, start, rest, length):
    headers = {"content-type": kind}
    if length is not None:
        headers["Inference-Header-Content-Length"] = str(length)
    check(app_client.post(path, content=start + rest, headers=headers))
