import json
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from acclimate.data.class_names import (
    check_distinct,
    imagenet_names,
    read_class_names,
)
from acclimate.data.published.imagenet import synsets
from acclimate.errors import InputError

NAMES = ["ant", "Bücher", "golden retriever"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", " \t\r\n", "\n\n", "\r\n  \r\n"])
@pytest.mark.parametrize("last", ["", "\n", "\n\n\n"])
def test_texts_as_editors_write_them(encoding, end, last, tmp_path):
    path = tmp_path / "names.txt"
    path.write_bytes((end.join(NAMES) + last).encode(encoding))
    assert read_class_names(path) == NAMES


def test_only_line_ends_separate_names(tmp_path):
    """str.splitlines would split at these too."""
    odd = ["a\u2028b", "c\x0bd", "e\x1cf", "\x85g"]
    (tmp_path / "names.txt").write_text("\n".join(odd), encoding="utf-8", newline="")
    assert read_class_names(tmp_path / "names.txt") == [*odd[:3], "g"]


@pytest.mark.parametrize(
    "record",
    [
        NAMES,
        {str(index): name for index, name in enumerate(NAMES)},
        {name: index for index, name in enumerate(NAMES)},
        {"2": NAMES[2], "0": NAMES[0], "1": NAMES[1]},
        {"model_type": "vit", "id2label": dict(enumerate(NAMES))},
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_json(record, encoding, tmp_path):
    (tmp_path / "names.json").write_text(json.dumps(record), encoding=encoding)
    assert read_class_names(tmp_path / "names.json") == NAMES


def test_json_of_keras(tmp_path):
    record = {"0": ["n01440764", "tench"], "1": ["n01443537", "goldfish"]}
    (tmp_path / "x.json").write_text(json.dumps(record))
    assert read_class_names(tmp_path / "x.json") == ["n01440764 tench", "n01443537 goldfish"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "holds no class name"),
        (b"\xef\xbb\xbf\r\n \r\n", "holds no class name"),
        (b"cat\ndog\ncat\n", "'cat' names the outputs 0 and 2"),
        (b"cat\ncat \n", "'cat' names the outputs 0 and 1"),
        (b'["cat", "cat"]', "'cat' names the outputs 0 and 1"),
        (b"\xffcat", "cannot be read as text"),
        (b"\xff\xfec", "cannot be read as text"),
        (b"c\0a\0t\0", "cannot be read as text"),
        (b"[1, 2]", "a name is no text"),
        (b'["cat", ""]', "a name is no text"),
        (b'{"0": "cat", "2": "dog"}', "not numbered from 0"),
        (b'{"cat": 1, "dog": 2}', "not numbered from 0"),
        (b"[", "is no list of class names in JSON"),
        (b"[" * 100_000, "is no list of class names in JSON"),
        (b'[["n0", 3]]', "is no list of class names in JSON"),
        (b"{}", "holds no class name"),
    ],
)
def test_what_is_refused(content, reason, tmp_path):
    (tmp_path / "names.txt").write_bytes(content)
    with pytest.raises(InputError, match=re.escape(reason)):
        read_class_names(tmp_path / "names.txt")


def test_files_that_are_not_there(tmp_path):
    for path in (tmp_path, tmp_path / "none.txt"):
        with pytest.raises(InputError, match="cannot be read"):
            read_class_names(path)


def test_imagenet_names_are_distinct_and_in_the_order_of_the_outputs():
    from torchvision.models import ResNet18_Weights

    names = imagenet_names()
    assert names[:2] == ("tench", "goldfish")
    check_distinct(names, "ImageNet")
    assert names[134] == "crane (n02012849)"
    assert names[517] == "crane (n03126707)"
    assert [synsets()[index] for index in (134, 517)] == ["n02012849", "n03126707"]
    theirs = ResNet18_Weights.DEFAULT.meta["categories"]
    same = sum(ours.lower() == their.lower() for ours, their in zip(names, theirs))
    assert same > 800  # torchvision shortens some


JSON_LIKE = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 3) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("012a"), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=60) | JSON_LIKE.map(lambda record: json.dumps(record).encode()))
def test_any_bytes_are_names_or_refused(content, tmp_path):
    (tmp_path / "names.txt").write_bytes(content)
    try:
        names = read_class_names(tmp_path / "names.txt")
    except InputError as error:
        assert str(error).endswith(".")
    else:
        assert names and all(name == name.strip() != "" for name in names)
        assert len(set(names)) == len(names)
