"""Options that depend on the method are refused in a sentence where the method lacks them."""

import pytest

from acclimate.cli import main
from acclimate.commands.common import stages_of


@pytest.fixture(scope="module")
def still(bundle_of, tmp_path_factory):
    """A bundle whose method takes no steps."""
    path = tmp_path_factory.mktemp("still") / "bundle"
    bundle_of("source").save(path)
    return path


def refusal(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(each) for each in arguments])
    assert stop.value.code == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("acclimate: ") and "\n" not in said
    return said


@pytest.mark.parametrize("form", [["--update.learning-rate", "1e-3"], ["--update.learning-rate=1"]])
def test_the_bundles_method_takes_no_steps(still, tmp_path, capsys, form):
    said = refusal(capsys, "adapt", still, tmp_path, "--out", tmp_path / "x.csv", *form)
    assert "there is no --update.learning-rate: source, the bundle's method, takes no" in said
    assert "such as --method tent" in said


@pytest.mark.parametrize(
    ("method", "option", "reason"),
    [
        ("bn-adapt", "--objective.temperature", "bn-adapt takes no gradient steps"),
        ("ptbn", "--update.parameters", "ptbn takes no gradient steps"),
        ("tent", "--update.momentum", "the update of tent is adam"),
        ("tent", "--memory.images", "the memory of tent is batch, which has no images; choose"),
        ("tent", "--aftermath.0.momentum", "tent has no aftermath; choose --aftermath teacher"),
        ("source", "--normalisation.prior", "of source is source, which has no prior; choose"),
    ],
)
def test_a_part_without_the_option(still, tmp_path, capsys, method, option, reason):
    given = ("--out", tmp_path / "x.csv", "--method", method, option, "1")
    assert reason in refusal(capsys, "adapt", still, tmp_path, *given)


def test_another_kind_has_the_option(still, tmp_path, capsys):
    """The part is there with the flag, so that the next thing wrong is told."""
    given = ("--out", tmp_path / "x.csv", "--method", "tent", "--update", "sgd")
    said = refusal(capsys, "adapt", still, tmp_path / "none", *given, "--update.momentum", "0.5")
    assert "there is no folder or zip" in said


def test_steps_of_a_method_without_them(still, data, tmp_path, capsys):
    said = refusal(capsys, "adapt", still, data, "--out", tmp_path / "x.csv", "--steps", "2")
    assert "choose a method that does, such as tent" in said


@pytest.mark.parametrize(
    "option", [["--epochs", "9" * 5000], ["--epochs", "1e3"]], ids=["endless", "no number"]
)
def test_epochs_that_are_none(data, tmp_path, capsys, option):
    with pytest.raises(SystemExit) as stop:
        main(["train", "--data", str(data), "--out", str(tmp_path / "x"), *option])
    assert stop.value.code == 2 and "epochs" in capsys.readouterr().err


def test_a_place_that_is_none(still, tmp_path, capsys):
    given = ("--out", tmp_path / "x.csv", "--method", "tent", "--aftermath", "teacher")
    option = f"--aftermath.{'9' * 5000}.momentum"
    with pytest.raises(SystemExit) as stop:
        main([str(each) for each in ("adapt", still, tmp_path, *given, option, "1")])
    assert stop.value.code == 2


@pytest.mark.parametrize(
    ("variant", "reason"),
    [
        ("ptbn:update.learning_rate=0.1", "takes no gradient steps; choose a method that does"),
        ("tent:memory.images=3", "the memory of the method is batch, which has no images"),
    ],
)
def test_bench(still, tmp_path, capsys, variant, reason):
    given = (
        "--data",
        "fashion-mnist-mini",
        "--images",
        "4",
        "--methods",
        variant,
        "--workers",
        "1",
        "--out",
        tmp_path / "grid",
    )
    said = refusal(capsys, "bench", still, *given, "--corruptions", "none")
    assert f"{variant} cannot be measured" in said and reason in said


@pytest.mark.parametrize(
    ("verb", "option", "reason"),
    [
        (["train", "ttt"], "--align.epochs", "ttt runs no stage align, only joint"),
        (["train"], "--joint.batch", "cta runs no stage joint, only supervised, contrastive, al"),
        (["align"], "--supervised.epochs", "align runs no stage supervised, only contrastive"),
    ],
)
def test_stages_that_are_not_run(data, tmp_path, capsys, verb, option, reason):
    images = "--data" if verb[0] == "train" else "--images"
    out = tmp_path / "bundle"
    given = (images, data, "--model", "acclimate:resnet8", "--out", out, option, "3")
    assert reason in refusal(capsys, *verb, *given)
    assert not stages_of(out).exists()
