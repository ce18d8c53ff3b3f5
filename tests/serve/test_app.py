"""The service's own interface, through the application."""

import base64
import errno
import json
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from serving import NPY, refused

from acclimate.serve.model import SharedModel
from acclimate.serve.service import Service
from acclimate.storage import sealed


def test_every_kind_of_body_is_answered_alike(client, images, png, npy):
    batch, files = images[:2].numpy(), [png(each) for each in images[:2]]
    texts = [base64.b64encode(file).decode() for file in files]
    bodies = {
        "array": {"content": npy(batch), "headers": NPY},
        "numbers": {"json": {"images": batch.tolist()}},
        "texts": {"json": {"images": texts}},
        "parts": {"files": [("image", ("a.png", file)) for file in files]},
    }
    answers = {}
    for name, body in bodies.items():
        response = client.post(f"/v1/streams/{name}/predict", **body)
        assert response.status_code == 200, response.text
        answers[name] = response.json()["answers"]
    assert all(each == answers["array"] for each in answers.values())
    one = client.post("/v1/streams/one/predict", content=files[0])
    refused(one, 415, "images come as")
    jpeg = png(images[0], "JPEG")
    one = client.post(
        "/v1/streams/one/predict", content=jpeg, headers={"content-type": "image/jpeg"}
    )
    assert one.status_code == 200 and one.json()["images"] == 1


def test_an_answer_has_both_models_and_the_guards_verdict(client, images, npy):
    response = client.post(
        "/v1/streams/north/predict?top=2", content=npy(images[:3].numpy()), headers=NPY
    )
    reply = response.json()
    assert reply["stream"] == "north" and reply["mode"] == "bounded" and reply["images"] == 3
    for answer in reply["answers"]:
        assert answer["model"] in ("adapted", "frozen")
        assert answer["class"] == answer[answer["model"]]["class"] == answer["top"][0]["class"]
        assert len(answer["top"]) == 2 and 0 < answer["probability"] <= 1
    assert (
        reply["verdict"]["answer"] in ("frozen", "each", "adapted") and reply["verdict"]["reason"]
    )
    for name in ("frozen", "adapted", "guarded"):
        each = reply["estimate"][name]
        assert 0 <= each["low"] <= each["value"] <= each["high"] <= 1
    assert reply["batches"] == [{"number": 0, "size": 3, "first": 0, "images": 3}]


def test_streams_are_listed_and_shown(client, images, npy):
    for name in ("näh", "south", "näh"):
        path = f"/v1/streams/{name}/predict"
        assert client.post(path, content=npy(images[:4].numpy()), headers=NPY).status_code == 200
    listed = client.get("/v1/streams").json()
    assert [each["stream"] for each in listed["streams"]] == ["näh", "south"]
    assert listed["total"] == 2 and listed["next"] is None
    first = listed["streams"][0]
    assert first["images"] == 8 and first["in_memory"] and first["latency_ms"] > 0
    assert first["verdict"] and first["estimate"]["adapted"]["value"] and first["age_s"] < 60
    page = client.get("/v1/streams?limit=1").json()
    assert page["next"] == "näh"
    after = client.get("/v1/streams", params={"limit": 1, "after": "näh"}).json()
    assert [each["stream"] for each in after["streams"]] == ["south"]
    shown = client.get("/v1/streams/näh").json()
    assert [point["images"] for point in shown["history"]] == [4, 4]
    assert {"share", "agreement", "frozen", "adapted", "verdict"} <= shown["history"][0].keys()
    refused(client.get("/v1/streams/west"), 404, "no stream 'west'")


def test_a_stream_is_reset_moved_and_forgotten(client, images, npy):
    def ask(name, batch):
        path = f"/v1/streams/{name}/predict"
        reply = client.post(path, content=npy(batch.numpy()), headers=NPY).json()
        return reply["answers"], reply["verdict"]

    first = ask("a", images[:8])
    snapshot = client.get("/v1/streams/a/snapshot")
    assert snapshot.headers["content-type"] == "application/octet-stream"
    second = ask("a", images[8:16])
    restored = client.post("/v1/streams/b/restore", content=snapshot.content)
    assert restored.json()["images"] == 8 and ask("b", images[8:16]) == second
    assert client.post("/v1/streams/a/reset").json()["images"] == 0
    assert ask("a", images[:8]) == first
    assert client.delete("/v1/streams/a").status_code == 204
    refused(client.get("/v1/streams/a"), 404, "no stream")
    refused(client.delete("/v1/streams/a"), 404, "no stream")
    refused(client.post("/v1/streams/a/reset"), 404, "no stream")
    refused(client.get("/v1/streams/a/snapshot"), 404, "no stream")


def test_a_snapshot_that_is_none_or_of_another_bundle_is_refused(
    client_of, unguarded, images, npy, tmp_path
):
    client = client_of()
    client.post("/v1/streams/a/predict", content=npy(images[:4].numpy()), headers=NPY)
    content = client.get("/v1/streams/a/snapshot").content
    for bad in (b"", b"abc", content[:-10], content[:50] + b"x" + content[51:]):
        refused(client.post("/v1/streams/b/restore", content=bad), 422, "no snapshot")
    (tmp_path / "state").write_bytes(content)
    tensors, record = sealed.load(tmp_path / "state")
    for count in (10**400, -1, float("inf"), float("nan"), "8", True, None):
        record["record"]["images"] = count
        sealed.save(tmp_path / "state", tensors, record)
        bad = (tmp_path / "state").read_bytes()
        refused(client.post("/v1/streams/b/restore", content=bad), 422, "no snapshot")
    other = client_of(unguarded)
    response = other.post("/v1/streams/b/restore", content=content)
    assert response.status_code == 422 and "state" in response.json()["sentence"]
    refused(other.get("/v1/streams/b"), 404, "no stream")


def test_snapshots_need_no_disk(client, images, npy, monkeypatch):
    client.post("/v1/streams/a/predict", content=npy(images[:4].numpy()), headers=NPY)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "mkstemp", full)
    monkeypatch.setattr(tempfile, "mkdtemp", full)
    content = client.get("/v1/streams/a/snapshot").content
    restored = client.post("/v1/streams/b/restore", content=content)
    assert restored.status_code == 200 and restored.json()["images"] == 4


def test_the_mode_of_a_stream_is_set(client_of, unguarded, images, npy):
    client = client_of()
    assert client.put("/v1/streams/a/mode", json={"mode": "shadow"}).json()["mode"] == "shadow"
    path = "/v1/streams/a/predict"
    reply = client.post(path, content=npy(images[:4].numpy()), headers=NPY).json()
    assert {answer["model"] for answer in reply["answers"]} == {"frozen"}
    refused(client.put("/v1/streams/a/mode", json={"mode": "loud"}), 422, "mode")
    refused(client.put("/v1/streams/a/mode", content=b"{"), 422, "")
    other = client_of(unguarded)
    refused(other.put("/v1/streams/a/mode", json={"mode": "bounded"}), 409, "calibration")
    assert other.put("/v1/streams/a/mode", json={"mode": "shadow"}).status_code == 200
    reply = other.post(path, content=npy(images[:4].numpy()), headers=NPY).json()
    assert {answer["model"] for answer in reply["answers"]} == {"frozen"}


def test_a_new_bundle_is_loaded_from_beside_the_present_one(client_of, bundle_of, tmp_path):
    replace(bundle_of("tent"), method="tent").save(tmp_path / "first")
    replace(bundle_of("tent"), method="source").save(tmp_path / "second")
    client = client_of(tmp_path / "first")
    assert client.get("/v1/bundle").json()["bundle"] == "first"
    told = client.put("/v1/bundle", json={"bundle": "second"}).json()
    assert told["bundle"] == "second" and told["method"] == "source"
    assert client.put("/v1/bundle").json()["bundle"] == "second"
    for name in ("../first", "/etc", "missing", "..", "."):
        refused(client.put("/v1/bundle", json={"bundle": name}), 404, "no folder")
    (tmp_path / "third").mkdir()
    response = client.put("/v1/bundle", json={"bundle": "third"})
    assert response.status_code == 422 and client.get("/v1/bundle").json()["bundle"] == "second"


def test_metrics_and_statistics_move(client, images, npy):
    path = "/v1/streams/a/predict"
    client.post(path, content=npy(images[:4].numpy()), headers=NPY)
    client.post(path, content=b"x", headers=NPY)
    text = client.get("/metrics").text
    assert 'acclimate_requests_total{interface="v1",result="200"} 1.0' in text
    assert 'acclimate_requests_total{interface="v1",result="422"} 1.0' in text
    assert 'acclimate_request_seconds_count{interface="v1"} 2.0' in text
    for line in (
        "acclimate_batch_images_sum 4.0",
        "acclimate_streams 1.0",
        "acclimate_streams_in_memory 1.0",
        'acclimate_estimated_accuracy{model="adapted"}',
        "acclimate_verdicts_total{",
        "acclimate_disk_trouble 0.0",
    ):
        assert line in text
    stats = client.get("/v1/stats").json()
    assert stats["requests"]["answered"] == 2 and stats["requests"]["refused"] == 1
    assert stats["images"] == 4 and stats["streams"] == 1 and stats["guarded"] and stats["ready"]
    assert stats["rss_bytes"] > 1e8 and stats["state_bytes_per_stream"] > 100


def test_estimates_end_with_their_streams(client, images, npy):
    client.post("/v1/streams/a/predict", content=npy(images[:4].numpy()), headers=NPY)
    assert "acclimate_estimated_accuracy{" in client.get("/metrics").text
    client.delete("/v1/streams/a")
    assert "acclimate_estimated_accuracy{" not in client.get("/metrics").text


def test_the_description_loads_nothing_from_elsewhere(client):
    page = client.get("/docs").text
    assert "/v1/streams/{stream}/predict" in page and "image/jpeg" in page
    assert "http://" not in page and "https://" not in page and "<script" not in page
    described = client.get("/openapi.json").json()
    assert "/v2/models/{name}/infer" in described["paths"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/v1/streams/a/b/c", 404),
        ("GET", "/v1/streams/..%2f..%2fetc%2fpasswd", 404),
        ("GET", "/v1/streams/%2e%2e", 422),
        ("GET", "/v1/streams/", 404),
        ("GET", "/docs/", 404),
        ("GET", "/v1/streams/%ff", 422),
        ("GET", "/v1/streams/%00", 422),
        ("GET", "/v1/streams/" + "a" * 129, 422),
        ("GET", "/v1/streams?limit=0", 422),
        ("GET", "/v1/streams?limit=a", 422),
        ("DELETE", "/v1/stats", 405),
        ("POST", "/v1/streams/a/predict?top=-1", 422),
        ("GET", "/v2/models/other", 404),
    ],
)
def test_what_does_not_exist_is_told_in_json(client, method, path, status):
    response = client.request(method, path)
    refused(response, status, "")
    assert ("error" in response.json()) == path.startswith("/v2")


def test_images_that_cannot_be_used_are_told(client, npy):
    path = "/v1/streams/a/predict"
    nan = npy(np.full((1, 3, 16, 16), np.nan))
    refused(client.post(path, content=nan, headers=NPY), 422, "NaN")
    refused(client.post(path, content=b"", headers=NPY), 422, "no .npy")
    refused(client.post(path), 415, "images come as")
    deep = b'{"images":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    kind = {"content-type": "application/json"}
    refused(client.post(path, content=deep, headers=kind), 400, "no JSON")
    refused(client.post(path, content=b"[1]", headers=kind), 400, "no JSON object")
    refused(client.post(path, content=b"{}", headers=kind), 422, "images")
    parts = {"content-type": "multipart/form-data"}
    refused(client.post(path, content=b"x", headers=parts), 400, "no boundary")
    parts = {"content-type": "multipart/form-data; boundary=a"}
    refused(client.post(path, content=b"x", headers=parts), 400, "malformed")
    refused(client.get("/v1/streams/a"), 404, "no stream")


def test_too_many_parts_are_refused(client, images, png):
    files = [("image", ("a.png", png(images[0])))] * 33
    refused(client.post("/v1/streams/a/predict", files=files), 413, "33 images")


def test_bodies_are_bounded(client_of, npy):
    client = client_of(request_bytes=4000)
    path = "/v1/streams/a/predict"
    big = npy(np.zeros((1, 3, 64, 64), np.uint8))
    refused(client.post(path, content=big, headers=NPY), 413, "4,000 bytes")
    chunks = (b"x" * 1000 for _ in range(5))
    refused(client.post(path, content=chunks, headers=NPY), 413, "4,000 bytes")
    response = client.post(path, json={"images": [[[[0] * 16] * 16] * 3]})
    refused(response, 413, "1,000 bytes")
    packed = {**NPY, "content-encoding": "gzip"}
    refused(client.post(path, content=b"x", headers=packed), 415, "compressed")
    small = npy(np.zeros((1, 3, 16, 16), np.uint8))
    assert client.post(path, content=small, headers=NPY).status_code == 200


def test_bodies_of_all_requests_together_are_bounded(client_of, npy):
    client = client_of(body_bytes=2000)
    big = npy(np.zeros((1, 3, 32, 32), np.uint8))
    response = client.post("/v1/streams/a/predict", content=big, headers=NPY)
    assert refused(response, 503, "as much as it can hold").headers["retry-after"] == "1"
    small = npy(np.zeros((1, 3, 16, 16), np.uint8))
    response = client.post("/v1/streams/a/predict", content=small, headers=NPY)
    assert response.status_code == 200


def test_requests_at_a_time_are_bounded(client_of, images, npy):
    client = client_of(connections=2, wait_ms=1500)
    body = npy(images[:1].numpy())

    def ask(number):
        return client.post(f"/v1/streams/s{number}/predict", content=body, headers=NPY)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(ask, range(4)))
    late = [response for response in found if response.status_code != 200]
    assert 1 <= len(late) <= 2 and ask(0).status_code == 200
    for response in late:
        assert refused(response, 503, "too many requests").headers["retry-after"] == "1"


def test_overload_is_told_with_a_time_to_come_back(client_of, images, npy, monkeypatch):
    client = client_of(request_images=8, stream_images=8, queue_images=8, wait_ms=2000)
    body = npy(images[:5].numpy())

    def ask(name):
        return client.post(f"/v1/streams/{name}/predict", content=body, headers=NPY)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(ask, ["a", "a", "b", "c"]))
    codes = sorted(response.status_code for response in found)
    assert codes[0] == 200 and set(codes[1:]) <= {200, 429, 503} and codes[-1] in (429, 503)
    late = [response for response in found if response.status_code != 200]
    assert all(int(response.headers["retry-after"]) >= 1 for response in late)
    assert ask("a").status_code == 200


def test_an_error_that_nobody_expected_is_told_without_a_traceback(client, monkeypatch, caplog):
    def fail(*_):
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(Service, "stats", fail)
    response = client.get("/v1/stats")
    assert response.status_code == 500 and "secret" not in response.text
    assert response.json()["type"] == "internal"
    assert client.get("/v1/streams").status_code == 200


def test_it_is_ready_only_after_a_first_answer(client_of, monkeypatch):
    let = threading.Event()
    warm_up = SharedModel.warm_up
    monkeypatch.setattr(SharedModel, "warm_up", lambda model: (let.wait(30), warm_up(model)))
    client = client_of()
    assert client.get("/v2/health/live").status_code == 200
    refused(client.get("/v2/health/ready"), 503, "not answer yet")
    assert client.get("/v1/stats").json()["ready"] is False
    let.set()
    end = time.monotonic() + 30
    while client.get("/v2/health/ready").status_code != 200:
        assert time.monotonic() < end


def test_nothing_of_a_request_is_logged(client, images, npy, caplog, capfd):
    caplog.set_level(0)
    body = npy(images[:1].numpy())
    client.post("/v1/streams/geheim/predict", content=body, headers=NPY)
    client.post("/v1/streams/geheim/predict", content=body[:-5], headers=NPY)
    ours = [each for each in caplog.records if each.name.startswith("acclimate")]
    text = "".join(each.getMessage() for each in ours) + "".join(capfd.readouterr())
    assert "geheim" not in text and "\\x" not in text


def test_json_has_no_nan(client, images, npy):
    response = client.post("/v1/streams/a/predict", content=npy(images[:1].numpy()), headers=NPY)
    json.loads(response.content, parse_constant=lambda name: pytest.fail(name))
