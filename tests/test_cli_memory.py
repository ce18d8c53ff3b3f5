"""Every verb that runs a network takes a memory limit, and it arrives: 1 MB is refused at once."""

import re

import pytest

from acclimate.cli import main

MINI = ("--data", "fashion-mnist-mini", "--images", "16", "--corruptions", "fog")


def refused(capsys, code, *arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(each) for each in arguments])
    assert stop.value.code == code
    said = capsys.readouterr()
    return " ".join((said.out + said.err).split())


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Bundles with random weights, of ten classes."""
    from acclimate.source.train import untrained

    folder = tmp_path_factory.mktemp("made")
    for name in ("cta", "source"):
        untrained(name, "acclimate:resnet8-w8", 28).save(folder / name)
    return folder


def test_bench(made, tmp_path, capsys):
    given = (*MINI, "--methods", "source", "--workers", "1", "--out", tmp_path / "grid")
    said = refused(capsys, 1, "bench", made / "source", *given, "--memory-limit", "1MB")
    assert "the memory limit leaves 0 MB" in said


def test_analyse(made, tmp_path, capsys):
    pytest.importorskip("sklearn")
    given = ("tsne", made / "cta", *MINI, "--steps", "1", "--out", tmp_path / "grid")
    said = refused(capsys, 2, "analyse", *given, "--memory-limit", "1MB")
    assert "the memory limit leaves 0 MB" in said


def test_quickstart(tmp_path, capsys):
    given = ("--images", "4", "--out", tmp_path / "out", "--memory-limit", "1MB")
    said = refused(capsys, 2, "quickstart", *given)
    assert "a step of the stage supervised on 64 images needs about" in said
    assert "0 MB are left" in said


def test_wrap(made, data, tmp_path, capsys):
    weights = made / "source" / "weights.safetensors"
    given = ("--model", "acclimate:resnet8-w8", "--weights", weights, "--images", data)
    out = ("--out", tmp_path / "bundle")
    said = refused(capsys, 2, "wrap", *given, *out, "--memory-limit", "1MB", "--device", "cpu")
    assert "a pass of 40 images" in said and "0 MB are left; give more memory, or no" in said
    main(["wrap", *map(str, (*given, *out)), "--memory-limit", "8GB", "--device", "cpu"])


@pytest.mark.parametrize(
    ("verb", "stages"),
    [
        (["align", "--images"], ("contrastive", "align")),
        (["train", "ttt", "--data"], ("joint",)),
    ],
)
def test_the_options_of_a_batch_that_fits_are_named(
    verb, stages, made, data, tmp_path, capsys, monkeypatch
):
    from acclimate.source import room

    model = ["--model", "acclimate:resnet8-w8"]
    if verb[0] == "align":
        model += ["--weights", str(made / "source" / "weights.safetensors")]
    monkeypatch.setattr(room, "return_freed_memory", lambda: None)
    monkeypatch.setattr(room, "for_passes", lambda limit, device: 1e6)
    out = ("--out", tmp_path / "bundle", "--memory-limit", "8GB")
    said = refused(capsys, 2, *verb, data, *model, *out)
    options = r" ".join(rf"--{stage}\.batch (\d+)" for stage in stages)
    found = re.search(rf"choose a batch of (\d+) images \({options}\), smaller images", said)
    assert found and len(set(found.groups())) == 1, said


@pytest.mark.parametrize(
    "command",
    [
        ["bench", "b", "--data", "x", "--out", "grid"],
        ["analyse", "tsne", "b", "--data", "x", "--out", "grid"],
        ["quickstart", "--out", "grid"],
        ["adapt", "b", "x", "--out", "y"],
        ["align", "--model", "timm:resnet18", "--images", "x", "--out", "grid"],
        ["train", "--data", "x", "--out", "grid"],
        ["wrap", "--model", "timm:resnet18", "--out", "grid"],
        ["measure", "b", "x", "--out", "y"],
    ],
    ids=lambda command: command[0],
)
def test_what_is_no_size_is_told_before_any_work(command, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = refused(capsys, 2, *command, "--memory-limit", "much")
    assert "the memory limit must be a size such as 2GB or 500MB, not 'much'" in said
    assert not list(tmp_path.iterdir())
