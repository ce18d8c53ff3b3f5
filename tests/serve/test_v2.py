"""The Open Inference Protocol: by hand, and as Triton's own client speaks it."""

import base64
import copy
import json

import numpy as np
import pytest
import torch
from serving import refused

from acclimate.adapt import Adapter
from acclimate.bundle import Bundle
from acclimate.guard import Guard

INFER = "/v2/models/acclimate/infer"


def record_of(images, name="cam", **more):
    data = {"name": "images", "datatype": "UINT8", "shape": list(images.shape)}
    return {
        "inputs": [data | {"data": images.flatten().tolist()}],
        "parameters": {"sequence_id": name, **more},
    }


def outputs_of(response):
    assert response.status_code == 200, response.text
    return {each["name"]: each["data"] for each in response.json()["outputs"]}


def test_json_is_answered(client, images):
    reply = client.post(INFER, json={"id": "r7", **record_of(images[:3])}).json()
    assert reply["model_name"] == "acclimate" and reply["id"] == "r7"
    assert {each["name"]: each["shape"] for each in reply["outputs"]} == {
        "probabilities": [3, 4],
        "class": [3],
        "adapted_class": [3],
        "frozen_class": [3],
        "label": [3],
    }
    assert reply["parameters"]["sequence_id"] == "cam" and reply["parameters"]["verdict"]
    told = client.get("/v2/models/acclimate").json()
    assert [each["name"] for each in told["outputs"]] == [e["name"] for e in reply["outputs"]]
    assert told["inputs"][0]["shape"] == [-1, 3, 16, 16]


def test_all_forms_of_images_are_answered_alike(client, images, png):
    whole = record_of(images[:2], "a")
    nested = record_of(images[:2], "b")
    nested["inputs"][0]["data"] = images[:2].tolist()
    floats = record_of(images[:2], "c")
    floats["inputs"][0] |= {"datatype": "FP32", "data": (images[:2].double() / 255).tolist()}
    files = record_of(images[:2], "d")
    texts = [base64.b64encode(png(each)).decode() for each in images[:2]]
    files["inputs"][0] |= {"datatype": "BYTES", "shape": [2], "data": texts}
    found = [outputs_of(client.post(INFER, json=each)) for each in (whole, nested, floats, files)]
    assert found[0] == found[1] == found[3]
    assert found[2]["class"] == found[0]["class"]


def test_sequences_begin_anew_and_end(client, images):
    first = outputs_of(client.post(INFER, json=record_of(images[:4], sequence_start=True)))
    second = outputs_of(client.post(INFER, json=record_of(images[:4])))
    assert first != second
    again = record_of(images[:4], sequence_start=True, sequence_end=True)
    assert outputs_of(client.post(INFER, json=again)) == first
    refused(client.get("/v1/streams/cam"), 404, "no stream")


def test_a_numbered_sequence_is_the_stream_of_this_name(client, images):
    outputs_of(client.post(INFER, json=record_of(images[:4], 2**63)))
    assert client.get(f"/v1/streams/{2**63}").json()["images"] == 4


def changed(at, value):
    record = record_of(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))
    *path, last = at
    place = record
    for each in path:
        place = place[each]
    place[last] = value
    return record


@pytest.mark.parametrize(
    "record",
    [
        {},
        changed(["inputs"], None),
        changed(["inputs"], [1]),
        changed(["inputs", 0, "name"], "x"),
        changed(["inputs", 0, "datatype"], "INT8"),
        changed(["inputs", 0, "datatype"], []),
        changed(["inputs", 0, "shape"], [-1, 3, 16, 16]),
        changed(["inputs", 0, "shape"], [2**40]),
        changed(["inputs", 0, "shape"], [2, 3, 16, 16]),
        changed(["inputs", 0, "shape"], "x"),
        changed(["inputs", 0, "data"], [256] * 768),
        changed(["inputs", 0, "data"], ["a"] * 768),
        changed(["inputs", 0, "data"], ["a" * 100_000, *[1] * 100_000]),
        changed(["inputs", 0, "data"], [True] * 768),
        changed(["inputs", 0, "data"], [[0], [1, 2]]),
        changed(["inputs", 0, "data"], {}),
        changed(["inputs", 0, "parameters"], {"binary_data_size": 768}),
        changed(["inputs", 0, "parameters"], {"binary_data_size": "a"}),
        changed(["inputs", 0, "parameters"], 1),
        changed(["parameters"], {}),
        changed(["parameters"], []),
        changed(["parameters", "sequence_id"], 0),
        changed(["parameters", "sequence_id"], True),
        changed(["parameters", "sequence_id"], "a/b"),
        changed(["parameters", "sequence_id"], "\ud800"),
        changed(["parameters", "sequence_id"], 10**4000),
        changed(["parameters", "sequence_start"], "false"),
        changed(["parameters", "sequence_end"], 1),
        changed(["parameters", "binary_data_output"], "no"),
        changed(["outputs"], [{"name": "class", "parameters": {"binary_data": "no"}}]),
        changed(["outputs"], [{"name": "x"}]),
        changed(["outputs"], 3),
    ],
)
def test_what_is_no_request_is_told(client, record):
    body = json.dumps(record).encode()
    response = client.post(INFER, content=body, headers={"content-type": "application/json"})
    assert response.status_code in (400, 422), response.text
    refused(response, response.status_code, "")
    assert response.json()["error"] == response.json()["sentence"]


def test_an_output_that_does_not_exist_is_told_before_anything_is_learned(client, images):
    record = record_of(images[:1]) | {"outputs": [{"name": "x"}]}
    refused(client.post(INFER, json=record), 422, "no output 'x'")
    refused(client.get("/v1/streams/cam"), 404, "no stream")


@pytest.mark.parametrize("length", ["-1", "x", "99999999", "1.5", "²", "", "1" * 5000])
def test_a_wrong_length_of_the_header_is_told(client, length):
    headers = {"Inference-Header-Content-Length": length.encode()}
    refused(client.post(INFER, content=b"{}", headers=headers), 400, "Inference-Header")


@pytest.mark.parametrize("cut", [0, 1, 3, 10, 700])
def test_binary_images_that_are_cut_off_are_told(client, images, png, cut):
    for datatype, shape, blob in (
        ("UINT8", [1, 3, 16, 16], images[:1].numpy().tobytes()),
        ("BYTES", [1], len(png(images[0])).to_bytes(4, "little") + png(images[0])),
    ):
        record = copy.deepcopy(record_of(images[:1]))
        for size in (len(blob), cut):
            record["inputs"][0] = {
                "name": "images",
                "datatype": datatype,
                "shape": shape,
                "parameters": {"binary_data_size": size},
            }
            header = json.dumps(record).encode()
            response = client.post(
                INFER,
                content=header + blob[:cut],
                headers={"Inference-Header-Content-Length": str(len(header))},
            )
            assert response.status_code in (400, 422), response.text


@pytest.mark.parametrize("kind", ["application/json", "image/jpeg", "text/plain"])
def test_json_is_bounded_whatever_its_type_is_called(client_of, images, kind):
    client = client_of(request_bytes=8192)
    record = json.dumps(record_of(images[:1]))
    assert 2048 < len(record) < 8192
    response = client.post(INFER, content=record, headers={"content-type": kind})
    assert response.status_code == 413 and response.json()["error"], response.text


@pytest.fixture
def triton(served_by):
    http = pytest.importorskip("tritonclient.http")
    client = http.InferenceServerClient(f"127.0.0.1:{served_by(wait_ms=0).port}")
    yield client
    client.close()


def test_tritons_client_finds_the_model(triton):
    assert triton.is_server_live() and triton.is_server_ready()
    assert triton.is_model_ready("acclimate") and not triton.is_model_ready("other")
    assert triton.get_server_metadata()["name"] == "acclimate serve"
    told = triton.get_model_metadata("acclimate")
    assert told["inputs"][0]["shape"] == [-1, 3, 16, 16]


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("datatype", ["UINT8", "FP32"])
def test_tritons_client_gets_an_adapters_answers(triton, served, images, binary, datatype):
    from tritonclient.http import InferInput, InferRequestedOutput

    bundle = Bundle.load(served)
    guard = Guard(Adapter(bundle, device="cpu"), bundle)
    name = f"{datatype}-{binary}"
    for number, batch in enumerate((images[:8], images[8:16])):
        given = batch if datatype == "UINT8" else batch.float() / 255
        tensor = InferInput("images", list(batch.shape), datatype)
        tensor.set_data_from_numpy(given.numpy(), binary_data=binary)
        wanted = [
            InferRequestedOutput(each, binary_data=binary)
            for each in ("probabilities", "class", "label")
        ]
        result = triton.infer(
            "acclimate",
            [tensor],
            outputs=wanted if number else None,
            sequence_id=name,
            sequence_start=number == 0,
            sequence_end=number == 1,
        )
        expected = guard(given)
        assert np.allclose(result.as_numpy("probabilities"), expected.softmax(1).numpy(), atol=1e-6)
        classes = expected.argmax(1).tolist()
        assert result.as_numpy("class").tolist() == classes
        labels = [x.decode() if isinstance(x, bytes) else x for x in result.as_numpy("label")]
        assert labels == [bundle.classes[index] for index in classes]


def test_tritons_client_sends_files_and_is_told_what_is_wrong(triton, images, png):
    from tritonclient.http import InferInput
    from tritonclient.utils import InferenceServerException

    files = np.array([png(each) for each in images[:2]], dtype=object)
    tensor = InferInput("images", [2], "BYTES")
    tensor.set_data_from_numpy(files)
    assert len(triton.infer("acclimate", [tensor], sequence_id=7).as_numpy("class")) == 2
    with pytest.raises(InferenceServerException, match="sequence_id"):
        triton.infer("acclimate", [tensor])
    with pytest.raises(InferenceServerException, match="no model"):
        triton.infer("other", [tensor], sequence_id=7)
