import json
import math
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from acclimate.errors import InputError
from acclimate.evaluate.cell import Answers, Cell
from acclimate.evaluate.speed import Speed
from acclimate.evaluate.store import Store
from acclimate.evaluate.variant import Variant

FLOATS = st.floats(allow_infinity=False)
VARIANTS = st.builds(
    Variant.of,
    st.sampled_from(["cta", "mine"]),
    st.dictionaries(st.sampled_from(["steps", "reset"]), st.integers() | st.text()),
)


@st.composite
def answers(draw):
    count = draw(st.integers(0, 12))
    kinds = (np.int64, np.int64, np.int64, np.float32, np.bool_)
    return Answers(*(draw(arrays.arrays(kind, count)) for kind in kinds))


CELLS = st.builds(
    Cell, variant=VARIANTS, bundle=st.text(), dataset=st.text(), corruption=st.text(),
    severity=FLOATS | st.integers(0, 5), order=st.text(), seed=st.integers(), batch=st.integers(),
    accuracy=FLOATS, ece=FLOATS, nll=FLOATS, n_images=st.integers(), steps=st.integers(),
    seconds=FLOATS, domain=st.text(), images_per_second=FLOATS, peak_memory=st.integers(),
    refused_steps=st.integers(), forward_equivalents=FLOATS, curve=st.lists(FLOATS).map(tuple),
    answers=answers(),
)  # fmt: skip


def cell(accuracy=0.5, corruption="fog"):
    numbers = np.array([2, 0, 1])
    given = Answers(np.arange(3), numbers, numbers % 2, np.float32([0.1, 0.2, 0.7]), numbers > 0)
    return Cell(
        variant=Variant("cta"), bundle="b", dataset="d", corruption=corruption, severity=5,
        order="shuffled", seed=0, batch=4, accuracy=accuracy, ece=0.1, nll=0.5, n_images=3,
        steps=2, seconds=1.0, images_per_second=3.0, peak_memory=9, refused_steps=0,
        curve=(0.1, accuracy), answers=given,
    )  # fmt: skip


def same(one, other):
    """To the last bit, of numbers and of answers; nan is nan."""
    for field in fields(Cell):
        first, second = getattr(one, field.name), getattr(other, field.name)
        if field.name == "answers":
            for part in fields(Answers):
                a, b = getattr(first, part.name), getattr(second, part.name)
                assert (a.dtype, a.tobytes()) == (b.dtype, b.tobytes())
        else:
            assert repr(first) == repr(second)


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "cells.sqlite") as store:
        yield store


@settings(deadline=None, max_examples=15)
@given(cells=st.lists(CELLS, min_size=1, max_size=3))
def test_what_is_kept_is_read_back_bit_for_bit(cells, tasks, tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "cells.sqlite"
    with Store(path) as store:
        store.add(tasks[0], cells, "commit")
    with Store(path) as store:
        for one, other in zip(store.cells([tasks[0]]), cells, strict=True):
            same(one, other)
        for one, other in zip(store.cells(answers=False), cells, strict=True):
            assert one.answers is None
            same(replace(one, answers=other.answers), other)


def test_cells_come_in_the_order_of_the_tasks(store, tasks):
    for number, task in enumerate(tasks):
        assert store.cells([task]) == []
        store.add(task, [cell(number), cell(number + 0.5)], "commit")
    order = [tasks[2], tasks[0]]
    assert [c.accuracy for c in store.cells(order)] == [2, 2.5, 0, 0.5]
    assert {c.accuracy for c in store.cells()} == {0, 0.5, 1, 1.5, 2, 2.5}
    assert store.done() == {task.key for task in tasks}


def test_a_finished_task_replaces_a_failed_one_and_itself(store, tasks):
    store.fail(tasks[0], "out of memory", "first")
    store.fail(tasks[1], "no reason", "first")
    assert store.done() == set()
    name = "b source on none 0, shuffled, seed 0"
    assert (name, "out of memory") in store.errors()
    assert store.errors([tasks[0]]) == [(name, "out of memory")]
    store.fail(tasks[0], "another", "first")
    assert store.errors([tasks[0]]) == [(name, "another")]
    store.add(tasks[0], [cell(0.5), cell(0.6)], "second")
    store.add(tasks[0], [cell(0.7)], "second")
    assert store.errors([tasks[0]]) == []
    assert [c.accuracy for c in store.cells()] == [0.7]
    assert store.sources() == ["first", "second"]


def test_a_task_is_there_whole_or_not_at_all(store, tasks):
    with pytest.raises(AssertionError):
        store.add(tasks[0], [cell(), replace(cell(), answers=None)], "commit")
    assert store.cells() == []
    store._base.execute("CREATE TEMP TRIGGER t BEFORE INSERT ON cells WHEN new.part = 1 "
                        "BEGIN SELECT RAISE(ABORT, 'no more'); END")  # fmt: skip
    with pytest.raises(InputError, match=r"cells\.sqlite"):
        store.add(tasks[0], [cell(), cell()], "commit")
    assert (store.done(), store.cells()) == (set(), [])
    store.add(tasks[0], [cell()], "commit")  # the failed transaction is over
    assert len(store.cells()) == 1


def test_speeds(store):
    speed = Speed(0.1 + 0.2, 3.5, 10, 20, 30)
    assert store.speed("key") is None
    store.keep_speed("key", replace(speed, held_bytes=1))
    store.keep_speed("key", speed)
    assert store.speed("key") == speed


def test_nothing_measured_is_nan(store, tasks):
    store.add(tasks[0], [cell()], "commit")
    assert math.isnan(store.cells()[0].forward_equivalents)


def test_others_read_while_one_writes(store, tasks):
    store.add(tasks[0], [cell()], "commit")
    with store._transaction() as base:
        base.execute("DELETE FROM tasks")
        with Store(store.path) as reader:
            assert len(reader.cells()) == 1
    with Store(store.path) as reader:
        assert reader.cells() == []
        store.add(tasks[1], [cell()], "commit")
        assert len(reader.cells()) == 1


def test_a_process_that_dies_while_it_writes_leaves_no_half(store, tasks):
    store.add(tasks[0], [cell()], "commit")
    work = (
        "import os, signal, sqlite3, sys\n"
        "base = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "base.execute('BEGIN IMMEDIATE')\n"
        "base.execute('DELETE FROM cells')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", work, store.path])
    assert done.returncode == -9
    assert len(store.cells()) == 1
    store.add(tasks[1], [cell()], "commit")  # its lock is gone
    assert len(store.cells()) == 2


def foreign(path):
    with sqlite3.connect(path) as base:
        base.execute("CREATE TABLE letters (text)")
        base.execute("PRAGMA user_version = 1")
    base.close()


def of_version(number):
    def make(path):
        Store(path).__exit__()
        with sqlite3.connect(path) as base:
            base.execute(f"PRAGMA user_version = {number}")
        base.close()

    return make


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (foreign, "holds something else; choose another place"),
        (of_version(99), "was written by a newer acclimate; upgrade acclimate"),
        (of_version(1), r"by an older acclimate; run the grid into a new folder, or keep only"),
        (lambda path: path.write_text("dear reader, " * 100), "is damaged; delete it"),
        (lambda path: path.mkdir(), "choose another place"),
    ],
    ids=["foreign", "newer", "older", "text", "folder"],
)
def test_other_files_are_refused_and_left_as_they_are(make, expected, tmp_path):
    path = tmp_path / "cells.sqlite"
    make(path)
    before = path.is_file() and path.read_bytes()
    with pytest.raises(InputError, match=rf"^.*cells\.sqlite.*{expected}.*\.$") as caught:
        Store(path)
    assert "\n" not in str(caught.value)
    assert (path.is_file() and path.read_bytes()) == before
    assert [found.name for found in tmp_path.iterdir()] == ["cells.sqlite"]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cells\.sqlite"):
        Store(tmp_path / "file" / "cells.sqlite")


@pytest.fixture(scope="module")
def kept(tasks, tmp_path_factory):
    """A store of a few cells in one file, and what is in it."""
    path = tmp_path_factory.mktemp("kept") / "cells.sqlite"
    with Store(path) as store:
        for number, task in enumerate(tasks):
            store.add(task, [cell(number / 10), cell(number / 10, "snow")], "commit")
        cells = store.cells(tasks)
    assert [found.name for found in path.parent.iterdir()] == ["cells.sqlite"]
    return path, {(c.accuracy, c.corruption): c for c in cells}


@settings(deadline=None, max_examples=400)
@given(st.data())
def test_no_flipped_byte_changes_a_result(kept, tasks, tmp_path_factory, data):
    """Refused, or as it was, or not there (SQLite itself checks no content): never another."""
    path, expected = kept
    text = bytearray(path.read_bytes())
    used = [place for place in range(len(text)) if text[place]]
    text[data.draw(st.sampled_from(used))] ^= data.draw(st.integers(1, 255))
    other = tmp_path_factory.mktemp("flipped") / "cells.sqlite"
    other.write_bytes(text)
    try:
        for wanted in (True, False):
            with Store(other) as store:
                found = store.cells(answers=wanted)
            for one in found:
                known = expected[one.accuracy, one.corruption]
                same(one if wanted else replace(one, answers=known.answers), known)
    except InputError as error:
        assert str(error).endswith(".")
    shutil.rmtree(other.parent)


@pytest.mark.parametrize("column", ["record", "predictions", "right", "confidences"])
def test_an_edited_result_is_refused(column, kept, tasks, tmp_path):
    path = tmp_path / "cells.sqlite"
    shutil.copy(kept[0], path)
    with sqlite3.connect(path) as base:
        if column == "record":
            base.execute("""UPDATE cells SET record = replace(record, '"seed": 0', '"seed": 1')""")
        else:
            base.execute(f"UPDATE cells SET {column} = zeroblob(length({column}))")
    base.close()
    with Store(path) as store, pytest.raises(InputError, match="is damaged; delete it and run"):
        store.cells(tasks)


@pytest.mark.parametrize("text", ["{", "[]", "7", '{"seconds": 1}'])
def test_a_damaged_speed_or_failure_is_refused(text, store, tasks):
    store.fail(tasks[0], "no luck", "commit")
    store.keep_speed("key", Speed(1.0, 3.5, 10, 20, 30))
    for table, column in (("tasks", "task"), ("speeds", "record")):
        store._base.execute(f"UPDATE {table} SET {column} = ?", (text,))
    for read in (store.errors, lambda: store.speed("key")):
        with pytest.raises(InputError, match=r"cells\.sqlite is damaged"):
            read()


def test_a_cell_that_is_missing_is_noticed(kept, tasks, tmp_path):
    path = tmp_path / "cells.sqlite"
    shutil.copy(kept[0], path)
    with sqlite3.connect(path) as base:
        base.execute("DELETE FROM cells WHERE part = 1")
    base.close()
    with Store(path) as store, pytest.raises(InputError, match="is damaged"):
        store.cells(tasks, answers=False)


def test_the_task_is_kept_as_it_was(store, tasks):
    store.add(tasks[2], [cell()], "commit")
    ((text,),) = store._base.execute("SELECT task FROM tasks").fetchall()
    record = json.loads(text)
    plain = {"severity": 5, "domain": ""}
    assert record["shifts"] == [{"corruption": name} | plain for name in ("contrast", "fog")]
    assert record["variant"] == "ptbn"
    assert record["settings"]["steps"] == tasks[2].settings.steps
    assert store.tasks() == [tasks[2]]
