"""Several services behind a gateway, without Ray: streams go to their own, the rest is joined."""

import asyncio
import json
from collections import Counter

import httpx
import numpy as np
import pytest
from serving import SETTINGS

from acclimate.serve.app import create_app
from acclimate.serve.auth import Tokens
from acclimate.serve.gateway import Gateway, in_charge
from acclimate.serve.service import Service

TOKEN, NORTH = "0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210"


@pytest.fixture
def engines(served, engine_of, tmp_path):
    return [engine_of(served, tmp_path / str(number), in_memory=50) for number in range(3)]


def gateway_of(engines, tokens=None, awake=None):
    def shard(engine):
        app = create_app(Service(engine, Tokens(tokens)))
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        http = httpx.AsyncClient(transport=transport, base_url="http://replica")

        async def ask(method, path, headers, body):
            answer = await http.request(method, path, headers=headers, content=body or None)
            return answer.status_code, dict(answer.headers), answer.content

        return ask

    return Gateway(
        [engine and shard(engine) for engine in engines], Tokens(tokens), SETTINGS, None, awake
    )


def ask(gateway, *requests):
    """Ask one request after the other; the answers."""

    async def do():
        transport = httpx.ASGITransport(gateway)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
            return [await http.request(method, path, **more) for method, path, more in requests]

    return asyncio.run(do())


def predict(npy, name, count=2, **headers):
    body = npy(np.full((count, 3, 16, 16), 9, np.uint8))
    headers = {"content-type": "application/x-npy"} | headers
    return "POST", f"/v1/streams/{name}/predict?top=1", {"content": body, "headers": headers}


def test_streams_are_spread_evenly_and_always_alike():
    places = Counter(in_charge(f"stream {number}", 4) for number in range(4000))
    assert all(900 < count < 1100 for count in places.values())
    assert [in_charge(name, 5) for name in ("north", "süd", "東")] == [
        in_charge(name, 5) for name in ("north", "süd", "東")
    ]


def test_what_concerns_all_streams_wakes_no_service(engines, npy):
    awake = [0, 2]

    async def running():
        return awake

    gateway = gateway_of([engines[0], None, engines[2]], awake=running)  # None cannot be asked
    names = [f"s{number}" for number in range(9)]
    here = [name for name in names if in_charge(name, 3) in awake]
    found = ask(gateway, *(predict(npy, name) for name in here))
    assert {answer.status_code for answer in found} == {200}
    listed, stats, metrics, ready = ask(
        gateway, *(("GET", path, {}) for path in ("/v1/streams", "/v1/stats", "/metrics")),
        ("GET", "/v2/health/ready", {}),
    )  # fmt: skip
    assert {each["stream"] for each in listed.json()["streams"]} == set(here)
    assert stats.json()["replicas"] == 2 and ready.status_code == 200
    assert 'replica="2"' in metrics.text and 'replica="1"} 0' not in metrics.text
    awake.clear()
    (none,) = ask(gateway, ("GET", "/v1/streams", {}))
    assert none.status_code == 503 and none.headers["retry-after"] == "1"


def test_a_stream_is_in_one_service_and_all_are_listed(engines, npy):
    gateway = gateway_of(engines)
    names = ["s%200", *(f"s{number}" for number in range(1, 9))]
    found = ask(gateway, *(predict(npy, name) for name in names), *(predict(npy, n) for n in names))
    assert {answer.status_code for answer in found} == {200}
    assert all(len(answer.json()["answers"][0]["top"]) == 1 for answer in found)  # the query too
    held = [[stream.name for stream in engine.streams.all()] for engine in engines]
    assert sorted(name for each in held for name in each) == sorted(
        ["s 0", *names[1:]]
    )  # each once
    assert all(in_charge(name, 3) == place for place, each in enumerate(held) for name in each)
    first, second, one, stats, page = ask(
        gateway,
        ("GET", "/v1/streams?limit=4", {}),
        ("GET", f"/v1/streams?limit=9&after={names[5]}", {}),
        ("GET", "/v1/streams/s%200", {}),
        ("GET", "/v1/stats", {}),
        ("GET", "/", {}),
    )
    assert [each["stream"] for each in first.json()["streams"]] == ["s8", "s7", "s6", "s5"]
    assert first.json()["total"] == 9 and first.json()["next"] == "s5"
    assert [each["stream"] for each in second.json()["streams"]] == ["s4", "s3", "s2", "s1", "s 0"]
    assert one.json()["images"] == 4
    assert (stats.json()["streams"], stats.json()["images"], stats.json()["replicas"]) == (9, 36, 3)
    assert stats.json()["requests"]["answered"] >= 18 and stats.json()["ready"]
    assert "<title>acclimate serve" in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]


def test_a_path_that_is_written_otherwise_goes_to_the_same_service(engines, npy):
    gateway = gateway_of(engines)
    names = [f"s{number}" for number in range(6)]
    sent = [predict(npy, name) for name in names]
    others = [(m, path.replace("/streams/s", "/%73treams/%73"), more) for m, path, more in sent]
    assert {answer.status_code for answer in ask(gateway, *sent, *others)} == {200}
    held = {stream.name: place for place, e in enumerate(engines) for stream in e.streams.all()}
    assert sum(len(engine.streams) for engine in engines) == 6
    assert held == {name: in_charge(name, 3) for name in names}
    listed, many = ask(
        gateway, ("GET", "/v1/%73treams", {}), ("GET", f"/v1/streams?limit={'1' * 5000}", {})
    )
    assert listed.json()["total"] == 6 and many.status_code == 200


def test_the_open_inference_protocol_goes_by_its_sequence(engines):
    gateway = gateway_of(engines)

    def infer(sequence):
        images = {"name": "images", "shape": [1, 3, 16, 16], "datatype": "UINT8", "data": [7] * 768}
        body = {"parameters": {"sequence_id": sequence}, "inputs": [images]}
        return "POST", "/v2/models/acclimate/infer", {"json": body}

    found = ask(gateway, *(infer(sequence) for sequence in (1, 2, "three", 1)))
    assert [answer.status_code for answer in found] == [200] * 4
    known = {s.name: place for place, e in enumerate(engines) for s in e.streams.all()}
    assert known == {name: in_charge(name, 3) for name in ("1", "2", "three")}
    for body in (b"{", b"[]", b'{"parameters": 1}', b'{"inputs": []}'):
        (wrong,) = ask(gateway, ("POST", "/v2/models/acclimate/infer", {"content": body}))
        assert 400 <= wrong.status_code < 500 and wrong.json()["error"]
    ready, missing = ask(gateway, ("GET", "/v2/health/ready", {}), ("GET", "/nothing", {}))
    assert ready.status_code == 200 and missing.json()["type"] == "not_found"


def test_metrics_have_each_replica(engines, npy):
    gateway = gateway_of(engines)
    *_, found = ask(gateway, predict(npy, "a"), predict(npy, "b"), ("GET", "/metrics", {}))
    lines = [line for line in found.text.splitlines() if line.startswith("acclimate_streams{")]
    assert lines == [
        f'acclimate_streams{{replica="{n}"}} {float(len(e.streams))}' for n, e in enumerate(engines)
    ]
    assert "acclimate_batch_seconds_bucket{le=" in found.text
    assert found.headers["content-type"].startswith("text/plain")


def test_tokens_hold_for_all(engines, npy, tmp_path):
    (tmp_path / "tokens").write_text(f"{TOKEN}\n{NORTH} north\n")
    gateway = gateway_of(engines, tmp_path / "tokens")
    every, some = ({"authorization": f"Bearer {token}"} for token in (TOKEN, NORTH))
    statuses = [
        answer.status_code
        for answer in ask(
            gateway,
            predict(npy, "south"),
            predict(npy, "south", **every),
            predict(npy, "south", **some),
            predict(npy, "north-1", **some),
            ("GET", "/metrics", {"headers": some}),
            ("GET", "/metrics", {"headers": every}),
        )
    ]
    assert statuses == [401, 200, 403, 200, 403, 200]
    (listed,) = ask(gateway, ("GET", "/v1/streams", {"headers": some}))
    assert [each["stream"] for each in listed.json()["streams"]] == ["north-1"]


def test_a_service_that_is_gone_costs_its_own_streams_a_503(engines, npy):
    gateway = gateway_of(engines)
    names = {in_charge(name, 3): name for name in map(str, range(20))}

    async def gone(*_):
        raise RuntimeError("the actor died")

    gateway._shards[1] = gone
    answers = ask(gateway, *(predict(npy, names[place]) for place in range(3)))
    assert [answer.status_code for answer in answers] == [200, 503, 200]
    assert answers[1].headers["retry-after"] == "1"
    assert "is being started again" in json.loads(answers[1].content)["sentence"]
    (large,) = ask(gateway, ("POST", "/v1/streams/a/predict", {"content": bytes(33 * 2**20)}))
    assert large.status_code == 413
