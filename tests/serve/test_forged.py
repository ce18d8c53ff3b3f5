"""States with a right seal and odd contents, made by somebody: they cost their stream alone."""

import hashlib
import json
import math
import os
from functools import partial
from unittest.mock import Mock

import pytest
import torch
from safetensors.torch import save_file
from serving import NPY, refused

from acclimate.adapt.state import AdapterState
from acclimate.methods import METHODS
from acclimate.serve.streams import Streams
from acclimate.storage import sealed

pytestmark = pytest.mark.filterwarnings("ignore:Truncating")
DEEP = '{"belongs": {}, "record": {"stream": ' + "[" * 100_000 + "]" * 100_000 + "}}"


def forged(path, tensors, text):
    """Write a file with a right seal, whatever its text is."""
    save_file(tensors, path, {"record": text, "sha256": sealed.digest(tensors, text)})


def some():
    return {"x": torch.ones(3)}


def text_of(stream):
    record = {"stream": stream, "images": 8, "batches": 1, "changed": 1.0}
    return json.dumps({"belongs": {"method": "tent", "settings": {}}, "record": record})


NO_NAMES = (None, 7, 1.5, True, [], ["a"], {}, {"a": 1}, "\ud800")
BAD_NAMES = ("", ".", "..", "a/b", "../a", "a\0b", "a\nb", "\x1b[2J", "a" * 129, "a" * 10**6)
NO_RECORDS = (
    "", "{", "[]", "7", "null", '"text"', "{}", '{"record": null}', '{"record": []}',
    '{"record": "stream"}', '{"record": {}, "belongs": []}', '{"record": {"stream": "a"}}',
    '{"belongs": {}, "record": {"stream": "a", "images": ' + "9" * 5000 + "}}", DEEP,
)  # fmt: skip


@pytest.fixture
def folder_of(tmp_path, engine_of, served, images):
    """Makes a folder of states of some streams and of "good", by an engine that has ended."""

    def make(*names):
        engine = engine_of(served, tmp_path / "states", in_memory=50)
        for name in (*names, "good"):
            engine.submit(name, images[:8]).result(60)
        engine.close()
        return tmp_path / "states"

    return make


def file_of(folder, name):
    return folder / f"{hashlib.sha256(name.encode()).hexdigest()[:40]}.safetensors"


def goes_on(engine, images):
    """The other stream has lost nothing, and is answered."""
    before = engine.known("good").images
    assert before >= 8
    engine.submit("good", images[:8]).result(60)
    assert engine.known("good").images == before + 8
    assert "anew" not in (engine.known("good").note or "")


def test_forged_files_stop_no_start(folder_of, engine_of, served, images):
    folder = folder_of("a")
    texts = [*map(text_of, NO_NAMES), *map(text_of, BAD_NAMES), *NO_RECORDS]
    for number, text in enumerate(texts):
        forged(folder / f"{number:040d}.safetensors", some(), text)
    for name in BAD_NAMES:  # where they would be looked for
        forged(file_of(folder, name), some(), text_of(name))
    engine = engine_of(served, folder)
    assert {stream.name for stream in engine.streams.all()} == {"a", "good"}
    goes_on(engine, images)


def test_a_folder_or_a_pipe_in_a_files_place_stops_no_start(folder_of, engine_of, served, images):
    folder = folder_of("a")
    pipe, place = file_of(folder, "pipe"), file_of(folder, "a")
    os.mkfifo(pipe)
    place.unlink()
    place.mkdir()
    (place / "file").write_text("x")
    engine = engine_of(served, folder, save_s=0.05)
    assert {stream.name for stream in engine.streams.all()} == {"good"}
    for name in ("a", "pipe"):
        assert engine.submit(name, images[:8]).result(30).places[0].number == 0
    goes_on(engine, images)
    for name in ("a", "b", "c"):
        engine.submit(name, images[:8]).result(30)
    engine.close()  # though the state of "a" can never be written
    again = engine_of(served, folder)
    assert {"b", "c", "good"} <= {stream.name for stream in again.streams.all()}
    assert again.known("good").images == 16


def test_a_file_that_is_forged_while_the_service_runs_costs_its_stream_alone(
    folder_of, engine_of, served, images
):
    names = [f"a{number}" for number in range(len(NO_RECORDS))]
    folder = folder_of(*names)
    engine = engine_of(served, folder)
    for name, text in zip(names, NO_RECORDS):
        forged(file_of(folder, name), some(), text)
        assert engine.submit(name, images[:8]).result(60).places[0].number == 0, text[:50]
        note = engine.known(name).note
        assert "began anew" in note and len(note) < 400
    goes_on(engine, images)


def test_a_giant_file_is_not_read(folder_of, engine_of, served, images):
    folder = folder_of("a")
    engine = engine_of(served, folder)
    with file_of(folder, "a").open("r+b") as file:
        file.truncate(2**37)  # takes no room
    assert engine.submit("a", images[:8]).result(60).places[0].number == 0
    assert "larger than any state" in engine.known("a").note
    goes_on(engine, images)


def belongings(**changes):
    return {"belongs": lambda value: value | changes}


ODD = {
    "method": belongings(method="x" * 10**6),
    "methods": belongings(method=["tent"]),
    "settings": belongings(settings=[1]),
    "guard": belongings(guard=None),
    "more": belongings(more={"a": [1] * 1000}),
    "belongs": {"belongs": lambda _: None},
    "counts": {"record": lambda value: value | {"images": 2**60, "batches": -1, "changed": 1e300}},
    "texts": {"record": lambda value: value | {"images": "8", "batches": None, "changed": []}},
    "mode": {"record": lambda value: value | {"mode": ["off"], "guarded": "yes"}},
    "modes": {"record": lambda value: value | {"mode": "x" * 10**6}},
    "note": {"record": lambda value: value | {"note": {"a": "x" * 10**6}}},
}


def made_odd(path, odd):
    tensors, record = sealed.load(path)
    for part, change in ODD[odd].items():
        record[part] = change(record[part])
    sealed.save(path, tensors, record)


def test_odd_records_cost_their_streams_alone(folder_of, engine_of, served, images):
    folder = folder_of(*ODD)
    for odd in ODD:
        made_odd(file_of(folder, odd), odd)
    engine = engine_of(served, folder, in_memory=50)
    for odd in ODD:
        engine.submit(odd, images[:8]).result(60)
        known = engine.known(odd)
        assert 8 <= known.images <= 16 and known.mode == "bounded", odd
        assert len(known.note or "") < 400, odd
    goes_on(engine, images)


HUGE = {torch.int64: 2**63 - 1, torch.int32: 2**31 - 1}


def poisoned(tensors, value):
    """All numbers of a state are such ones."""
    found = {}
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            found[name] = torch.full_like(tensor, value)
        elif tensor.dtype == torch.bool:
            found[name] = torch.ones_like(tensor)
        else:
            most = HUGE.get(tensor.dtype, torch.iinfo(tensor.dtype).max)
            found[name] = torch.full_like(tensor, -most if value < 0 else most)
    return found


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e38, -1e38])
def test_numbers_that_cannot_be_reach_no_listing_and_no_other_stream(
    client_of, images, npy, tmp_path, value
):
    client = client_of()

    def ask(name):
        path = f"/v1/streams/{name}/predict"
        return client.post(path, content=npy(images[:8].numpy()), headers=NPY)

    first = ask("good").json()
    content = client.get("/v1/streams/good/snapshot").content
    (tmp_path / "state").write_bytes(content)
    tensors, record = sealed.load(tmp_path / "state")
    for part in ("", "guard.", "adapter.", "stream.", "counts."):
        changed = {n: t for n, t in poisoned(tensors, value).items() if n.startswith(part)}
        sealed.save(tmp_path / "state", tensors | changed, record)
        restored = client.post("/v1/streams/bad/restore", content=(tmp_path / "state").read_bytes())
        assert restored.status_code in (200, 422), restored.text
        answers = [ask("bad") for _ in range(5)]
        assert all(each.status_code in (200, 503) for each in answers), answers[0].text
        assert answers[-1].status_code == 200  # however it began
        for path in ("/v1/streams", "/v1/streams/bad", "/v1/stats", "/metrics"):
            assert client.get(path).status_code == 200, path
            assert "nan" not in client.get("/v1/streams").text.lower()
        assert client.get("/v1/streams/bad/snapshot").status_code == 200
        client.delete("/v1/streams/bad")
    other = ask("new").json()
    assert other["answers"] == first["answers"] and other["verdict"] == first["verdict"]


def test_a_stream_whose_state_lets_the_model_fail_begins_anew(folder_of, engine_of, served, images):
    folder = folder_of("a")
    tensors, record = sealed.load(file_of(folder, "a"))
    fails = {name: torch.full_like(each, 2**63 - 1) for name, each in tensors.items()
             if name.startswith("counts.") or name == "stream.filled"}  # fmt: skip
    sealed.save(file_of(folder, "a"), tensors | fails, record)
    engine = engine_of(served, folder)
    told = []
    for _ in range(5):
        error = engine.submit("a", images[:8]).exception(60)
        told.append("ok" if error is None else error.kind)
        goes_on(engine, images)
    assert told == [*["failed"] * 3, "ok", "ok"]
    assert "began anew" in engine.known("a").note and engine.known("a").images == 16


def test_where_the_model_fails_for_another_reason_no_saved_state_is_given_up(
    folder_of, engine_of, served, images, monkeypatch
):
    folder = folder_of("a")
    engine = engine_of(served, folder)

    with monkeypatch.context() as patch:
        for reason in (MemoryError(), *[RuntimeError("the device is gone")] * 5):
            patch.setattr(engine.model, "_answers", Mock(side_effect=reason))
            assert engine.submit("a", images[:8]).exception(60).kind == "failed"
    engine.close()
    again = engine_of(served, folder)
    assert again.known("a").images == 8
    assert again.submit("a", images[:8]).result(60).places[0].number == 1


def test_forged_and_odd_snapshots_are_refused_in_a_short_sentence(client, images, npy, tmp_path):
    path = tmp_path / "state"

    def restored(told):
        sent = client.post("/v1/streams/b/restore", content=path.read_bytes())
        assert len(refused(sent, 422, told).text) < 500
        refused(client.get("/v1/streams/b"), 404, "no stream")

    for text in NO_RECORDS:
        forged(path, some(), text)
        restored("no snapshot")
    client.post("/v1/streams/a/predict", content=npy(images[:4].numpy()), headers=NPY)
    content = client.get("/v1/streams/a/snapshot").content
    for odd in ODD.keys() - {"mode", "modes", "note"}:  # these are left out anyway
        path.write_bytes(content)
        made_odd(path, odd)
        restored("")


def test_tensors_of_any_type_are_refused_as_a_snapshot(client, tmp_path):
    names = ("BOOL", "U8", "I8", "I16", "U16", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F8_E8M0",
             "F4", "F6_E2M3", "C64", "I64", "U64", "F64", "X9")  # fmt: skip
    for name in names:
        for shape, end in (([4], 4), ([2], 16), ([0, 2**40], 0), ([2**62, 4], 0), ([-1], 0)):
            head = {"x": {"dtype": name, "shape": shape, "data_offsets": [0, end]}}
            head["__metadata__"] = {"record": text_of("b"), "sha256": "0" * 64}
            told = json.dumps(head).encode()
            bad = len(told).to_bytes(8, "little") + told + bytes(end)
            refused(client.post("/v1/streams/b/restore", content=bad), 422, "no snapshot")


@pytest.mark.parametrize("method", ["rotta", "note"])
def test_labels_of_a_forged_bank_take_no_memory(engine_of, bundle_of, images, tmp_path, method):
    bundle_of(method).save(tmp_path / "bundle")
    engine = engine_of(tmp_path / "bundle", tmp_path / "states", method=method, in_memory=1)
    for _ in range(3):
        engine.submit("a", images[:8]).result(60)
    engine.submit("b", images[:8]).result(60)
    assert engine._files.flush(30)
    path = engine._files.path("a")
    tensors, record = sealed.load(path)
    labels = [name for name in tensors if name.endswith("labels")]
    assert labels
    sealed.save(path, tensors | {n: torch.full_like(tensors[n], 2**31) for n in labels}, record)
    before = resident()
    told = [engine.submit("a", images[:8]).exception(60) is None for _ in range(60)]
    assert resident() - before < 2**30
    assert not all(told) and all(told[-6:])


def resident():
    from resource import RUSAGE_SELF, getrusage

    return 1024 * getrusage(RUSAGE_SELF).ru_maxrss


@pytest.mark.slow
@pytest.mark.parametrize("method", [name for name, row in METHODS.items() if not row.zero_shot])
def test_counts_of_any_method_take_neither_memory_nor_time(
    engine_of, bundle_of, images, tmp_path, method
):
    bundle_of(method).save(tmp_path / "bundle")
    engine = engine_of(tmp_path / "bundle", tmp_path / "states", method=method, in_memory=50)
    first = engine.submit("good", images[:8]).result(60)
    saved = engine.ask("good", Streams.copy_of).result(60)
    before, tensors = resident(), saved.state.tensors
    for number, count in enumerate((2**31, 2**62, -1, -(2**62))):
        forged_tensors = {
            name: torch.full_like(each, count) if each.dtype == torch.int64 else each
            for name, each in tensors.items()
        }
        state = AdapterState(forged_tensors, saved.state.belongs)
        back = partial(Streams.restore, state=state, record={"images": 8, "batches": 1})
        engine.ask(f"bad {number}", back).result(60)
        for _ in range(3):
            engine.submit(f"bad {number}", images[8:16]).exception(60)
    assert resident() - before < 2**30
    again = engine.submit("new", images[:8]).result(60)
    assert torch.equal(again.given, first.given)
