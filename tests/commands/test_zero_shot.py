"""``acclimate zero-shot``."""

import pytest
import torch
from photographs import photograph
from safetensors.torch import save_file
from toy_clip import TINY

from acclimate.backbones.clip import build_clip
from acclimate.bundle import Bundle
from acclimate.cli import main
from acclimate.commands import VERBS, summary, verb_class


@pytest.fixture
def given(monkeypatch, tmp_path):
    """The arguments of the command for a tiny model."""
    monkeypatch.setattr("open_clip.list_models", lambda: ["tiny"])
    monkeypatch.setattr("open_clip.get_model_config", lambda name: TINY)
    torch.manual_seed(0)
    tensors = build_clip(TINY).state_dict()
    save_file({n: t.contiguous() for n, t in tensors.items()}, tmp_path / "tiny.safetensors")
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    (tmp_path / "templates.txt").write_text("a photo of a {}\nart of the {}\n")
    options = {"weights": "tiny.safetensors", "class-names": "classes.txt", "out": "bundle"}
    return ["zero-shot", "openclip:tiny"] + [
        word for name, file in options.items() for word in (f"--{name}", str(tmp_path / file))
    ]


def test_a_bundle_of_files(given, tmp_path, capsys):
    main([*given, "--templates", str(tmp_path / "templates.txt"), "--size", "16"])
    said = capsys.readouterr().out
    assert "bicubic" in said and "acclimate adapt" in said
    bundle = Bundle.load(tmp_path / "bundle")
    assert bundle.classes == ("cat", "dog") and bundle.method == "clipartt"
    assert bundle.classifier.head.by_template.shape[0] == 2
    assert bundle.provenance["templates"] == ["a photo of a {}", "art of the {}"]


def test_watt_s_templates_are_the_default(given, tmp_path):
    main(given)
    assert len(Bundle.load(tmp_path / "bundle").provenance["templates"]) == 8


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("classes.txt", "cat\ncat\n", "'cat' names the outputs 0 and 1"),
        ("classes.txt", "", "holds no class name"),
        ("classes.txt", "cat\n" + "very " * 40, "longer than the 24 tokens"),
        ("templates.txt", "", "holds no template"),
        ("templates.txt", "a photo\n", "must have {} once"),
        ("templates.txt", "a {name}\n", "must have {} once"),
        ("templates.txt", "art of {}\nart of {}\n", "the template 'art of {}' is there twice"),
    ],
)
def test_texts_that_cannot_be_meant_end_in_a_sentence(given, tmp_path, capsys, file, text, message):
    (tmp_path / file).write_text(text)
    with pytest.raises(SystemExit) as stopped:
        main([*given, "--templates", str(tmp_path / "templates.txt")])
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert not (tmp_path / "bundle").exists()


def test_a_template_may_begin_with_the_name(given, tmp_path):
    (tmp_path / "templates.txt").write_text("{}\n{} in a video game\n")
    main([*given, "--templates", str(tmp_path / "templates.txt")])
    assert Bundle.load(tmp_path / "bundle").provenance["templates"] == ["{}", "{} in a video game"]


@pytest.mark.parametrize("tensors", ["another model's", "a wider one's", "none"])
def test_weights_of_another_model_end_in_a_sentence(given, tmp_path, capsys, tensors):
    path = tmp_path / "tiny.safetensors"
    if tensors == "none":
        path.write_text("no weights")
    elif tensors == "a wider one's":
        wide = build_clip(TINY | {"embed_dim": 24}).state_dict()
        save_file({n: t.contiguous() for n, t in wide.items()}, path)
    else:
        save_file({"layer.weight": torch.zeros(3, 3)}, path)
    with pytest.raises(SystemExit) as stopped:
        main(given)
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert f"{path} " in said and said.count("\n") == 1
    assert not (tmp_path / "bundle").exists()


def test_its_bundle_is_aligned(given, tmp_path, capsys):
    main(given)
    (tmp_path / "photos").mkdir()
    for seed in range(4):
        photograph(40, 30, seed=seed).save(tmp_path / "photos" / f"{seed}.png")
    command = ["align", "--model", str(tmp_path / "bundle"), "--images", str(tmp_path / "photos")]
    main([*command, "--epochs", "0", "--out", str(tmp_path / "aligned")])
    assert "(from the bundle)" in " ".join(capsys.readouterr().out.split())
    bundle, aligned = (Bundle.load(tmp_path / name) for name in ("bundle", "aligned"))
    assert aligned.twin is not None and aligned.classes == ("cat", "dog")
    assert aligned.preprocessing == bundle.preprocessing
    images = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(aligned.classifier(images), bundle.classifier(images))
    with pytest.raises(SystemExit) as stopped:
        main([*command, "--weights", str(tmp_path / "tiny.safetensors"), "--out", "other"])
    assert stopped.value.code == 2
    assert "weights are for a model given by name" in capsys.readouterr().err


def test_a_missing_file_of_names_ends_in_a_sentence(given, tmp_path, capsys):
    (tmp_path / "classes.txt").unlink()
    with pytest.raises(SystemExit) as stopped:
        main(given)
    assert stopped.value.code == 2
    assert "cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["tiny", "timm:resnet18", "hf:folder"])
def test_a_name_that_is_no_clip_s_ends_in_a_sentence(given, tmp_path, capsys, name):
    with pytest.raises(SystemExit) as stopped:
        main([given[0], name, *given[2:]])
    assert stopped.value.code == 2
    assert f"{name} is no zero-shot classifier; give openclip:NAME" in capsys.readouterr().err


def test_every_verb_has_a_class_and_a_summary():
    for verb in VERBS:
        assert verb_class(verb).__doc__ and summary(verb)
