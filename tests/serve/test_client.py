"""The clients against a real service, and against one that fails in each way."""

import asyncio
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from serving import SETTINGS, served_here

from acclimate.errors import InputError
from acclimate.serve import client as module
from acclimate.serve.client import AsyncClient, Client
from acclimate.serve.refused import RefusedError

TOKEN = "0123456789abcdef0123456789abcdef"


@pytest.fixture(scope="module")
def service(served, tmp_path_factory):
    tokens = tmp_path_factory.mktemp("tokens") / "tokens"
    tokens.write_text(f"{TOKEN}\n")
    with served_here(served, SETTINGS, tokens) as (address, service):
        yield address, service


@pytest.fixture
def client(service):
    with Client(service[0], TOKEN) as client:
        yield client


def picture(path, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_arrays_tensors_and_files_are_the_same_images(client, tmp_path):
    path = picture(tmp_path / "a.png")
    array = np.asarray(Image.open(path)).transpose(2, 0, 1)
    forms = {
        "array": array,
        "tensor": torch.tensor(array),
        "floats": array[None] / np.float32(255),
        "path": path,
        "text": str(path),
        "content": path.read_bytes(),
        "list": [path],
    }
    answers = {form: client.predict(form, images)["answers"] for form, images in forms.items()}
    assert all(found == answers["array"] for found in answers.values())
    many = client.predict("many", [path, path.read_bytes(), picture(tmp_path / "b.png", 1)], top=2)
    assert len(many["answers"]) == 3 and len(many["answers"][0]["top"]) == 2


def test_a_stream_is_asked_for_changed_and_forgotten(client):
    name = "north ?%# é"
    client.predict(name, torch.zeros(2, 3, 16, 16, dtype=torch.uint8))
    assert client.status(name)["images"] == 2
    assert client.mode(name, "shadow")["mode"] == "shadow"
    kept = client.snapshot(name)
    assert client.reset(name)["images"] == 0
    assert client.restore(name, kept)["images"] == 2
    assert name in [each["stream"] for each in client.streams(limit=3)["streams"]]
    assert client.stats()["classes"] == ["ant", "bee", "cat", "dog"]
    assert client.forget(name) is None
    with pytest.raises(RefusedError, match="there is no stream") as refused:
        client.status(name)
    assert refused.value.kind == "not_found"


def test_the_asynchronous_client_asks_at_once(service):
    async def ask():
        async with AsyncClient(service[0], TOKEN) as client:
            images = torch.zeros(4, 3, 16, 16, dtype=torch.uint8)
            names = [f"at once {number}" for number in range(4)]
            answers = await asyncio.gather(*(client.predict(name, images) for name in names))
            assert [answer["stream"] for answer in answers] == names
            with pytest.raises(RefusedError, match=r"NaN|finite"):
                await client.predict("bad", torch.full((1, 3, 16, 16), torch.nan))
            return (await client.status("at once 3"))["images"]

    assert asyncio.run(ask()) == 4


def test_a_wrong_token_is_told_at_once(service):
    with Client(service[0]) as client, pytest.raises(RefusedError, match="send a known token"):
        client.stats()


@pytest.fixture
def odd(monkeypatch):
    """A server that answers as it is told, and the pauses that a client made."""
    answers, pauses = [], []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            self.rfile.read(int(self.headers.get("content-length", 0)))
            status, headers, body = answers.pop(0)
            if status is None:  # it hangs up
                self.close_connection = True
                return
            self.send_response(status)
            for name, value in ({"content-length": str(len(body))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    async def slept(seconds):
        pauses.append(seconds)

    monkeypatch.setattr(module, "time", SimpleNamespace(sleep=pauses.append))
    monkeypatch.setattr(module, "asyncio", SimpleNamespace(sleep=slept))
    yield f"http://127.0.0.1:{server.server_port}", answers, pauses
    server.shutdown()
    server.server_close()


JSON = {"content-type": "application/json"}
DONE = (200, JSON, b'{"images": 0}')


def reset(kind, url, **options):
    """Ask with either client."""
    if kind is Client:
        with Client(url, **options) as client:
            return client.reset("north")

    async def ask():
        async with AsyncClient(url, **options) as client:
            return await client.reset("north")

    return asyncio.run(ask())


both = pytest.mark.parametrize("kind", [Client, AsyncClient])


@both
def test_a_busy_service_is_asked_again_when_it_says(kind, odd):
    url, answers, pauses = odd
    answers += [
        (429, {"retry-after": "2"}, b""),
        (503, {"retry-after": "99"}, b""),
        (503, {}, b""),
        DONE,
    ]
    assert reset(kind, url) == {"images": 0}
    assert pauses[:2] == [2, 10] and 0.4 <= pauses[2] <= 0.8


@both
def test_a_broken_connection_is_tried_again(kind, odd):
    url, answers, pauses = odd
    answers += [(None, {}, b""), (None, {}, b""), DONE]
    assert reset(kind, url) == {"images": 0}
    assert len(pauses) == 2 and pauses[0] < pauses[1] * 2


@both
def test_in_the_end_the_reason_is_told(kind, odd):
    url, answers, pauses = odd
    body = json.dumps({"type": "too_many", "sentence": "too many images wait."}).encode()
    answers += [(429, JSON, body)] * 3
    with pytest.raises(RefusedError, match="too many images wait") as refused:
        reset(kind, url, retries=2)
    assert refused.value.kind == "too_many" and len(pauses) == 2


@both
@pytest.mark.parametrize(
    "answer, expected",
    [
        ((400, JSON, b'{"type": "bad_request", "sentence": "no."}'), "no."),
        ((502, {"content-type": "text/html"}, b"<h1>"), "answered with 502"),
        ((500, JSON, b"{"), "answered with 500"),
        ((404, JSON, b"[]"), "answered with 404"),
    ],
)
def test_what_will_not_change_is_not_tried_again(kind, answer, expected, odd):
    url, answers, pauses = odd
    answers.append(answer)
    with pytest.raises(RefusedError, match=expected):
        reset(kind, url)
    assert pauses == []


def test_no_service_is_one_sentence(odd):
    _, _, pauses = odd
    expected = r"no answer from http://127\.0\.0\.1:1: .*refused"
    with Client("http://127.0.0.1:1") as client, pytest.raises(RefusedError, match=expected):
        client.stats()
    assert len(pauses) == 5 and pauses[-1] > pauses[0]


@pytest.mark.parametrize(
    "images, expected", [([], "there are no images"), ("nowhere.png", "cannot read nowhere.png")]
)
def test_images_that_are_none_are_refused(images, expected, client):
    with pytest.raises(InputError, match=expected):
        client.predict("north", images)


def test_without_httpx_a_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(InputError, match=r"pip install 'acclimate\[client\]'"):
        Client()
