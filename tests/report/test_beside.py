"""What stands beside a grid's own figures: published numbers, analyses, commands, cards."""

import json
import shlex
from dataclasses import asdict, replace

import pytest

from acclimate.cli import parse
from acclimate.errors import InputError
from acclimate.evaluate.task import Grid
from acclimate.evaluate.variant import Variant
from acclimate.methods.changes import settings_record
from acclimate.report.analyses import read_analyses
from acclimate.report.cards import cards_of
from acclimate.report.comparison import compare
from acclimate.report.published import published_score, read_published
from acclimate.report.reproduce import command, provenance_of

HEAD = "method,corruption,severity,accuracy,std\n"


def test_published_numbers_and_their_mean(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text(HEAD + "cta,fog,5,0.8,0.01\ncta,contrast,5,0.6,\ncta,fog,3,0.9,\n")
    found = read_published(path)
    assert (found[0].accuracy, found[0].deviation, found[1].deviation) == (0.8, 0.01, None)
    assert published_score(found, "cta", ["fog", "contrast"], 5) == pytest.approx(0.7)
    assert published_score(found, "cta", ["fog", "contrast"], 3) is None
    assert published_score(found, "cta-paper", ["fog"], 5) == 0.8
    assert published_score(found, "tent", ["fog"], 5) is None
    assert published_score(found, "cta", [], 5) is None


def test_published_numbers_as_a_spreadsheet_saves_them(tmp_path):
    text = HEAD + "cta,fog,5,0.8,0.01\n"
    for encoding in ("utf-8", "utf-8-sig"):
        for end in ("\n", "\r\n"):
            (tmp_path / "p.csv").write_bytes(text.replace("\n", end).encode(encoding))
            assert [each.accuracy for each in read_published(tmp_path / "p.csv")] == [0.8]


@pytest.mark.parametrize(
    "text, reason",
    [
        ("method,accuracy\n", "must begin with the line method,corruption,severity"),
        (HEAD + "cta,fog,5,much,\n", "line 2: a figure is missing or no number"),
        (HEAD + "cta,fog,5,0.5,\ncta,fog\n", "line 3: a figure is missing"),
        (HEAD + "cta,fog,5,78.1,\n", "line 2: accuracies are fractions, not 78.1"),
    ],
)
def test_other_files_of_numbers_are_refused(tmp_path, text, reason):
    path = tmp_path / "p.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=reason):
        read_published(path)
    with pytest.raises(InputError, match="cannot read"):
        read_published(tmp_path / "absent.csv")
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot read"):
        read_published(path)


def test_analyses_come_in_the_tables_order_and_unknown_ones_after(tmp_path):
    (tmp_path / "analyses").mkdir()
    record = {"title": "T", "caption": "C", "columns": ["a", "b"]}
    record["rows"] = [[1, 0.123456], [None, "x"]]
    inside = record | {"columns": ["method", "part", "steps", "davies_bouldin", "drift"]}
    inside["rows"] = [["y", "encoder", 0, 1.0, 2.0]]
    (tmp_path / "analyses" / "semantics.json").write_text(json.dumps(inside))
    for name in ("aardvark", "temperature"):
        (tmp_path / "analyses" / f"{name}.json").write_text(json.dumps(record))
    found = read_analyses(tmp_path)
    assert [each.name for each in found] == ["temperature", "semantics", "aardvark"]
    assert found[0].rows == (("1", "0.1235"), ("–", "x"))
    assert read_analyses(tmp_path / "analyses") == []
    for text in ("{", '{"title": "T"}', "[]"):
        (tmp_path / "analyses" / "temperature.json").write_text(text)
        with pytest.raises(InputError, match=r"temperature.json cannot be shown"):
            read_analyses(tmp_path)


def test_the_command_of_a_grid_makes_this_grid():
    methods = ("tent", 'cta:steps=2,update.parameters="a,b"')
    grid = Grid(("none", "fog"), (3, 5), ("shuffled", "continual"), (0, 7), methods, 64, False)
    record = asdict(grid) | {"bundles": ["one", "two words"], "dataset": "cifar10", "images": 50}
    words = shlex.split(command(record))
    assert words[0] == "acclimate"
    bench = parse(words[1], words[2:])
    assert bench._grid() == grid
    assert [path.name for path in bench.bundles] == ["one", "two words"]
    assert (bench.data, bench.images) == ("cifar10", 50)


def test_the_command_of_a_grid_has_every_option_that_matters():
    words = ["bench", "runs/one", "two words/two", "--data", "cifar10-c", "--root", "my data"]
    words += ["--size", "48", "--domains", "fog/5", "snow/3", "--threads", "2", "--out", "DIR"]
    words += ["--trust-code"]
    words += ["--methods", "ptbn", "ptbn:normalisation.prior=256", "--batch", "16", "--no-curve"]
    bench = parse(words[0], words[1:])
    bundles = {path.name: path for path in bench.bundles}
    record = asdict(bench._grid()) | {"bundles": list(bundles), "dataset": "cifar10-c"}
    record |= {"domains": ["fog/5", "snow/3"], "images": 10_000}
    record["options"] = json.loads(json.dumps(bench._options(bundles), default=str))
    again = shlex.split(command(record))
    bench = replace(bench, orders=("shuffled",))  # the default, in full
    assert parse(again[1], again[2:]) == bench
    fewer = record | {"options": record["options"] | {"images": 7}}
    again = shlex.split(command(fewer))
    assert parse(again[1], again[2:]) == replace(bench, images=7)


def test_the_command_of_a_named_protocol_says_what_it_stands_for():
    words = ["one", "--data", "cifar10", "--out", "DIR", "--protocol"]
    for name, given in (
        ("recurring", ("recurring", 128, 0)),
        ("single-images", ("shuffled", 1, 16)),
    ):
        bench = parse("bench", [*words, name])
        record = asdict(bench._grid()) | {"bundles": ["one"], "dataset": "cifar10"}
        assert (*record["orders"], record["batch"], record["window"]) == given
        again = shlex.split(command(record))
        assert parse(again[1], again[2:])._grid() == bench._grid()


def test_a_bundle_is_shown_without_settings_of_stages_it_did_not_have():
    training = {"epochs": 3, "batch": 16}
    settings = {"supervised": training, "align": training, "views": {"hue": 0.1}, "weight": 1.0}
    made = {"seed": 4, "settings": settings}
    bundle = {"recipe": "supervised", "architecture": "a", "weights_sha256": "w"}
    bundle["provenance"] = made
    manifest = {"grids": [], "commits": ["c"], "machine": {"cores": "2"}, "bundles": {"b": bundle}}
    shown = provenance_of(manifest)["bundle b"]
    assert shown == {
        "recipe": "supervised", "architecture": "a", "weights_sha256": "w", "seed": 4,
        "supervised.epochs": 3, "supervised.batch": 16, "views.hue": 0.1, "weight": 1.0,
    }  # fmt: skip


def test_cards_say_what_a_method_is(measured, share):
    cells = [measured("tent", "fog", share(3), cost=3.0), measured("uda-ss", "fog", share(3))]
    settings = {name: settings_record(Variant.parse(name).settings) for name in ("tent", "uda-ss")}
    tent, oracle = cards_of(cells, settings, compare(cells))
    assert tent.name == "tent" and "Wang" in tent.citation and not tent.oracle
    own = {name.rpartition(".")[2]: value for name, value in tent.settings.items()}
    assert own["learning_rate"] == 1e-3 and "momentum" not in own
    assert (tent.forward_equivalents, tent.images_per_second) == (3.0, 20.0)
    assert oracle.oracle and "target images" in oracle.needs and not oracle.settings
