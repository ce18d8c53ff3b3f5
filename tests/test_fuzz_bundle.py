"""Damaged and forged bundles: loaded, or refused in one sentence; never another error."""

import copy
import json
import shutil
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from acclimate.bundle import Bundle
from acclimate.bundle_record import STATISTICS, WEIGHTS, sealed
from acclimate.cli import main
from acclimate.errors import InputError
from acclimate.storage import atomic

SECONDS = 20  # of a loaded machine; usually a tenth
RECORD = "bundle.json"
VALUES = [None, True, False, -1, 0, 1, 7, 2**31, 10**30, -0.5, 1e308, "", "x", "cta", "timm:x"]
VALUES += ["acclimate:resnet8", "torchvision:nothing", "a:b", "\ud800", [], [1], [[]], ["a", "b"]]
VALUES += [{}, {"a": 1}, {"kind": "x"}, [None] * 4, [0.5] * 3, {"name": "x", "options": {}}]
BYTES = st.tuples(
    st.just("bytes"),
    st.sampled_from([RECORD, WEIGHTS, STATISTICS]),
    st.sampled_from(["flip", "cut", "insert", "empty", "missing", "folder"]),
    st.integers(0, 2**40),
)
"""Damage that a checksum shows."""
FORGED = st.tuples(
    st.just("forged"),
    st.lists(
        st.tuples(
            st.integers(0, 2**20),
            st.one_of(st.just("remove"), st.sampled_from(VALUES).map(lambda value: (value,))),
        ),
        min_size=1,
        max_size=3,
    ),
)
"""Other values in the record, with a checksum that fits."""
TENSORS = st.tuples(
    st.just("tensors"),
    st.integers(0, 2**20),
    st.sampled_from(["remove", "rename", "shape", "dtype", "nan", "more"]),
)
"""Other weights, with a checksum that fits."""
DAMAGE = st.one_of(BYTES, FORGED, FORGED, TENSORS)
QUICK = settings(
    max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), database=None
)


def places(value, path=()):
    """The paths of all values in a record."""
    if path:
        yield path
    inner = dict(enumerate(value)) if isinstance(value, list) else value
    for key, each in inner.items() if isinstance(inner, dict) else ():
        yield from places(each, (*path, key))


def seal(folder, record):
    record = {name: value for name, value in record.items() if name != "sha256"}
    (folder / RECORD).write_text(sealed(record), encoding="utf-8")


def damage_bytes(folder, name, kind, place):
    path = folder / name
    content = bytearray(path.read_bytes())
    place %= len(content)
    if kind in ("missing", "folder"):
        path.unlink()
        if kind == "folder":
            path.mkdir()
        return
    if kind == "flip":
        content[place] ^= 1 << place % 8
    path.write_bytes(
        {"cut": content[:place], "insert": content[:place] + b"\0{" + content[place:]}.get(
            kind, b"" if kind == "empty" else bytes(content)
        )
    )


def forge(folder, changes):
    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    for number, value in changes:
        found = list(places(record))
        *above, last = found[number % len(found)]
        owner = record
        for key in above:
            owner = owner[key]
        if value != "remove":
            owner[last] = copy.deepcopy(value[0])
        elif isinstance(owner, dict):
            del owner[last]
        else:
            owner.pop()
    seal(folder, record)


def change_tensors(folder, number, kind):
    tensors = load_file(folder / WEIGHTS)
    name = sorted(tensors)[number % len(tensors)]
    tensor = tensors.pop(name)
    changed = {
        "remove": {},
        "rename": {f"{name}x": tensor},
        "shape": {name: tensor.reshape(-1)[:1].clone()},
        "dtype": {name: tensor.bool()},
        "nan": {name: tensor.float().fill_(float("nan"))},
        "more": {name: tensor, "more": tensor.clone()},
    }[kind]
    save_file(tensors | changed, folder / WEIGHTS)
    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    record["weights_sha256"] = atomic.sha256(folder / WEIGHTS)
    seal(folder, record)


def check(saved, damage, capsys):
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "bundle"
        shutil.copytree(saved, folder)
        kind, *how = damage
        {"bytes": damage_bytes, "forged": forge, "tensors": change_tensors}[kind](folder, *how)
        before = sorted(path.name for path in folder.iterdir())
        begun = time.monotonic()
        try:
            Bundle.load(folder)
        except InputError as error:
            assert str(error).endswith((".", "?")) and "\n" not in str(error), error
        capsys.readouterr()
        try:
            main(["info", str(folder)])
        except SystemExit as stop:
            said = capsys.readouterr().err.strip()
            assert stop.code == 2 and said.startswith("acclimate: "), said
            assert "\n" not in said, said
        assert time.monotonic() - begun < SECONDS
        assert sorted(path.name for path in folder.iterdir()) == before


@pytest.mark.filterwarnings("ignore")
@QUICK
@given(DAMAGE)
def test_bundles(saved, capsys, damage):
    check(saved, damage, capsys)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@settings(QUICK, max_examples=2000)
@given(DAMAGE)
def test_many_bundles(saved, capsys, damage):
    check(saved, damage, capsys)
