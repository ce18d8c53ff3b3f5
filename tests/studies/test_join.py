"""Parts of a study, joined."""

import csv
import json
import sys
from pathlib import Path

import pytest

from acclimate.errors import InputError

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "studies"))
try:
    import join
finally:
    sys.path.pop(0)

WHOLE = ROOT / "results" / "main"


@pytest.fixture
def parts(tmp_path):
    """The main table in two parts, line by line in turn, as two machines might have measured it."""
    header, *lines = (WHOLE / "results.csv").read_text().splitlines()
    manifest = json.loads((WHOLE / "manifest.json").read_text())
    for number, name in enumerate(("a", "b")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "results.csv").write_text("\n".join([header, *lines[number::2]]) + "\n")
        mine = manifest | {"grids": manifest["grids"][number::2], "commits": [name]}
        (folder / "manifest.json").write_text(json.dumps(mine))
        (folder / "settings.json").write_text(json.dumps({"arguments": name}))
    return tmp_path / "a", tmp_path / "b"


def joined(*parts, out):
    join.main(join.Arguments(parts, results=out))
    return out


def test_the_parts_make_the_whole(parts, tmp_path, capsys):
    out = joined(*parts, out=tmp_path / "out")
    assert (out / "results.csv").read_bytes() == (WHOLE / "results.csv").read_bytes()
    whole, manifest = (json.loads((at / "manifest.json").read_text()) for at in (WHOLE, out))
    assert sorted(map(json.dumps, manifest["grids"])) == sorted(map(json.dumps, whole["grids"]))
    assert manifest["bundles"] == whole["bundles"] and manifest["commits"] == ["a", "b"]
    runs = json.loads((out / "settings.json").read_text())["runs"]
    assert runs == [{"arguments": "a"}, {"arguments": "b"}]
    assert "again" not in capsys.readouterr().out
    joined(out, parts[0], out=out)  # into itself
    assert (out / "results.csv").read_bytes() == (WHOLE / "results.csv").read_bytes()
    assert "again: accuracies differ by at most 0.00 points" in capsys.readouterr().out
    assert json.loads((out / "settings.json").read_text())["runs"] == runs


def test_verdicts_are_joined_the_last_of_each_counts(parts, tmp_path):
    whole = (WHOLE / "claims.csv").read_text()
    header, first, *others = whole.splitlines()
    (parts[0] / "claims.csv").write_text("\n".join([header, first, *others[::2]]) + "\n")
    changed = first.rsplit(",", 1)[0] + ",0.125"
    (parts[1] / "claims.csv").write_text("\n".join([header, changed, *others[1::2]]) + "\n")
    out = joined(*parts, out=tmp_path / "out")
    found = (out / "claims.csv").read_text().splitlines()
    assert found[1] == changed and sorted(found[2:]) == sorted(others)
    assert not (out / "steps.csv").exists()
    (parts[1] / "steps.csv").write_text("method,steps\ncta,1\n")
    with pytest.raises(InputError, match=r"steps.csv is no table of claims.py"):
        joined(*parts, out=tmp_path / "out")


def test_errors_are_relative_to_the_frozen_classifier_of_any_part(parts, tmp_path):
    rows = list(csv.DictReader((WHOLE / "results.csv").open(newline="")))
    for part, frozen in zip(parts, (True, False)):
        kept = [row for row in rows if (row["method"] == "source") == frozen]
        with (part / "results.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(row | {"corruption_error": ""} for row in kept)
        (part / "settings.json").unlink()
    out = joined(*parts, out=tmp_path / "out")
    assert (out / "results.csv").read_bytes() == (WHOLE / "results.csv").read_bytes()
    assert not (out / "settings.json").exists()


def test_machines_that_differ_are_told(parts, tmp_path):
    for part, processor in zip(parts, ("one", "another")):
        manifest = json.loads((part / "manifest.json").read_text())
        manifest["machine"] = {"processor": processor, "cores": "2"}
        (part / "manifest.json").write_text(json.dumps(manifest))
    out = joined(*parts, out=tmp_path / "out")
    joined(out, parts[1], out=out)
    machine = json.loads((out / "manifest.json").read_text())["machine"]
    assert machine == {"processor": "one / another", "cores": "2"}


def test_a_folder_with_a_store_is_no_place_for_them(parts, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "cells.sqlite").touch()
    with pytest.raises(InputError, match="has a store"):
        joined(*parts, out=tmp_path / "out")


def test_of_what_was_measured_twice_the_last_counts_and_the_difference_is_told(
    parts, tmp_path, capsys
):
    first, _ = parts
    rows = list(csv.DictReader((first / "results.csv").open(newline="")))
    moved = float(rows[3]["accuracy"]) + 0.125
    text = (first / "results.csv").read_text().splitlines()
    text[4] = text[4].replace(rows[3]["accuracy"], str(moved))
    other = tmp_path / "other"
    other.mkdir()
    (other / "results.csv").write_text(f"{text[0]}\n{text[4]}\n")
    (other / "manifest.json").write_text((first / "manifest.json").read_text())
    out = joined(first, other, out=tmp_path / "out")
    assert "1 again: accuracies differ by at most 12.50 points" in capsys.readouterr().out
    again = list(csv.DictReader((out / "results.csv").open(newline="")))
    assert float(again[3]["accuracy"]) == moved and len(again) == len(rows)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (
            lambda m: m["bundles"]["cta"].update(weights_sha256="0"),
            "another bundle of the name",
        ),
        (lambda m: m["methods"]["y"].update(steps=1), "measured y with other settings"),
        (lambda m: m.pop("methods"), "manifest.json is damaged"),
        (lambda m: m["bundles"].update(cta={}), "manifest.json is damaged"),
    ],
    ids=["weights", "settings", "no settings", "no weights"],
)
def test_parts_of_another_study_are_refused(parts, tmp_path, spoil, told):
    manifest = json.loads((parts[1] / "manifest.json").read_text())
    spoil(manifest)
    (parts[1] / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=told):
        joined(*parts, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_line_twice_in_a_part_is_refused(parts, tmp_path):
    text = (parts[0] / "results.csv").read_text()
    (parts[0] / "results.csv").write_text(text + text.splitlines()[-1] + "\n")
    with pytest.raises(InputError, match="two lines of one method"):
        joined(*parts, out=tmp_path / "out")
    (parts[0] / "results.csv").write_text(text.replace("\n", ",\n"))
    with pytest.raises(InputError, match="other columns"):
        joined(*parts, out=tmp_path / "out")
    (parts[0] / "settings.json").write_text("{")
    with pytest.raises(InputError, match=r"settings.json is missing or damaged"):
        joined(*parts, out=tmp_path / "out")
    with pytest.raises(InputError, match="nothing to join"):
        joined(out=tmp_path / "out")
