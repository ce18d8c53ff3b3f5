"""``acclimate train METHOD``, ``info`` and ``adapt`` with the bundles of other methods than CTA."""

import csv
import json

import pytest

import acclimate.adapt.folder
from acclimate.bundle import Bundle
from acclimate.cli import main
from acclimate.methods import METHODS

SMALL = ["--model", "acclimate:resnet8-w4", "--epochs", "1", "--device", "cpu"]


@pytest.fixture(scope="module")
def trained(few_trials, data, tmp_path_factory):
    """Bundles of three methods, each from its command."""
    folder = tmp_path_factory.mktemp("trained")
    for method in ("clust3", "ttt-flow", "rec-ttt"):
        out = folder / method
        main(["train", method, "--data", str(data), "--out", str(out), *SMALL, "--weight", "0.5"])
    return folder


@pytest.mark.parametrize("method", ["clust3", "ttt-flow", "rec-ttt"])
def test_train_info_and_adapt(trained, data, tmp_path, capsys, monkeypatch, method):
    assert sorted(path.name for path in trained.iterdir()) == ["clust3", "rec-ttt", "ttt-flow"]
    bundle = Bundle.load(trained / method)
    assert (bundle.method, bundle.recipe) == (method, method)
    assert bundle.provenance["settings"]["weight"] == 0.5
    capsys.readouterr()
    main(["info", str(trained / method), "--json"])
    record = json.loads(capsys.readouterr().out)
    assert (record["method"], record["twin_architecture"]) == (method, None)
    assert record["objective"]["options"] == bundle.options
    given, original = {}, acclimate.adapt.folder.adapt_folder

    def spy(*positional, **named):
        given.update(named)
        return original(*positional, **named)

    monkeypatch.setattr(acclimate.adapt.folder, "adapt_folder", spy)
    out = tmp_path / "predictions.csv"
    main(["adapt", str(trained / method), str(data), "--out", str(out), "--device", "cpu"])
    assert (given["method"], given["settings"]) == (method, METHODS[method].settings)
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 40 and {row["prediction"] for row in rows} <= {"dark", "light"}


@pytest.mark.parametrize(
    ("method", "more", "message"),
    [
        ("clust", [], "unknown method 'clust': did you mean"),
        ("uda-ss", [], "uda-ss is an oracle and needs target images"),
        ("ttt-mae", [], "needs timm's VisionTransformer"),
        ("tttpp", [], "must observe 3072 source images, not 40"),
        ("ttt", ["--weight", "-1"], "weight must be a finite number"),
        ("ttt", ["--joint.epochs", "-1"], "joint.epochs must be an integer"),
    ],
)
def test_train_refuses_in_one_sentence_and_leaves_nothing(
    data, tmp_path, capsys, method, more, message
):
    out = tmp_path / "bundle"
    with pytest.raises(SystemExit) as stopped:
        main(["train", method, "--data", str(data), "--out", str(out), *SMALL, *more])
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1 and "Traceback" not in said
    assert not list(tmp_path.iterdir())


def test_adapt_refuses_a_method_that_the_bundle_was_not_made_for(trained, data, tmp_path, capsys):
    command = ["adapt", str(trained / "clust3"), str(data), "--out", str(tmp_path / "x.csv")]
    with pytest.raises(SystemExit) as stopped:
        main([*command, "--method", "ttt"])
    assert stopped.value.code == 2
    assert "made for clust3, not for ttt" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
