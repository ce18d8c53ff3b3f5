import math

import pytest
import torch
from torch import nn
from torch.nn.functional import gelu, layer_norm, linear, unfold

from acclimate.backbones import Classifier, build, projected, split, tapped
from acclimate.bundle import Bundle
from acclimate.errors import InputError
from acclimate.preprocessing import Preprocessing


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = build("acclimate:vit2-w128-p4", classes=3).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def by_hand(model, images, patch=4, head_width=64):
    """Dosovitskiy et al. 2021, Eq. 1 to 4, without a class token and with a mean in Eq. 4."""
    own = {name.removeprefix("encoder."): value for name, value in model.state_dict().items()}

    def affine(name, x):
        return linear(x, own[f"{name}.weight"], own[f"{name}.bias"])

    def norm(name, x):
        return layer_norm(x, x.shape[-1:], own[f"{name}.weight"], own[f"{name}.bias"], eps=1e-6)

    patches = unfold(images, patch, stride=patch).mT
    embedding = own["patch_embed.proj.weight"].flatten(1)
    x = linear(patches, embedding, own["patch_embed.proj.bias"]) + own["pos_embed"]
    for block in ("blocks.0", "blocks.1"):
        y = norm(f"{block}.norm1", x)
        q, k, v = affine(f"{block}.attn.qkv", y).chunk(3, dim=-1)
        heads = []
        for at in range(0, x.shape[-1], head_width):
            part = slice(at, at + head_width)
            scores = q[..., part] @ k[..., part].mT / math.sqrt(head_width)
            heads.append(scores.softmax(-1) @ v[..., part])
        x = x + affine(f"{block}.attn.proj", torch.cat(heads, dim=-1))
        hidden = gelu(affine(f"{block}.mlp.fc1", norm(f"{block}.norm2", x)))
        x = x + affine(f"{block}.mlp.fc2", hidden)
    return affine("head", norm("fc_norm", x.mean(dim=1)))


def test_the_logits_are_those_worked_out_by_hand(model):
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model(images), by_hand(model, images), rtol=1e-4, atol=1e-4)


def test_any_multiple_of_the_patch_is_a_size(model):
    for height, width in ((16, 16), (32, 32), (36, 36), (64, 48)):
        images = torch.randn(2, 3, height, width)
        assert model(images).shape == (2, 3)
        (tokens,) = tapped(model.encoder, ["blocks.1"], images)
        assert tokens.shape == (2, height * width // 16, 128)


def test_it_is_a_classifier_with_as_many_blocks_and_channels_as_its_name_says():
    model = build("acclimate:vit6-w192-p4", classes=10)
    assert isinstance(model, Classifier)
    assert split(model) is model
    assert (model.feature_dim, model.num_classes) == (192, 10)
    assert len(model.encoder.blocks) == 6
    assert {block.attn.num_heads for block in model.encoder.blocks} == {3}
    assert model.encoder.patch_embed.proj.kernel_size == (4, 4)
    # 12 width² + 13 width a block; patches, 64 positions, the last norm and the head.
    expected = 6 * (12 * 192**2 + 13 * 192) + (48 + 1) * 192 + 64 * 192 + 2 * 192 + 193 * 10
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vit0-w192-p4", "1 to 64 blocks, not 0"),
        ("vit65-w192-p4", "1 to 64 blocks, not 65"),
        ("vit6-w0-p4", "multiple of 64 up to 2048, or of 8 below 64, not 0"),
        ("vit6-w60-p4", "or of 8 below 64, not 60"),
        ("vit6-w100-p4", "multiple of 64 up to 2048"),
        ("vit6-w4096-p4", "multiple of 64 up to 2048"),
        ("vit6-w192-p0", "1 to 64 pixels wide, not 0"),
        ("vit6-w192-p65", "1 to 64 pixels wide, not 65"),
        ("vit6", "did you mean acclimate:vit6-w192-p4"),
        ("vit6-w192-p4-bn", "did you mean acclimate:vit6-w192-p4"),
    ],
)
def test_names_that_cannot_be_built(name, message):
    with pytest.raises(InputError, match=message):
        build(f"acclimate:{name}", classes=3)


def test_a_bundle_of_it_comes_back_as_it_was(model, tmp_path):
    architecture = "acclimate:vit2-w128-p4"
    twin = projected(model)
    with torch.no_grad():
        nn.init.normal_(twin.encoder.projector.weight)
    preprocessing = Preprocessing(16, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    Bundle(
        classifier=model,
        twin=twin.eval(),
        preprocessing=preprocessing,
        classes=("ant", "bee", "cat"),
        architecture=architecture,
        twin_architecture=architecture,
    ).save(tmp_path / "bundle")
    loaded = Bundle.load(tmp_path / "bundle")
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(loaded.classifier(images), model(images))
    assert torch.equal(loaded.twin(images), twin(images))


@pytest.mark.parametrize("gpu", [False, True])
def test_attention_is_fused_where_there_is_a_gpu(gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    model = build("acclimate:vit2-w32-p4", classes=3)
    assert [block.attn.fused_attn for block in model.encoder.blocks] == [gpu, gpu]
