"""Which output stands for which class, against lists matched by hand."""

import pytest
from timm.data import ImageNetInfo

from acclimate.data.classes import match_classes
from acclimate.data.published.imagenet import synsets
from acclimate.errors import InputError

COUNT = 1000
NUMBERS = tuple(map(str, range(COUNT)))


def match(outputs, classes, **more):
    return match_classes(outputs, classes, whose="the bundle", data="pets", **more)


def outputs(*given, **more):
    return match(*given, **more).outputs.tolist()


def test_names_are_matched_whatever_their_order():
    found = match(("zebra", "ant", "cat"), ("ant", "cat", "zebra"))
    assert found.outputs.tolist() == [1, 2, 0]
    assert found.moved == (1, 2, 0)
    assert found.note == ""
    assert match(("ant", "zebra"), ("ant", "zebra")).moved == ()


def test_names_are_compared_as_they_look():
    decomposed = "cafe\u0301"  # as some systems store a folder's name
    assert outputs(("tea", "caf\u00e9 "), (decomposed, "tea")) == [1, 0]


def test_default_numbers_are_positions_although_folders_sort_as_text():
    folders = tuple(sorted(map(str, range(12))))
    assert folders[:4] == ("0", "1", "10", "11")
    assert outputs(NUMBERS[:12], folders) == [int(name) for name in folders]
    few = match(NUMBERS[:11], ("0", "1", "10"))
    assert few.outputs.tolist() == [0, 1, 10]
    assert "3 of the 11 classes" in few.note
    assert outputs(NUMBERS[:3], ("000", "001", "002")) == [0, 1, 2]


def test_numbers_of_folders_are_positions_of_named_outputs():
    found = match(("zebra", "ant", "cat"), ("0", "1", "2"))
    assert found.outputs.tolist() == [0, 1, 2]
    assert "are numbers" in found.note


def test_numbers_that_are_names_are_names():
    """Given in an order of their own, they are no positions."""
    assert outputs(("7", "3", "5"), ("3", "5", "7")) == [1, 2, 0]
    trained = tuple(sorted(map(str, range(12))))  # on folders, whose names sort as text
    assert outputs(trained, NUMBERS[:12]) == [trained.index(name) for name in NUMBERS[:12]]
    assert outputs(trained, trained) == list(range(12))


def test_where_only_one_side_has_names_the_order_decides_and_is_said():
    found = match(("0", "1"), ("ant", "zebra"))
    assert found.outputs.tolist() == [0, 1]
    assert "no class names" in found.note and "(ant, zebra)" in found.note


@pytest.mark.parametrize(
    ("ours", "theirs", "message"),
    [
        (("ant", "zebra"), ("ant", "lion"), r"\(zebra, ant\).*\(lion, ant\)"),
        (("ant", "bee", "zebra"), ("ant", "zebra"), r"3 classes, \(bee, .* has 2, \(ant, zebra"),
        (("ant",), ("ant", "zebra"), r"\(ant\), but pets has 2, \(zebra, ant\)"),
        (("1", "2", "3"), ("0", "1", "2"), r"\(3, 1, 2\), but pets has 3, \(0, 1, 2\)"),
        (("ant", "ant"), ("ant",), "several outputs named 'ant'"),
        (("0", "1", "2"), ("ant", "zebra"), "3 classes without names, but pets has 2"),
        (("0", "1"), ("0", "5"), r"\(0, 5\), but the bundle has the outputs 0 to 1"),
        (("ant", "bee"), ("0", "00"), "number each class"),
        (NUMBERS, ("ant", "bee"), "1000 classes without names"),
        (tuple("abcdefghijklm"), tuple("abcdefghijklz"), r"\(m, a, b, .* \.\.\. 13 in all\)"),
    ],
)
def test_other_classes_are_refused_with_both_lists(ours, theirs, message):
    with pytest.raises(InputError, match=message) as refused:
        match(ours, theirs)
    assert len(str(refused.value)) < 400


def test_training_may_lack_some_classes_but_has_no_unknown_one():
    assert outputs(("zebra", "bee", "ant"), ("ant", "zebra"), some=True) == [2, 0]
    with pytest.raises(InputError, match=r"\(lion, ant\)"):
        match(("zebra", "bee", "ant"), ("ant", "lion"), some=True)


def test_wordnet_ids_are_the_outputs_of_a_classifier_of_imagenet():
    assert outputs(NUMBERS, synsets()) == list(range(COUNT))
    place = {name: number for number, name in enumerate(synsets())}
    for which in ("imagenet_r", "imagenet_a"):  # folders of 200 of them
        found = match(NUMBERS, synsets(which))
        assert found.outputs.tolist() == [place[name] for name in synsets(which)]
        assert found.note == ""
    reversed_ids = synsets()[::-1]
    assert outputs(reversed_ids, synsets()) == list(range(COUNT))[::-1]
    assert (
        outputs(reversed_ids, synsets("imagenet_r"))[0]
        == COUNT - 1 - place[synsets("imagenet_r")[0]]
    )


def test_names_of_imagenet_s_classes_are_checked_against_the_ids():
    info = ImageNetInfo()
    names = [info.index_to_description(number) for number in range(COUNT)]
    some = synsets()[3:9]
    assert (outputs(names, some), match(names, some).note) == (list(range(3, 9)), "")
    first = [name.split(",")[0].replace(" ", "_") for name in names]
    assert match(first, some).note == ""
    with pytest.raises(InputError, match="another order than the published one"):
        match(names[::-1], some)
    foreign = match([f"Klasse {number}" for number in range(COUNT)], some)
    assert foreign.outputs.tolist() == list(range(3, 9))
    assert "in their published order" in foreign.note
