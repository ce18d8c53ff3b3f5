"""``acclimate bench --protocol`` and ``acclimate compare``, from the command line."""

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from acclimate.cli import main
from acclimate.runtime import workers

CLASSES = ("ant", "bee", "cat", "dog")
FEW = ("--corruptions", "none", "contrast", "fog", "--methods", "source", "ptbn")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """``test/class/image``: 24 pictures of 16 pixels, each class of its own brightness."""
    folder = tmp_path_factory.mktemp("data") / "pictures"
    generator = np.random.default_rng(0)
    for number, name in enumerate(CLASSES):
        (folder / "test" / name).mkdir(parents=True)
        for picture in range(6):
            pixels = generator.integers(40 * number, 40 * number + 100, (16, 16, 3), np.uint8)
            Image.fromarray(pixels).save(folder / "test" / name / f"{picture}.png")
    return folder


@pytest.fixture(scope="module")
def bench(saved, data):
    """Run the command in this process."""

    def bench(out, *options):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(workers, "processes", lambda *numbers: workers.here)
            main(["bench", str(saved), "--data", str(data), "--out", str(out), *options])
        return out

    return bench


@pytest.fixture(scope="module")
def grid(bench, tmp_path_factory):
    return bench(tmp_path_factory.mktemp("grid") / "one", *FEW, "--batch", "8")


@pytest.fixture
def compare(capsys):
    """Exit code, and what was said."""

    def compare(*given):
        capsys.readouterr()
        code = 0
        try:
            main(["compare", *map(str, given)])
        except SystemExit as end:
            code = end.code
        said = capsys.readouterr()
        return code, " ".join((said.out + said.err).split())

    return compare


def rows(out):
    with (out / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_number_names_its_card(grid):
    cards = json.loads((grid / "manifest.json").read_text())["cards"]
    found = rows(grid)
    assert len(found) == 6 and {row["card"] for row in found} == set(cards)
    for row in found:
        card = cards[row["card"]]
        assert (card["method"], card["protocol"], card["batch"]) == (row["method"], "reset", 8)
        assert len(card["weights"]) == len(card["images"]) == 64
        assert card["preprocessing"]["mean"] and card["commits"]


def test_parts_and_cards_are_measured_and_reported(bench, tmp_path):
    given = ("--corruptions", "fog", "contrast", "--batch", "12", "--methods", "source", "cta")
    out = bench(tmp_path / "parts", *given, "--parts")
    assert {row["method"] for row in rows(out)} == {
        "source", "cta", "cta:normalisation=source", "cta:steps=0", "bn-adapt", "cta:memory=batch",
    }  # fmt: skip
    main(["report", str(out)])
    page = (out / "report.html").read_text(encoding="utf-8")
    for heading in ("What each part of a gain is", "Protocol cards", "what all have in common"):
        assert heading in page
    assert "metric = accuracy: the share of right answers" in page
    assert "bench --parts" in page and "--parts" in page.split('id="again"')[1]


def test_the_same_folder_does_not_differ(grid, compare):
    code, said = compare(grid, grid)
    assert code == 0
    assert "source, ptbn: the protocol cards are the same" in said
    assert "choose one method with --methods to see every shift" in said


def test_another_protocol_is_told_field_by_field(grid, bench, compare, tmp_path):
    other = bench(tmp_path / "two", *FEW, "--batch", "8", "--protocol", "mixed")
    code, said = compare(grid, other, "--methods", "ptbn")
    assert code == 1
    assert "ptbn: the protocol cards differ in 1 field" in said
    assert "protocol reset mixed" in said
    assert "mean" in said and "contrast 5" in said and "[" in said  # an interval: the same images
    assert "only one of both has none" in said


def test_two_cells_of_one_folder(grid, compare):
    names = ("--methods", "source", "ptbn", "--conditions", "fog")
    code, said = compare(grid, grid, *names)
    assert code == 1
    assert "source | ptbn: the protocol cards differ in 2 fields" in said
    assert "statistics of batch norm the source's the batch's, prior 0.0, limit 1.0" in said
    assert "fog 5" in said and "contrast" not in said


def test_published_results_are_compared_without_intervals(grid, compare, tmp_path):
    for name in ("results.csv", "manifest.json"):
        shutil.copy(grid / name, tmp_path / name)
    code, said = compare(grid, tmp_path, "--methods", "ptbn")
    assert code == 0
    assert "the protocol cards are the same" in said and "+0.0" in said and "[" not in said


def test_results_of_before_there_were_cards_are_compared(grid, compare, tmp_path):
    shutil.copytree(grid, tmp_path / "old")
    manifest = json.loads((grid / "manifest.json").read_text())
    del manifest["cards"]
    del manifest["bundles"]["bundle"]["preprocessing"]
    (tmp_path / "old" / "manifest.json").write_text(json.dumps(manifest))
    code, said = compare(grid, tmp_path / "old", "--methods", "ptbn")
    assert code == 1 and "not recorded" in said and "normalisation: mean" in said


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("nowhere",), "nowhere has no cells.sqlite"),
        (("--methods", "tent"), "has no methods 'tent' here; choose among source, ptbn"),
        (("--methods", "a", "b", "c"), "--methods takes one value for both folders"),
        (("--seeds", "3"), "has no seeds '3' here; choose among 0"),
        (("--protocols", "mixed"), "choose among reset"),
    ],
    ids=str,
)
def test_bad_input_ends_in_code_2(options, expected, grid, compare):
    second = () if options[0] == "nowhere" else (grid,)
    code, said = compare(grid, *second, *options)
    assert code == 2 and expected in said


def test_single_images_have_a_table_of_their_own(bench, compare, tmp_path, capsys):
    given = ("--corruptions", "fog", "--methods", "source", "tent", "--images", "8")
    bench(tmp_path, *given, "--protocol", "single-images")
    said = " ".join(capsys.readouterr().out.split())
    assert "shuffled, single images in a window of 16: accuracy, %" in said
    assert "too few for statistics" not in said
    assert {(row["batch"], row["window"]) for row in rows(tmp_path)} == {("1", "16")}
    bench(tmp_path, *given, "--batch", "1")
    code, said = compare(tmp_path, tmp_path, "--protocols", "reset", "single-images")
    assert code == 1 and "window of single images 0 16" in said


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--protocol", "continuel"), "unknown protocol 'continuel': did you mean continual"),
        (("--protocol", "mixed", "--orders", "mixed"), "leave --orders out"),
        (("--protocol", "single-images", "--batch", "8"), "leave --batch 8 out"),
        (("--protocol", "mixed", "--window", "8"), "choose --protocol single-images"),
        (("--window", "1"), "a window of at least 2"),
        (("--window", "-1"), "a window of at least 2"),
    ],
    ids=str,
)
def test_protocols_that_cannot_be_meant_are_refused(options, expected, bench, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        bench(tmp_path / "out", *FEW, *options)
    assert end.value.code == 2
    assert expected in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()
