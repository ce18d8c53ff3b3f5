"""The server as a process: what it prints, slow and broken clients, signals, kills, disks."""

import json
import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import replace

import httpx
import numpy as np
import pytest
from serving import NPY, Server, refused

from acclimate.adapt import Adapter
from acclimate.bundle import Bundle
from acclimate.cli import main
from acclimate.guard import Guard
from acclimate.serve.run import run

FAST = ("--batch", 8, "--wait-ms", 0, "--save-s", 0.2)


@pytest.fixture
def server_of(served):
    """Starts servers, which end with the test."""
    made = []

    def start(*options, bundle=served):
        made.append(Server(bundle, *FAST, *options))
        return made[-1]

    yield start
    for server in made:
        server.end(signal.SIGKILL)


class Camera:
    """A client of one stream, which sends one batch after the other and keeps what it was told.

    Attributes:
        sent: Batches whose answers are here, with them; since the server last began.
        open: The batch that was sent last without an answer; None if there is none.
        odd: Answers that are none of those expected.
    """

    def __init__(self, name, images, npy, seed):
        self.name, self._images, self._npy = name, images, npy
        self._draw = random.Random(seed)
        self.sent, self.open, self.odd = [], None, []

    def run(self, address, stop):
        """Send batches until the server is gone, or the event is set."""
        self.sent, self.open = [], None
        with httpx.Client(base_url=address, timeout=60) as client:
            while not stop.is_set():
                first, count = self._draw.randrange(100), self._draw.randint(1, 8)
                self.open = batch = self._images[first : first + count]
                try:
                    response = client.post(
                        f"/v1/streams/{self.name}/predict",
                        content=self._npy(batch.numpy()),
                        headers=NPY,
                    )
                except httpx.TransportError:
                    return
                if response.status_code == 200:
                    self.sent.append((batch, response.json()))
                elif response.status_code != 503:
                    self.odd.append(response.text)
                self.open = None


def load(address, cameras):
    """Start the clients; the event that stops them, and their threads."""
    stop = threading.Event()
    threads = [threading.Thread(target=each.run, args=(address, stop)) for each in cameras]
    for thread in threads:
        thread.start()
    return stop, threads


def ended(threads):
    for thread in threads:
        thread.join(90)
        assert not thread.is_alive()


def test_it_says_where_it_is_and_how_to_ask(server_of, unguarded, images, png, tmp_path):
    server = server_of(bundle=unguarded)
    server.wait_for("curl")
    assert "unguarded with tent on http://127.0.0.1:" in server.lines[0]
    assert any("no guard" in line for line in server.lines)
    line = next(line for line in server.lines if line.startswith("curl"))
    (tmp_path / "photo.jpg").write_bytes(png(images[0], "JPEG"))
    if shutil.which("curl"):
        asked = subprocess.run(
            f"{line.strip()} -s", shell=True, cwd=tmp_path, capture_output=True, timeout=60
        )
        assert json.loads(asked.stdout)["answers"][0]["class"] in ("ant", "bee", "cat", "dog")
    assert server.end(signal.SIGINT) == 0
    assert "ended" in server.lines[-1] and not any("Traceback" in line for line in server.lines)


@pytest.mark.parametrize("wrong", ["bundle", "port", "state", "tokens", "tls"])
def test_what_cannot_be_served_is_told_in_a_sentence(served, tmp_path, wrong, capfd):
    (tmp_path / "file").write_text("x")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        given = {
            "bundle": (tmp_path,),
            "port": (served, "--port", taken.getsockname()[1]),
            "state": (served, "--port", 0, "--state-dir", tmp_path / "file" / "states"),
            "tokens": (served, "--port", 0, "--token-file", tmp_path / "missing"),
            "tls": (served, "--port", 0, "--tls-cert", tmp_path / "file"),
        }
        with pytest.raises(SystemExit, match="2"):
            main(["serve", *map(str, given[wrong])])
    out, err = capfd.readouterr()
    assert out == "" and err.startswith("acclimate: ") and err.strip().endswith(".")


def told(sock, timeout=20):
    """All that a server says before it closes."""
    sock.settimeout(timeout)
    found = b""
    while part := sock.recv(65536):
        found += part
    return found


def status_of(found):
    head, _, body = found.partition(b"\r\n\r\n")
    assert b"Traceback" not in found
    return int(head.split()[1]), json.loads(body)


def test_slow_clients_are_told_and_cost_others_nothing(served_by, images, npy):
    server = served_by(upload_s=1.5)
    here = ("127.0.0.1", server.port)
    slow = [socket.create_connection(here) for _ in range(50)]
    for number, each in enumerate(slow):
        if number % 2:
            each.sendall(b"POST /v1/streams/a/predict HTTP/1.1\r\nHost: a\r\nX-a: ")
    bodies = [socket.create_connection(here) for _ in range(10)]
    for each in bodies:
        head = b"POST /v1/streams/a/predict HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-npy"
        each.sendall(head + b"\r\nContent-Length: 1000\r\n\r\nabc")
    began = time.monotonic()
    response = httpx.post(
        f"{server.address}/v1/streams/a/predict", content=npy(images[:4].numpy()), headers=NPY
    )
    assert response.status_code == 200
    for each in (slow[1], bodies[0]):
        status, body = status_of(told(each))
        assert status == 408 and body["type"] == "too_slow" and "1.5 s" in body["sentence"]
    assert time.monotonic() - began < 15
    again = socket.create_connection(here)  # slow only with its second request
    again.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n")
    assert b"200" in again.recv(65536)
    again.sendall(b"GET /v2/he")
    assert b"408" in told(again)
    refused_first = socket.create_connection(here)
    head = b"POST /v1/streams/a/predict HTTP/1.1\r\nHost: a\r\nContent-Encoding: gzip"
    refused_first.sendall(head + b"\r\nContent-Length: 1000\r\n\r\n")
    assert b"415" in refused_first.recv(65536)
    with pytest.raises(ConnectionError):  # the rest of its body must come in time, too
        for _ in range(80):
            refused_first.sendall(b"x")
            time.sleep(0.1)
    for each in (*slow, *bodies, again, refused_first):
        each.close()


def test_broken_requests_are_told(served_by):
    server = served_by(upload_s=1.5)
    here = ("127.0.0.1", server.port)
    for broken in (
        b"\x00\x01\x02\r\n\r\n",
        b"GET /x HTTP/9.9\r\n\r\n",
        b"GET /v1/streams HTTP/1.1\r\n\r\n",  # no host
        b"POST /v1/streams HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\na",
        b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"GET /v1/streams\x00 HTTP/1.1\r\nHost: a\r\n\r\n",
    ):
        with socket.create_connection(here) as sock:
            sock.sendall(broken)
            status, body = status_of(told(sock))
            assert 400 <= status < 502 and set(body) >= {"type", "sentence"}, (broken, body)
    with socket.create_connection(here) as sock:
        try:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 10**7 + b"\r\n\r\n")
            assert status_of(told(sock))[0] == 400
        except ConnectionError:
            pass  # the answer may be lost where so much was still on its way
    both = b"POST /v1/streams/a/reset HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
    both += b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    with socket.create_connection(here) as sock:
        sock.sendall(both)
        assert status_of(told(sock))[0] in (400, 404)
    assert httpx.get(f"{server.address}/v2/health/ready").status_code == 200


@pytest.mark.slow
def test_sigterm_under_load_loses_no_request(server_of, images, npy, tmp_path):
    server = server_of("--state-dir", tmp_path / "states")
    cameras = [Camera(f"s{n}", images, npy, n) for n in range(6)]
    _, threads = load(server.address, cameras)
    time.sleep(2)
    assert server.end(signal.SIGTERM) == 0
    ended(threads)
    assert "all states are saved" in server.lines[-1]
    assert all(len(each.sent) > 1 and not each.odd for each in cameras)
    again = server_of("--state-dir", tmp_path / "states")
    again.wait_for("6 streams go on")
    check_nothing_lost(again.address, cameras)


def check_nothing_lost(address, cameras):
    """The server has seen exactly what it has answered."""
    for camera in cameras:
        told = httpx.get(f"{address}/v1/streams/{camera.name}").json()
        assert told["images"] == sum(len(batch) for batch, _ in camera.sent)
        assert told["batches"] == len(camera.sent) and "goes on" in told["note"]


def check_kills(server_of, served, images, npy, folder, kills):
    """Kill a server under load again and again; every answer is that of an adapter alone."""
    bundle = Bundle.load(served)
    guard = Guard(Adapter(bundle, device="cpu"), bundle)
    fresh = guard.snapshot()
    cameras = [Camera(f"s{n}", images, npy, n) for n in range(3)]
    after = {camera.name: [fresh] for camera in cameras}  # states after so many batches
    draw, went_on = random.Random(0), 0
    for kill in range(kills + 1):
        server = server_of("--state-dir", folder)
        print(f"{time.strftime('%X')} kill {kill}: {went_on} streams went on so far")
        while httpx.get(f"{server.address}/v2/health/ready").status_code != 200:
            time.sleep(0.05)
        for camera in cameras:
            response = httpx.get(f"{server.address}/v1/streams/{camera.name}")
            known = response.json() if response.status_code == 200 else {"batches": 0, "note": ""}
            assert "anew" not in (known["note"] or ""), known
            assert known["batches"] < len(after[camera.name])
            del after[camera.name][known["batches"] + 1 :]
            went_on += known["batches"] > 0
        stop, threads = load(server.address, cameras)
        time.sleep(draw.uniform(0.3, 1.2))
        if kill == kills:
            stop.set()
            ended(threads)
        server.end(signal.SIGKILL if kill < kills else signal.SIGTERM)
        ended(threads)
        for camera in cameras:
            assert not camera.odd
            states = after[camera.name]
            guard.restore(states[-1])
            for batch, reply in camera.sent:
                check_answer(guard(batch), reply)
                states.append(guard.snapshot())
            if camera.open is not None:  # it may have been learned from, and saved
                guard(camera.open)
                states.append(guard.snapshot())
    assert went_on >= 2 * kills
    files = list(folder.iterdir())
    assert len(files) == len(cameras), files


def check_answer(logits, reply):
    probabilities = logits.softmax(1)
    for row, answer in zip(probabilities, reply["answers"], strict=True):
        assert float(row[answer["index"]]) > float(row.max()) - 1e-5  # two may be equal
        top = {each["index"]: each["probability"] for each in answer["top"]}
        assert all(abs(float(row[index]) - p) < 1e-5 for index, p in top.items())


def test_a_server_that_ends_under_load_loses_no_request(served_by, images, npy, tmp_path):
    server = served_by(state_dir=tmp_path / "states", wait_ms=0)
    cameras = [Camera(f"s{n}", images, npy, n) for n in range(6)]
    _, threads = load(server.address, cameras)
    time.sleep(1)
    server.end()
    ended(threads)
    assert all(len(each.sent) > 1 and not each.odd for each in cameras)
    check_nothing_lost(served_by(state_dir=tmp_path / "states").address, cameras)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_killed_it_goes_on_from_the_last_saved_states(server_of, served, images, npy, tmp_path):
    check_kills(server_of, served, images, npy, tmp_path / "states", 1)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_killed_50_times_under_load(server_of, served, images, npy, tmp_path):
    check_kills(server_of, served, images, npy, tmp_path / "states", 50)


@pytest.mark.slow
def test_it_goes_on_while_the_disk_refuses_and_saves_afterwards(server_of, images, npy, tmp_path):
    folder = tmp_path / "states"
    server = server_of("--state-dir", folder, "--in-memory", 2)
    with httpx.Client(base_url=server.address) as client:

        def ask(name):
            path = f"/v1/streams/{name}/predict"
            return client.post(path, content=npy(images[:4].numpy()), headers=NPY)

        assert ask("first").status_code == 200
        end = time.monotonic() + 30
        while not list(folder.glob("*.safetensors")):
            assert time.monotonic() < end
        folder.rename(tmp_path / "away")
        folder.write_text("no folder any more")
        for number in range(30):
            assert ask(f"s{number}").status_code == 200
        stats = client.get("/v1/stats").json()
        assert "cannot write" in stats["trouble"] and stats["in_memory"] <= 2
        assert "acclimate_disk_trouble 1.0" in client.get("/metrics").text
        assert ask("s29").json()["batches"][0]["number"] == 1  # was still in memory
        folder.unlink()
        (tmp_path / "away").rename(folder)
        end = time.monotonic() + 30
        while client.get("/v1/stats").json()["trouble"]:
            assert time.monotonic() < end
            time.sleep(0.1)
        assert ask("first").json()["batches"][0]["number"] == 1
    assert server.end() == 0 and "all states are saved" in server.lines[-1]


@pytest.fixture
def small_disk(tmp_path):
    """A disk of its own, and what mounts it again in another way."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mounted(*options):
        return subprocess.run(["mount", *options, folder], capture_output=True).returncode == 0

    if os.geteuid() or not mounted("-t", "tmpfs", "-o", "size=4m", "tmpfs"):
        pytest.skip("needs to mount a disk")
    yield folder, lambda how: mounted("-o", f"remount,{how}")
    subprocess.run(["umount", folder], check=True)


def wait_until(holds, seconds=30):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.slow
def test_a_disk_that_is_full_and_then_read_only_costs_no_answer(small_disk, server_of, images, npy):
    folder, again = small_disk
    server = server_of("--state-dir", folder / "states", "--in-memory", 3)
    names = [f"s{number}" for number in range(6)]
    with httpx.Client(base_url=server.address, timeout=60) as client:

        def ask(name):
            path = f"/v1/streams/{name}/predict"
            answer = client.post(path, content=npy(images[:4].numpy()), headers=NPY)
            assert answer.status_code == 200
            return answer.json()["batches"][0]["number"]

        def trouble():
            return client.get("/v1/stats").json()["trouble"] or ""

        assert [ask(name) for name in names] == [0] * 6
        wait_until(lambda: len(list((folder / "states").glob("*.safetensors"))) == 6)
        with suppress(OSError), (folder / "filler").open("wb", buffering=0) as filler:
            while filler.write(bytes(4096)):
                pass
        assert [ask(name) for name in names] == [1] * 6
        wait_until(lambda: "No space left" in trouble())
        assert [ask(name) for name in names] == [2] * 6  # what waits is in memory
        (folder / "filler").unlink()
        wait_until(lambda: not trouble())
        wait_until(lambda: again("ro"))  # not while a file is open for writing
        assert [ask(name) for name in names] == [3] * 6
        wait_until(lambda: "Read-only" in trouble())
        assert again("rw")
        wait_until(lambda: not trouble())
        assert [ask(name) for name in names] == [4] * 6
    assert server.end() == 0 and "all states are saved" in server.lines[-1]
    after = server_of("--state-dir", folder / "states")
    for name in names:
        assert httpx.get(f"{after.address}/v1/streams/{name}").json()["batches"] == 5


def test_a_signal_before_the_server_runs_ends_it_too():
    class Early:
        should_exit = False

        def run(self, sockets):
            signal.raise_signal(signal.SIGTERM)

    numbers = signal.SIGTERM, signal.SIGINT, signal.SIGHUP
    before, server = {number: signal.getsignal(number) for number in numbers}, Early()
    try:
        run(server, None, None)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert server.should_exit


@pytest.mark.slow
def test_sighup_loads_bundle_and_tokens_again(server_of, bundle_of, images, npy, tmp_path):
    token = "0123456789abcdef"
    (tmp_path / "tokens").write_text(token)
    replace(bundle_of("tent"), method="tent").save(tmp_path / "bundle")
    server = server_of("--token-file", tmp_path / "tokens", bundle=tmp_path / "bundle")

    def ask(token):
        headers = {"authorization": f"Bearer {token}"}
        return httpx.get(f"{server.address}/v1/bundle", headers=headers)

    assert ask(token).json()["method"] == "tent"
    shutil.rmtree(tmp_path / "bundle")
    server.process.send_signal(signal.SIGHUP)
    server.wait_for("goes on with the present bundle")
    replace(bundle_of("tent"), method="source").save(tmp_path / "bundle")
    (tmp_path / "tokens").write_text("f" + token)
    server.process.send_signal(signal.SIGHUP)
    server.wait_for("loaded bundle again")
    assert ask(token).status_code == 401 and ask("f" + token).json()["method"] == "source"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_it_speaks_https_with_a_certificate(served_by, tmp_path):
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        f"openssl req -x509 -newkey rsa:2048 -nodes -keyout {key} -out {cert} -days 1 "
        "-subj /CN=localhost -addext subjectAltName=IP:127.0.0.1",
        shell=True,
        check=True,
        capture_output=True,
    )
    server = served_by(tls=(cert, key))
    context = ssl.create_default_context(cafile=cert)
    assert httpx.get(f"{server.address}/v2/health/live", verify=context).status_code == 200


@pytest.mark.slow
def test_many_streams_do_not_make_it_grow(server_of, images, npy):
    server = server_of("--in-memory", 50, "--streams", 3000)
    body = npy(images[:1].numpy())
    sizes = []
    with httpx.Client(base_url=server.address, timeout=60) as client:
        for number in range(4000):
            name = f"s{number % 2500}"
            response = client.post(f"/v1/streams/{name}/predict", content=body, headers=NPY)
            assert response.status_code == 200
            if number % 100 == 0:
                stats = client.get("/v1/stats").json()
                assert stats["in_memory"] <= 50
                sizes.append(stats["rss_bytes"])
    late = np.array(sizes[len(sizes) // 2 :])
    assert late.max() - late.min() < 40 * 2**20 and late.max() < sizes[2] + 80 * 2**20


def test_a_refused_upload_is_read_so_that_the_answer_arrives(served_by):
    server = served_by(request_bytes=100_000)
    response = httpx.post(
        f"{server.address}/v1/streams/a/predict", content=b"x" * 300_000, headers=NPY
    )
    refused(response, 413, "100,000 bytes")
