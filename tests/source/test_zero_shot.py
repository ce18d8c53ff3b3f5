"""Bundles of zero-shot classifiers: from open_clip, from transformers, from modules."""

import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import save_file
from toy_clip import TINY, WordMeans, clip_bundle

import acclimate
from acclimate.adapt import Adapter
from acclimate.backbones import projected
from acclimate.backbones.clip import build_clip
from acclimate.bundle import Bundle
from acclimate.errors import InputError
from acclimate.preprocessing import Preprocessing

NAMES = ["cat", "dog", "red panda"]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_clip(TINY).requires_grad_(False)


@pytest.fixture
def tiny(monkeypatch, model, tmp_path):
    """The path of a tiny model's weights, which open_clip knows by the name tiny."""
    monkeypatch.setattr("open_clip.list_models", lambda: ["tiny"])
    monkeypatch.setattr("open_clip.get_model_config", lambda name: TINY)
    path = tmp_path / "tiny.safetensors"
    save_file({n: t.contiguous() for n, t in model.state_dict().items()}, path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A CLIPModel as transformers saves it, and its path."""
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 96, "num_attention_heads": 2}
    text = sizes | {"num_hidden_layers": 2}
    config = CLIPConfig(
        text_config=text,
        vision_config=text | {"image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    clip = CLIPModel(config).eval()
    for name, parameter in clip.named_parameters():  # biases and norms begin as constants
        if name != "logit_scale":
            parameter.data += 0.1 * torch.randn_like(parameter)
    path = tmp_path_factory.mktemp("hf") / "clip"
    clip.save_pretrained(path)
    return clip, path


def test_a_bundle_by_name(tiny, model, tmp_path):
    bundle = acclimate.zero_shot("openclip:tiny", NAMES, weights=tiny)
    preprocessing = bundle.preprocessing
    assert (preprocessing.size, preprocessing.interpolation) == (16, "bicubic")
    assert preprocessing.mean[0] == pytest.approx(0.48145466)
    assert bundle.classifier.head.by_template.shape == (8, 3, 16)
    bundle.save(tmp_path / "bundle")
    loaded = Bundle.load(tmp_path / "bundle")
    images = torch.randint(256, (6, 3, 16, 16), dtype=torch.uint8)
    for method in ("source", "tent", "sar", "roid", "t3a", "tpt", "clipartt", "watt-s"):
        changes = {"objective": {"views": 20}} if method == "tpt" else {}
        ours, theirs = (
            Adapter(each, method, device="cpu", precision="fp32", **changes)(images)
            for each in (bundle, loaded)
        )
        assert torch.equal(ours, theirs) and ours.isfinite().all()


def test_a_model_of_transformers_has_the_same_logits(folder):
    clip, path = folder
    bundle = acclimate.zero_shot(f"hf-clip:{path}", NAMES, ["art of the {}"])
    images = torch.randn(4, 3, 32, 32)
    tokens = SimpleTokenizer()([f"art of the {name}" for name in NAMES])
    with torch.no_grad():
        expected = clip(input_ids=tokens, pixel_values=images).logits_per_image
        torch.testing.assert_close(bundle.classifier(images), expected, rtol=1e-4, atol=1e-4)


def modules(width=8):
    """An image encoder and a text encoder that reads three words, in float32."""
    image = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    )
    words = ["a", "photo", "of", "or", "the", "cat", "dog"]
    text = WordMeans(words, torch.randn(len(words), width)).float()
    preprocessing = Preprocessing(8, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    return image, {"text": text, "tokenize": text.tokenize, "preprocessing": preprocessing}


def test_a_bundle_of_any_two_modules(tmp_path):
    image, rest = modules()
    bundle = acclimate.zero_shot(image, ["cat", "dog"], ["a photo of a {}"], **rest)
    images = torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8)
    logits = Adapter(bundle, "tpt", objective={"views": 10}, device="cpu")(images)
    assert logits.isfinite().all()
    bundle.save(tmp_path / "bundle")
    model = acclimate.zero_shot(image, ["cat", "dog"], ["a photo of a {}"], **rest).classifier
    loaded = Bundle.load(tmp_path / "bundle", model=model)
    assert torch.equal(Adapter(loaded, "source")(images), Adapter(bundle, "source")(images))


@pytest.mark.parametrize(
    ("names", "templates", "message"),
    [
        ([], ["{}"], "give the names of at least 2"),
        (["cat"], ["{}"], "give the names of at least 2"),
        (["cat", " "], ["{}"], "none of them empty"),
        (["cat", "cat"], ["{}"], "'cat' names the outputs 0 and 1"),
        (["cat", "dog", "Cat"], ["{}"], "reads the class names 'cat' and 'Cat' alike"),
        (["cat", "red panda", "red  panda"], ["{}"], "reads the class names 'red panda' and"),
        (NAMES, [], "needs a template at least"),
        (NAMES, ["a photo"], r"must have \{\} once"),
        (NAMES, ["{}", "{}"], r"the template '\{\}' is there twice"),
        (["cat", "very " * 40], ["{}"], "longer than the 24 tokens"),
        (NAMES, ["very " * 40 + "{}"], "longer than the 24 tokens"),
    ],
)
def test_texts_that_cannot_be_meant(tiny, names, templates, message):
    with pytest.raises(InputError, match=message) as caught:
        acclimate.zero_shot("openclip:tiny", names, templates, weights=tiny)
    assert "\n" not in str(caught.value)


def test_templates_are_checked_before_weights_are_read(tmp_path):
    with pytest.raises(InputError, match=r"must have \{\} once"):
        acclimate.zero_shot("openclip:ViT-B-32", NAMES, ["a photo"], weights=tmp_path / "missing")


def test_weights_of_another_model(tiny, tmp_path):
    other = tmp_path / "other.safetensors"
    save_file({"layer.weight": torch.zeros(3, 3)}, other)
    with pytest.raises(InputError) as caught:
        acclimate.zero_shot("openclip:tiny", NAMES, weights=other)
    assert "\n" not in str(caught.value)


def test_a_folder_of_another_model(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(InputError, match="not a CLIPModel"):
        acclimate.zero_shot(f"hf-clip:{tmp_path}", NAMES)


def test_a_folder_whose_weights_are_of_another_configuration(folder, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(folder[1], copy)
    config = (copy / "config.json").read_text()
    config = config.replace('"num_hidden_layers": 2', '"num_hidden_layers": 3')
    (copy / "config.json").write_text(config)
    with pytest.raises(InputError, match=r"do not fit its config\.json") as caught:
        acclimate.zero_shot(f"hf-clip:{copy}", NAMES)
    assert "\n" not in str(caught.value)


def test_encoders_of_different_widths():
    image, rest = modules(width=5)
    with pytest.raises(InputError, match=r"features are \[8\] and the text encoder's \[5\]"):
        acclimate.zero_shot(image, ["cat", "dog"], ["a photo of a {}"], **rest)


def test_a_bundle_of_another_pair_of_encoders(tmp_path):
    image, rest = modules()
    acclimate.zero_shot(image, ["cat", "dog"], ["a photo of a {}"], **rest).save(tmp_path / "b")
    for other in (projected(clip_bundle(("cat", "dog")).classifier), torch.nn.Linear(3, 2)):
        with pytest.raises(InputError) as caught:
            Bundle.load(tmp_path / "b", model=other)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_an_image_encoder_needs_its_text_encoder():
    image, rest = modules()
    with pytest.raises(InputError, match="needs the text encoder"):
        acclimate.zero_shot(image, ["cat", "dog"], **rest | {"text": None})


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        ("watt-s", {}, "turns of 8 templates, and this classifier has 1"),
        ("clipartt", {"objective": {"top": 4}}, "the 4 most likely of 3 classes"),
    ],
)
def test_what_a_bundle_lacks_for_a_method(tiny, method, changes, message):
    bundle = acclimate.zero_shot("openclip:tiny", NAMES, ["a photo of a {}"], weights=tiny)
    with pytest.raises(InputError, match=message):
        Adapter(bundle, method, **changes)


def test_prompts_of_long_names_are_refused_by_clipartt_alone(tiny):
    names = ["cat", "a very, very, very small dog", "a very, very, very large bird"]
    bundle = acclimate.zero_shot("openclip:tiny", names, weights=tiny)
    assert Adapter(bundle, "source")
    with pytest.raises(InputError, match=r"takes up to 2\d tokens, and the text encoder reads 24"):
        Adapter(bundle, "clipartt")


@pytest.mark.parametrize("method", ["tpt", "clipartt", "watt-p", "watt-s"])
def test_other_classifiers_are_refused(bundle, method):
    with pytest.raises(InputError, match="make a bundle with acclimate zero-shot") as caught:
        Adapter(bundle, method)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", ["clipartt", "watt-s"])
def test_a_single_image_teaches_nothing(tiny, method):
    bundle = acclimate.zero_shot("openclip:tiny", NAMES, weights=tiny)
    images = torch.randint(256, (1, 3, 16, 16), dtype=torch.uint8)
    adapter, frozen = (Adapter(bundle, name, device="cpu") for name in (method, "source"))
    assert torch.equal(adapter(images), frozen(images))
    assert {step.reason for step in adapter.steps} == {"too few images for a step"}


@pytest.mark.slow
def test_the_layout_of_vit_b_32(tmp_path):
    """Random weights of the real sizes: the bundle is made, saved, loaded and adapted."""
    import open_clip

    torch.manual_seed(0)
    path = tmp_path / "clip.pt"
    torch.save(build_clip(open_clip.get_model_config("ViT-B-32")).state_dict(), path)
    bundle = acclimate.zero_shot("openclip:ViT-B-32", NAMES, weights=path)
    bundle.save(tmp_path / "bundle")
    del bundle
    loaded = Bundle.load(tmp_path / "bundle")
    assert sum(p.numel() for p in loaded.classifier.parameters()) == 151_277_312
    images = torch.randint(256, (4, 3, 224, 224), dtype=torch.uint8)
    adapter = Adapter(loaded, "clipartt", steps=2)
    assert adapter(images).isfinite().all()
    assert sum(tensor.numel() for tensor in adapter._learner.moving.values()) == 39_936
