"""Tokens of a file, and what requests with them may do."""

import hmac

import pytest
from serving import NPY, refused

from acclimate.errors import InputError
from acclimate.serve.auth import Tokens
from acclimate.serve.refused import RefusedError

LONG = "0123456789abcdef"


@pytest.mark.parametrize("text", ["", "# none\n", "short\n", f"{LONG}\nshort north\n"])
def test_a_file_without_usable_tokens_is_refused(tmp_path, text):
    (tmp_path / "tokens").write_text(text)
    with pytest.raises(InputError):
        Tokens(tmp_path / "tokens")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot read"):
        Tokens(tmp_path / "missing")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot read"):
        Tokens(tmp_path / "binary")


def test_a_number_sign_within_a_word_is_no_comment(tmp_path):
    path = tmp_path / "tokens"
    path.write_text(f"#{LONG}\n{LONG}#1 site#7-\n{LONG}#2\tsite \t# all\n{LONG}#3 #site\n")
    tokens = Tokens(path)
    found = [tokens.access(f"Bearer {LONG}#{n}").prefix for n in (1, 2, 3)]
    assert found == ["site#7-", "site", ""]
    for none in (LONG, f"#{LONG}"):
        with pytest.raises(RefusedError):
            tokens.access(f"Bearer {none}")


def test_all_tokens_are_compared_whichever_fits(tmp_path, monkeypatch):
    path, calls = tmp_path / "tokens", []
    path.write_text("".join(f"{LONG}{n} s{n}-\n" for n in range(5)))
    tokens, compare = Tokens(path), hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda *two: calls.append(two) or compare(*two))
    assert tokens.access(f"Bearer {LONG}0").prefix == "s0-"
    assert len(calls) == 5 and {len(each) for two in calls for each in two} == {32}
    with pytest.raises(RefusedError):
        tokens.access(f"Bearer {LONG}9")
    assert len(calls) == 10


def test_it_is_read_again_and_a_bad_file_leaves_it_as_it_was(tmp_path):
    path = tmp_path / "tokens"
    path.write_text(LONG)
    tokens = Tokens(path)
    path.write_text("short")
    with pytest.raises(InputError):
        tokens.read()
    assert tokens.access(f"Bearer {LONG}").prefix == ""
    path.write_text(LONG + "new")
    tokens.read()
    with pytest.raises(RefusedError):
        tokens.access(f"Bearer {LONG}")


ALL, NORTH = "0123456789abcdef-all", "0123456789abcdef-north"
NORTH_ONLY, EVERY = ({"authorization": f"Bearer {token}"} for token in (NORTH, ALL))


@pytest.fixture
def client(client_of, tmp_path):
    path = tmp_path / "tokens"
    path.write_text(f"# tokens\n{ALL}\n\n{NORTH} north-  # of a customer\n")
    return client_of(tokens=path)


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer x", f"Basic {ALL}", f"Bearer{ALL}"])
def test_without_a_known_one_nothing_is_told(client, header):
    headers = {} if header is None else {"authorization": header}
    for path in ("/v1/streams", "/v1/stats", "/metrics", "/v2/models/acclimate", "/nothing"):
        response = refused(client.get(path, headers=headers), 401, "token")
        assert response.headers["www-authenticate"] == "Bearer"
    for path in ("/v2/health/live", "/docs", "/openapi.json"):
        assert client.get(path, headers=headers).status_code == 200


def test_a_token_is_looked_at_before_the_body(client):
    body = b"x" * 100 * 2**20  # would be refused as too large
    refused(client.post("/v1/streams/a/predict", content=body, headers=NPY), 401, "token")


def test_one_with_a_prefix_is_for_its_streams_alone(client, images, npy):
    body = {"content": npy(images[:2].numpy())}

    def ask(name, token):
        return client.post(f"/v1/streams/{name}/predict", headers=token | NPY, **body)

    assert ask("north-1", NORTH_ONLY).status_code == 200
    refused(ask("south", NORTH_ONLY), 403, "north-")
    assert ask("south", EVERY).status_code == 200
    refused(client.get("/v1/streams/south", headers=NORTH_ONLY), 403, "north-")
    refused(client.delete("/v1/streams/south", headers=NORTH_ONLY), 403, "north-")
    refused(client.get("/metrics", headers=NORTH_ONLY), 403, "all streams")
    refused(client.put("/v1/bundle", headers=NORTH_ONLY), 403, "all streams")
    listed = client.get("/v1/streams", headers=NORTH_ONLY).json()
    assert [each["stream"] for each in listed["streams"]] == ["north-1"]
    assert listed["total"] == 1
    assert client.get("/v1/streams", headers=EVERY).json()["total"] == 2
    image = {"name": "images", "datatype": "UINT8", "shape": [1, 3, 16, 16], "data": [0] * 768}
    record = {"parameters": {"sequence_id": "south"}, "inputs": [image]}
    response = client.post("/v2/models/acclimate/infer", json=record, headers=NORTH_ONLY)
    refused(response, 403, "north-")
