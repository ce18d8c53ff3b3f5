import json
import threading

import numpy as np
import pytest
from PIL import Image

from acclimate.data import cache as module
from acclimate.data.cache import Item, Skipped, decoded
from acclimate.errors import InputError
from acclimate.preprocessing import Preprocessing


def item(path, colour, *, size=(4, 3), content="1", opened=None):
    def open():
        if opened is not None:
            opened.append(path)
        if colour is None:
            raise InputError("it is broken.")
        return Image.new("RGB", size, colour)

    return Item(path, lambda: content, open)


def forbidden(path, content="1"):
    def open():
        raise AssertionError(f"{path} was decoded again")

    return Item(path, lambda: content, open)


ITEMS = [item("a", "red"), item("b", None), item("c", "blue")]


def test_order_pixels_and_skips(tmp_path):
    found = decoded(ITEMS, preprocessing=None, cache=tmp_path)
    assert found.images.shape == (2, 3, 4, 3)
    assert (found.images[0] == [255, 0, 0]).all() and (found.images[1] == [0, 0, 255]).all()
    assert found.paths == ("a", "c")
    assert found.skipped == (Skipped("b", "it is broken."),)


def test_result_is_a_read_only_memory_map(tmp_path):
    images = decoded(ITEMS, preprocessing=None, cache=tmp_path).images
    assert isinstance(images, np.memmap) and not images.flags.writeable


def test_a_hit_decodes_nothing_and_tells_the_same(tmp_path):
    first = decoded(ITEMS, preprocessing=None, cache=tmp_path)
    again = decoded([forbidden(name) for name in "abc"], preprocessing=None, cache=tmp_path)
    np.testing.assert_array_equal(first.images, again.images)
    assert first[1:] == again[1:]


@pytest.mark.parametrize(
    "items, preprocessing",
    [
        ([forbidden("a"), forbidden("b"), forbidden("c", "2")], None),  # content
        ([forbidden("a"), forbidden("b"), forbidden("d")], None),  # name
        ([forbidden("c"), forbidden("b"), forbidden("a")], None),  # order
        ([forbidden("a"), forbidden("b")], None),  # one less
        ([forbidden("a"), forbidden("b"), forbidden("c")], Preprocessing(2)),  # decode setting
    ],
)
def test_a_change_is_decoded_anew(tmp_path, items, preprocessing):
    decoded(ITEMS, preprocessing=None, cache=tmp_path)
    with pytest.raises(AssertionError, match="decoded again"):
        decoded(items, preprocessing=preprocessing, cache=tmp_path)


def test_the_decoder_version_is_part_of_the_key(tmp_path, monkeypatch):
    decoded(ITEMS, preprocessing=None, cache=tmp_path)
    monkeypatch.setattr(module.decode, "VERSION", module.decode.VERSION + 1)
    with pytest.raises(AssertionError, match="decoded again"):
        decoded([forbidden(name) for name in "abc"], preprocessing=None, cache=tmp_path)


def _truncate(file):
    file.write_bytes(file.read_bytes()[:-1])


@pytest.mark.parametrize("suffix", [".uint8", ".json"])
@pytest.mark.parametrize(
    "damage",
    [_truncate, lambda f: f.unlink(), lambda f: f.write_bytes(b""), lambda f: f.write_text("[1]")],
)
def test_a_damaged_cache_is_rebuilt(tmp_path, suffix, damage):
    first = decoded(ITEMS, preprocessing=None, cache=tmp_path)
    expected = np.array(first.images)
    del first
    (file,) = tmp_path.glob(f"*{suffix}")
    before = file.read_bytes()
    damage(file)
    if suffix == ".json" and damage is _truncate:  # only the newline is gone
        file.write_text(before.decode()[:-2])
    np.testing.assert_array_equal(
        decoded(ITEMS, preprocessing=None, cache=tmp_path).images, expected
    )
    assert file.read_bytes() == before


def test_a_description_that_does_not_fit_is_rebuilt(tmp_path):
    decoded(ITEMS, preprocessing=None, cache=tmp_path)
    (file,) = tmp_path.glob("*.json")
    file.write_text(json.dumps({"shape": [2, 3, 4, 3], "skipped": []}))
    assert decoded(ITEMS, preprocessing=None, cache=tmp_path).paths == ("a", "c")


def test_nothing_is_left_after_a_failure(tmp_path):
    items = [item("a", "red"), item("b", "red", size=(5, 3))]
    with pytest.raises(InputError, match=r"a is 4 x 3, b is 5 x 3\): pass --size"):
        decoded(items, preprocessing=None, cache=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_size_reconciles(tmp_path):
    items = [item("a", "red"), item("b", "red", size=(5, 3))]
    assert decoded(items, preprocessing=Preprocessing(2), cache=tmp_path).images.shape == (
        2,
        2,
        2,
        3,
    )


def test_all_bad(tmp_path):
    with pytest.raises(InputError, match="none of the 1 images can be used; b: it is broken"):
        decoded([item("b", None)], preprocessing=None, cache=tmp_path)


def test_unwritable_cache(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        decoded(ITEMS, preprocessing=None, cache=tmp_path / "file")


def test_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCLIMATE_CACHE", str(tmp_path / "by-environment"))
    assert module.folder(None) == tmp_path / "by-environment"
    assert module.folder(tmp_path) == tmp_path
    monkeypatch.delenv("ACCLIMATE_CACHE")
    assert module.folder(None).name == "acclimate"


def test_memory_is_bounded(tmp_path):
    """No more images wait between the pool and the writer than the window holds."""
    waiting, most = 0, 0
    lock = threading.Lock()

    def open():
        nonlocal waiting, most
        with lock:
            waiting += 1
            most = max(most, waiting)
        return Image.new("RGB", (2, 2))

    items = [Item(str(i), lambda: "", open) for i in range(2000)]

    def written(pixels):
        nonlocal waiting
        with lock:
            waiting -= 1

    with module.ThreadPoolExecutor(2) as pool:
        results = module._bounded_map(pool, lambda each: module._open(each, None), items)
        assert module._write_pixels(written, results, []) == (2000, 2, 2, 3)
    assert most <= 8 * (module.os.cpu_count() or 1) + 1


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_passes_everything_on(terminal, monkeypatch, capsys):
    class Console(module.Console):
        is_terminal = terminal

    clock = iter(range(1000))
    monkeypatch.setattr(module, "Console", Console)
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    assert list(module._with_progress(iter(range(5)), 5)) == list(range(5))
    printed = capsys.readouterr()
    assert printed.out == "" and ("decoding" in printed.err) == terminal
