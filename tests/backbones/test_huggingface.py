"""Small random classifiers of transformers, saved to folders; nothing is downloaded."""

import json
import shutil
import socket

import pytest
import torch

import acclimate
from acclimate.backbones import build, recorded_name, split
from acclimate.bundle import Bundle
from acclimate.cli import main
from acclimate.errors import InputError
from acclimate.preprocessing import Preprocessing
from acclimate.source.presets import PRESETS, with_epochs

transformers = pytest.importorskip("transformers")
NAMES = {0: "ant", 1: "bee", 2: "cat", 3: "dog"}
LABELS = {"id2label": NAMES, "label2id": {name: index for index, name in NAMES.items()}}
PATCHES = {
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
}
STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
CONFIGS = {
    "ViT": lambda: transformers.ViTConfig(**PATCHES, **LABELS),
    "DeiT": lambda: transformers.DeiTConfig(**PATCHES, **LABELS),
    "ConvNext": lambda: transformers.ConvNextConfig(**STAGES, image_size=32, **LABELS),
    "ResNet": lambda: transformers.ResNetConfig(
        **STAGES, embedding_size=8, layer_type="basic", **LABELS
    ),
    "Swin": lambda: transformers.SwinConfig(
        image_size=32,
        patch_size=4,
        embed_dim=8,
        depths=[1, 1],
        num_heads=[1, 2],
        window_size=4,
        **LABELS,
    ),
}
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("a download was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def make(kind, folder, **options):
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}ForImageClassification")(CONFIGS[kind]()).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder, **options)
    return model


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_folder_is_a_classifier_and_its_bundle_needs_no_folder(kind, tmp_path):
    model = make(kind, tmp_path / "model")
    name = f"hf:{tmp_path / 'model'}"
    network = build(name, classes=None).eval()
    with torch.no_grad():
        expected = model(IMAGES).logits
        assert torch.equal(network(IMAGES), expected)
        assert torch.equal(split(network)(IMAGES), expected)
        bundle = acclimate.wrap(name, preprocessing=Preprocessing(32))
        assert torch.equal(bundle.classifier(IMAGES), expected)
    assert bundle.classes == ("ant", "bee", "cat", "dog")
    bundle.save(tmp_path / "bundle")
    shutil.rmtree(tmp_path / "model")
    loaded = Bundle.load(tmp_path / "bundle")
    with torch.no_grad():
        assert torch.equal(loaded.classifier(IMAGES), expected)
    assert loaded.architecture.startswith(f"hf:{model.config.model_type} {{")
    assert "ant" not in loaded.architecture
    assert str(tmp_path) not in loaded.architecture
    assert recorded_name(loaded.architecture) == loaded.architecture


@pytest.mark.parametrize("form", ["shards", "half", "pickle", "pickled shards"])
def test_other_forms_of_folders(form, tmp_path):
    model = make("ResNet", tmp_path, max_shard_size="20KB" if form == "shards" else "1GB")
    if form == "half":
        model = model.half().float()
        model.half().save_pretrained(tmp_path)
        model.float()
    if form.startswith("pickle"):
        (tmp_path / "model.safetensors").unlink()
        torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    if form == "pickled shards":
        (tmp_path / "pytorch_model.bin").rename(tmp_path / "a.bin")
        index = {"metadata": {}, "weight_map": dict.fromkeys(model.state_dict(), "a.bin")}
        (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    network = build(f"hf:{tmp_path}", classes=None).eval()
    with torch.no_grad():
        assert torch.equal(network(IMAGES), model(IMAGES).logits)


def test_weights_of_a_trainer_for_a_configuration(tmp_path):
    """Another file's weights, as Lightning or a plain loop writes them."""
    model = make("ViT", tmp_path / "model")
    other = make("ViT", tmp_path / "other")
    for parameter in other.parameters():
        parameter.data.mul_(1.5)
    wrapped = {f"model.{name}": tensor for name, tensor in other.state_dict().items()}
    torch.save({"state_dict": wrapped}, tmp_path / "last.ckpt")
    network = build(f"hf:{tmp_path / 'model'}", classes=None, weights=tmp_path / "last.ckpt").eval()
    with torch.no_grad():
        assert torch.equal(network(IMAGES), other(IMAGES).logits)
        assert not torch.equal(network(IMAGES), model(IMAGES).logits)


def test_the_command_line_aligns_and_adapts(tmp_path, data, capsys):
    make("ConvNext", tmp_path / "model")
    (tmp_path / "names.json").write_text('["a", "b", "c", "d"]')
    name = ["--model", f"hf:{tmp_path / 'model'}"]
    main(["wrap", *name, "--size", "32", "--out", str(tmp_path / "plain")])
    assert "class names: those of the model's config.json" in capsys.readouterr().err
    out = tmp_path / "x.csv"
    main(["adapt", str(tmp_path / "plain"), str(data), "--out", str(out), "--method", "source"])
    assert {line.split(",")[1] for line in out.read_text().splitlines()[1:]} <= {*NAMES.values()}


def test_a_twin_is_a_copy(tmp_path, images):
    make("ResNet", tmp_path / "model")
    bundle = acclimate.align(
        f"hf:{tmp_path / 'model'}",
        torch.nn.functional.interpolate(images[:8].float(), 32).to(torch.uint8),
        settings=with_epochs(PRESETS["small"], 0),
    )
    bundle.save(tmp_path / "bundle")
    shutil.rmtree(tmp_path / "model")
    assert Bundle.load(tmp_path / "bundle").twin_architecture == bundle.architecture


def _edit(folder, **changes):
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda f: shutil.rmtree(f), "there is no .*config.json.*not downloaded"),
        (lambda f: (f / "config.json").unlink(), r"there is no .*config\.json"),
        (lambda f: (f / "config.json").write_text("{"), "is no JSON"),
        (lambda f: (f / "config.json").write_text("[]"), "is no configuration"),
        (lambda f: (f / "config.json").write_bytes(b"\xff\xfe\xff"), "cannot be read"),
        (lambda f: _edit(f, model_type=None), "names no model_type"),
        (lambda f: _edit(f, model_type="bert"), "has no image classifier"),
        (
            lambda f: _edit(f, model_type="mine", auto_map={"AutoConfig": "mine.Config"}),
            "code of its own is not run",
        ),
        (lambda f: _edit(f, hidden_sizes="many"), "cannot build this model"),
        (lambda f: _edit(f, embedding_size=16), "cannot build this model"),
        (lambda f: (f / "model.safetensors").unlink(), "there is no file with weights"),
        (lambda f: (f / "model.safetensors").write_bytes(b"x" * 99), "cannot be read"),
        (
            lambda f: transformers.ResNetModel(CONFIGS["ResNet"]()).save_pretrained(f),
            "lacks weights of the classifier",
        ),
    ],
)
def test_folders_that_are_no_classifiers(spoil, reason, tmp_path):
    make("ResNet", tmp_path / "model")
    spoil(tmp_path / "model")
    with pytest.raises(InputError, match=reason):
        build(f"hf:{tmp_path / 'model'}", classes=None)


def test_code_in_a_folder_is_not_run(tmp_path):
    make("ResNet", tmp_path)
    (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    _edit(tmp_path, auto_map={"AutoModelForImageClassification": "mine.Net"})
    build(f"hf:{tmp_path}", classes=None)
    assert not (tmp_path / "ran").exists()


def test_another_number_of_classes(tmp_path):
    make("ResNet", tmp_path)
    assert build(f"hf:{tmp_path}", classes=4) is not None
    with pytest.raises(InputError, match="of 4 classes, not of 3"):
        build(f"hf:{tmp_path}", classes=3)


def test_numbers_are_not_names(tmp_path):
    make("ResNet", tmp_path)
    _edit(tmp_path, id2label={str(n): f"LABEL_{n}" for n in range(4)}, label2id=None)
    bundle = acclimate.wrap(f"hf:{tmp_path}", preprocessing=Preprocessing(32))
    assert bundle.classes == ("0", "1", "2", "3")


def test_without_transformers_a_sentence_says_what_to_install(tmp_path, monkeypatch):
    make("ResNet", tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(InputError, match=r"need transformers: pip install 'acclimate\[hf\]'"):
        build(f"hf:{tmp_path}", classes=None)
