"""What pages of other sites can do: nothing, whichever name they give the service."""

import asyncio
import socket

import httpx
import pytest
from serving import NPY, SETTINGS, Server, refused
from starlette.testclient import TestClient

from acclimate.cli import main
from acclimate.commands.serve import Serve
from acclimate.errors import InputError
from acclimate.serve.app import create_app
from acclimate.serve.auth import Tokens
from acclimate.serve.gateway import Gateway
from acclimate.serve.refused import RefusedError
from acclimate.serve.service import Service
from acclimate.serve.sites import Hosts

TOKEN = "0123456789abcdef"
OTHERS = ("evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.nip.io", "",
          "127.0.0.1@evil.example", "evil.example#localhost", "[::1", "a b", "2130706433", "0x7f.1",
          "http://localhost", "localhost/..", "localhost:8000:evil")  # fmt: skip
HERE = ("localhost", "LOCALHOST:8000", "localhost.", "127.0.0.1", "127.0.0.1:8000", "127.9.9.9",
        "[::1]", "[::1]:8000")  # fmt: skip
HOSTS = Hosts()
ADDRESSES = ("10.0.0.7:8000", "[fe80::1]:8000", "0.0.0.0")


@pytest.mark.parametrize("bound", ["127.0.0.1", "localhost", "LOCALHOST", "::1", "127.0.0.5"])
def test_on_this_machine_alone_it_is_asked_by_this_machines_names(bound):
    hosts = Hosts(bound)
    for name in HERE:
        hosts.check(name)
    hosts.check(None)  # HTTP/1.0, as some monitors speak it; no browser does
    for name in (*OTHERS, *ADDRESSES):
        with pytest.raises(RefusedError, match="is no name of this server; ask at its address"):
            hosts.check(name)


@pytest.mark.parametrize("bound", ["0.0.0.0", "::", "10.0.0.7", "gpu-box"])
def test_in_a_network_it_is_asked_by_addresses_and_given_names(bound):
    hosts = Hosts(bound, ("north.example", "2001:db8::7"))
    given = ("north.example:8000", "North.Example.", "[2001:db8::7]")
    for name in (*HERE, *ADDRESSES, *given, *(["gpu-box:8000"] if bound == "gpu-box" else [])):
        hosts.check(name)
    for name in (*OTHERS, "a.north.example", "xnorth.example"):
        with pytest.raises(RefusedError):
            hosts.check(name)


def test_a_very_long_name_is_not_sent_back():
    with pytest.raises(RefusedError) as caught:
        Hosts().check("a" * 60_000)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("name", ["http://a", "a:8000", "a/b", "", "*", "*.a", "a b"])
def test_a_name_that_could_never_fit_is_refused(name):
    with pytest.raises(InputError, match="without scheme, port, path and"):
        Hosts(more=(name,))


@pytest.fixture
def client_at(engine_of, served, tmp_path):
    """Makes clients of services with names, which end with the test."""
    made = []

    def make(hosts=HOSTS, tokens=None):
        engine = engine_of(served, start=False)
        client = TestClient(create_app(Service(engine, Tokens(tokens), hosts=hosts)))
        made.append(client)
        return client.__enter__()

    yield make
    for client in made:
        client.__exit__(None, None, None)


def test_another_name_is_told_nothing_and_changes_nothing(client_at, images, npy):
    client = client_at()
    here, body = {"host": "localhost:8000"}, npy(images[:2].numpy())
    path = "/v1/streams/north/predict"
    assert client.post(path, content=body, headers=NPY | here).status_code == 200
    for method, asked in (
        ("GET", "/"), ("GET", "/page/live.js"), ("GET", "/docs"), ("GET", "/openapi.json"),
        ("GET", "/metrics"), ("GET", "/v1/streams"), ("GET", "/v1/streams/north/snapshot"),
        ("GET", "/v2/health/ready"), ("DELETE", "/v1/streams/north"), ("POST", path),
        ("PUT", "/v1/bundle"), ("POST", "/v2/models/acclimate/infer"), ("GET", "/nothing"),
    ):  # fmt: skip
        for host in ("evil.example", "127.0.0.1.nip.io:8000"):
            told = client.request(method, asked, headers={"host": host})
            assert told.json()["type"] == "forbidden"
            refused(told, 403, "--allowed-host")
    assert client.get("/v1/streams/north", headers=here).json()["images"] == 2


FOREIGN = (
    {"origin": "http://evil.example"},
    {"origin": "null"},
    {"origin": "http://localhost:8001"},  # another service of this machine
    {"origin": "http://evil.example/localhost:8000"},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
    {"sec-fetch-site": "cross-site", "origin": "http://localhost:8000"},
)


@pytest.mark.parametrize("foreign", FOREIGN)
def test_a_page_of_another_site_changes_nothing(client_at, images, npy, foreign):
    client = client_at()
    here, body = {"host": "localhost:8000"}, npy(images[:2].numpy())
    path = "/v1/streams/north"
    assert client.post(f"{path}/predict", content=body, headers=NPY | here).status_code == 200
    for method, asked, kind in (
        ("DELETE", path, {}),
        ("POST", f"{path}/reset", {}),
        ("POST", f"{path}/predict", {"content-type": "text/plain"}),
        ("PUT", f"{path}/mode", {"content-type": "text/plain"}),
        ("POST", f"{path}/restore", {"content-type": "text/plain"}),
        ("PUT", "/v1/bundle", {}),
        ("POST", "/v2/models/acclimate/infer", {"content-type": "text/plain"}),
    ):
        told = client.request(method, asked, headers=here | kind | foreign)
        refused(told, 403, "pages of other sites")
    assert client.get(path, headers=here).json()["images"] == 2
    answer = client.get("/v1/streams", headers=here | foreign)
    assert "access-control-allow-origin" not in answer.headers  # so that its page cannot read it


def test_its_own_page_and_programs_change_what_they_may(client_at, images, npy):
    client = client_at()
    body = npy(images[:2].numpy())
    for own in (
        {"host": "localhost:8000", "origin": "http://localhost:8000"},
        {"host": "127.0.0.1", "origin": "https://127.0.0.1"},
        {"host": "localhost", "sec-fetch-site": "same-origin", "origin": "http://localhost"},
        {"host": "127.0.0.1", "sec-fetch-site": "same-origin", "origin": "https://proxy.example"},
        {"host": "localhost", "sec-fetch-site": "none"},
        {"host": "localhost"},
    ):
        asked = client.post("/v1/streams/north/predict", content=body, headers=NPY | own)
        assert asked.status_code == 200
        assert client.delete("/v1/streams/north", headers=own).status_code == 204


def test_with_tokens_names_are_checked_only_where_they_are_given(client_at, tmp_path):
    (tmp_path / "tokens").write_text(TOKEN)
    known = {"authorization": f"Bearer {TOKEN}", "host": "shop.example"}
    free = client_at(None, tmp_path / "tokens")
    assert free.get("/v1/stats", headers=known).status_code == 200
    # A proxy may have put another Host in; the page has shown its token.
    behind = known | {"host": "127.0.0.1:8000", "origin": "http://shop.example"}
    refused(free.delete("/v1/streams/north", headers=behind), 404, "no stream")
    refused(
        free.delete("/v1/streams/north", headers=behind | {"sec-fetch-site": "cross-site"}),
        403,
        "other sites",
    )
    bound = client_at(Hosts(more=("other.example",)), tmp_path / "tokens")
    refused(bound.get("/v1/stats", headers=known), 403, "--allowed-host")


def test_the_gateway_of_replicas_checks_the_same(served, engine_of):
    engine = engine_of(served, in_memory=50)
    app = create_app(Service(engine, Tokens(None)))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    replica = httpx.AsyncClient(transport=transport, base_url="http://replica")

    async def shard(method, path, headers, body):
        answer = await replica.request(method, path, headers=headers, content=body or None)
        return answer.status_code, dict(answer.headers), answer.content

    gateway = Gateway([shard], Tokens(None), SETTINGS, Hosts("0.0.0.0"))
    own = {"host": "10.0.0.7:8000", "origin": "http://10.0.0.7:8000"}

    async def ask(**headers):
        transport = httpx.ASGITransport(gateway)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
            return await http.post("/v1/streams/north/reset", headers=own | headers)

    refused(asyncio.run(ask()), 404, "no stream")  # the replica was asked
    refused(asyncio.run(ask(host="evil.example")), 403, "--allowed-host")
    refused(asyncio.run(ask(origin="http://evil.example")), 403, "other sites")


def test_the_command_checks_names_unless_there_are_tokens(served, tmp_path, capfd):
    with pytest.raises(SystemExit, match="2"):
        main(["serve", str(served), "--port", "0", "--allowed-host", "http://a"])
    assert "--allowed-host is a name without" in capfd.readouterr().err
    given, tokens = ("gpu-box", "other"), tmp_path / "tokens"
    assert Serve(served)._hosts() == Hosts()
    assert Serve(served, host="::", allowed_host=given)._hosts() == Hosts("::", given)
    assert Serve(served, token_file=tokens)._hosts() is None
    assert Serve(served, token_file=tokens, allowed_host=given)._hosts() == Hosts(more=given)


@pytest.mark.slow
def test_the_server_answers_to_the_names_that_it_was_given(served):
    server = Server(served, "--allowed-host", "gpu-box", "--allowed-host", "other")
    try:
        for host, status in {"gpu-box:1": 200, "other": 200, "evil.example": 403}.items():
            answer = httpx.get(f"{server.address}/v1/stats", headers={"host": host})
            assert answer.status_code == status
        with socket.create_connection(("127.0.0.1", server.port)) as plain:
            plain.sendall(b"GET /v2/health/live HTTP/1.0\r\n\r\n")
            assert b" 200 " in plain.recv(65536)
    finally:
        assert server.end() == 0
