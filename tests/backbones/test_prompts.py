"""Prompts and block activations, against timm's own passes."""

import copy

import pytest
import timm
import torch
from torch import nn

from acclimate.backbones import block_names, build, split
from acclimate.backbones.prompts import (
    Prompted,
    add_prompts,
    block_activations,
    blocks_of,
    reads_one_token,
)
from acclimate.errors import InputError

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 2}
IMAGES = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def transformer(pooled):
    """timm's, with random norms, and its encoder as acclimate has it."""
    torch.manual_seed(0)
    given = {"class_token": False, "global_pool": "avg"} if pooled else {}
    network = timm.models.VisionTransformer(**SMALL, num_classes=4, **given).eval()
    for module in network.modules():
        if isinstance(module, nn.LayerNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    return network.requires_grad_(False), split(copy.deepcopy(network)).encoder


def with_prompts(network, images, prompts, pooled):
    """Features of timm's network with prompts after the class token, as FOA's release has them."""
    tokens = network._pos_embed(network.patch_embed(images))
    first = 0 if pooled else 1
    given = prompts.expand(len(images), -1, -1)
    tokens = torch.cat([tokens[:, :first], given, tokens[:, first:]], dim=1)
    activations, own = [], slice(len(prompts), None) if pooled else slice(1)
    for number, block in enumerate(network.blocks):
        tokens = block(tokens)
        if number + 1 < len(network.blocks):
            mean = tokens[:, own].mean(1)
            activations.append(network.blocks[number + 1].norm1(mean))
    tokens = network.norm(tokens)
    return [*activations, network.fc_norm(tokens[:, own].mean(1))]


@pytest.mark.parametrize("pooled", [False, True])
def test_prompts_are_tokens_beside_the_image_s(pooled):
    network, encoder = transformer(pooled)
    plain = encoder(IMAGES)
    blocks = blocks_of(encoder, 32)
    assert blocks == ["blocks.0", "blocks.1", "blocks.2"]
    assert reads_one_token(encoder, blocks[-1], IMAGES) == (not pooled)
    without = block_activations(encoder, blocks, IMAGES, one_token=not pooled)
    for found, expected in zip(
        without, with_prompts(network, IMAGES, torch.zeros(0, 24), pooled), strict=True
    ):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    prompts = add_prompts(encoder, blocks, 2, IMAGES)
    prompts.copy_(torch.randn(2, 24))
    found = block_activations(encoder, blocks, IMAGES, one_token=not pooled)
    expected = with_prompts(network, IMAGES, prompts, pooled)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(encoder(IMAGES), expected[-1], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(encoder(IMAGES), plain, atol=1e-3)


def test_names_stay_and_copies_have_prompts_of_their_own():
    _, encoder = transformer(pooled=False)
    add_prompts(encoder, block_names(encoder, 32), 2, IMAGES)
    assert isinstance(encoder.get_submodule("blocks.0"), Prompted)
    other = copy.deepcopy(encoder)
    other.get_submodule("blocks.0").prompts.copy_(torch.randn(2, 24))
    assert not torch.allclose(other(IMAGES), encoder(IMAGES), atol=1e-3)


@pytest.mark.parametrize("name", ["torchvision:vit_b_16", "timm:deit_tiny_distilled_patch16_224"])
@pytest.mark.slow
def test_transformers_of_others(name):
    encoder = split(build(name, classes=4)).eval().requires_grad_(False).encoder
    images = torch.rand(2, 3, 224, 224)
    plain = encoder(images)
    prompts = add_prompts(encoder, blocks_of(encoder, 224), 3, images)
    prompts.copy_(3 * torch.randn_like(prompts))
    assert encoder(images).shape == plain.shape
    assert not torch.allclose(encoder(images), plain, atol=1e-4)


def test_a_network_without_blocks_is_refused():
    encoder = split(build("acclimate:resnet8-w4", classes=4)).encoder
    assert block_names(encoder, 32) == []
    with pytest.raises(InputError, match="prompts are for vision transformers"):
        blocks_of(encoder, 32)


class Mixer(nn.Module):
    """A block that mixes a fixed number of tokens."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(16, 16)

    def forward(self, tokens):
        return tokens + self.mix(tokens.mT).mT


def test_blocks_of_a_fixed_number_of_tokens_are_refused():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Conv2d(3, 8, 8, 8)
            self.blocks = nn.Sequential(Mixer(), Mixer())

        def forward(self, images):
            return self.blocks(self.embed(images).flatten(2).mT).mean(1)

    encoder = Mixed().eval()
    with pytest.raises(InputError, match="take no tokens beside those of the image"):
        add_prompts(encoder, blocks_of(encoder, 32), 2, IMAGES)
