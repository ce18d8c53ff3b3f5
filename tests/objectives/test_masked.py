import math

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from acclimate.backbones import build, split
from acclimate.errors import InputError
from acclimate.objectives.masked import (
    MaskedReconstruction,
    encode_visible,
    masked_loss,
    patchify,
    sinusoids,
)
from acclimate.preprocessing import Preprocessing

PREPROCESSING = Preprocessing(16)
SMALL = {"decoder_width": 32, "decoder_depth": 1, "masks": 3}


def transformer(**options):
    torch.manual_seed(0)
    common = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2}
    network = VisionTransformer(**common, num_classes=4, **options)
    network.default_cfg = {"input_size": (3, 16, 16)}  # for `split`: not every one takes others
    return split(network).eval()


@pytest.fixture
def model():
    return transformer(dynamic_img_size=True)


def test_patches_equal_the_plain_loop():
    images = torch.arange(2 * 3 * 4 * 6).view(2, 3, 4, 6)
    found = patchify(images, (2, 3))
    assert found.shape == (2, 4, 18)
    for n, row, column, y, x, c in np.ndindex(2, 2, 2, 2, 3, 3):
        pixel = images[n, c, 2 * row + y, 3 * column + x]
        assert found[n, 2 * row + column, (3 * y + x) * 3 + c] == pixel


@pytest.mark.parametrize("normalise", [False, True])
def test_loss_equals_the_plain_loop(normalise):
    reconstructed, patches = (
        torch.randn(2, 3, 4, 12, dtype=torch.float64).requires_grad_().unbind(0)
    )
    patches = patches.detach() + 2
    total = 0
    for n, p in np.ndindex(3, 4):
        target = patches[n, p]
        if normalise:
            variance = ((target - target.mean()) ** 2).sum() / 11
            target = (target - target.mean()) / torch.sqrt(variance + 1e-6)
        total = total + ((reconstructed[n, p] - target) ** 2).sum() / 12
    found = masked_loss(reconstructed, patches, normalise=normalise)
    torch.testing.assert_close(found, total / 12)
    ours, theirs = (
        torch.autograd.grad(x, reconstructed, retain_graph=True)[0] for x in (found, total / 12)
    )
    torch.testing.assert_close(ours, theirs)


def test_flat_patches_and_bf16():
    patches = torch.ones(2, 3, 12)
    assert masked_loss(torch.zeros(2, 3, 12), patches, normalise=True) == 0
    reconstructed = torch.randn(2, 3, 12).bfloat16()
    expected = (reconstructed.double() - 1).square().mean()
    found = masked_loss(reconstructed, patches.bfloat16(), normalise=False)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0)


def test_positions_equal_the_definition():
    found = sinusoids(2, 3, 8)
    for row, column in np.ndindex(2, 3):
        expected = [
            f(place / 10_000 ** (i / 2))
            for place in (row, column)
            for f in (math.sin, math.cos)
            for i in range(2)
        ]
        torch.testing.assert_close(found[3 * row + column], torch.tensor(expected))


@pytest.mark.parametrize(
    "options",
    [
        {"dynamic_img_size": True},
        {},
        {"class_token": False, "global_pool": "avg"},
        {"reg_tokens": 2, "no_embed_class": True, "dynamic_img_size": True},
    ],
)
def test_all_patches_visible_is_the_plain_encoder(options):
    encoder = transformer(**options).encoder
    images = torch.randn(2, 3, 16, 16)
    everything = torch.arange(16).expand(2, 16)
    found = encode_visible(encoder, images, torch.arange(2)[:, None], everything)
    torch.testing.assert_close(found, encoder.fc_norm(encoder.forward_features(images)))


@pytest.mark.parametrize(
    "options", [{"dynamic_img_size": True}, {"class_token": False, "global_pool": "avg"}]
)
def test_loss_equals_one_mask_at_a_time(options):
    model = transformer(**options)
    encoder = model.encoder
    objective = MaskedReconstruction(model, PREPROCESSING, **SMALL).eval()
    images = torch.rand(2, 3, 16, 16)
    views, orders = objective.draw(images, 5, torch.arange(2))
    terms = []
    for n, m in np.ndindex(2, 3):
        shown, hidden = orders[n, m].tolist()[:4], orders[n, m].tolist()[4:]
        tokens = encoder._pos_embed(encoder.patch_embed(views[n : n + 1]))
        start = encoder.num_prefix_tokens
        visible = [tokens[:, :start], *(tokens[:, start + p : start + p + 1] for p in shown)]
        seen = encoder.fc_norm(encoder.norm(encoder.blocks(torch.cat(visible, 1))))
        tokens = objective.embed(seen)[0]
        canvas = [objective.mask_token] * 16
        for place, p in enumerate(shown):
            canvas[p] = tokens[start + place]
        canvas = torch.stack(canvas) + sinusoids(4, 4, 32)
        tokens = objective.blocks(torch.cat([tokens[:start], canvas])[None])[0]
        patches = patchify(views[n : n + 1], (4, 4))[0]
        for p in hidden:
            reconstructed = objective.paint(tokens[start + p])
            terms.append(
                masked_loss(reconstructed[None, None], patches[p][None, None], normalise=True)
            )
    expected = torch.stack(terms).mean()
    found = objective(model, views, orders)
    torch.testing.assert_close(found, expected)
    parameters = list(encoder.blocks.parameters())
    ours, theirs = (torch.autograd.grad(x, parameters) for x in (found, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-7)


def test_the_encoder_never_computes_what_is_hidden(model):
    objective = MaskedReconstruction(model, PREPROCESSING, **SMALL)
    views, orders = objective.draw(torch.rand(2, 3, 16, 16), 5, torch.arange(2))
    lengths = []
    model.encoder.blocks[0].register_forward_hook(
        lambda module, inputs, output: lengths.append(tuple(output.shape))
    )
    embedded = []
    model.encoder.patch_embed.register_forward_hook(
        lambda module, inputs, output: embedded.append(len(inputs[0]))
    )
    objective(model, views, orders)
    assert lengths == [(6, 1 + 4, 32)] and embedded == [2]


def test_masks_are_permutations_and_depend_on_key_and_image_alone(model):
    objective = MaskedReconstruction(model, PREPROCESSING, **SMALL)
    images = torch.rand(5, 3, 16, 16)
    views, orders = objective.draw(images, 5, torch.arange(5))
    assert views is images and orders.shape == (5, 3, 16)
    assert (orders.sort(dim=2).values == torch.arange(16)).all()
    assert len(orders.flatten(0, 1).unique(dim=0)) == 15
    _, some = objective.draw(images[3:], 5, torch.tensor([3, 4]))
    assert torch.equal(some, orders[3:])
    assert not torch.equal(objective.draw(images, 6, torch.arange(5))[1], orders)
    many = objective._orders(1, torch.arange(4000), 1)[:, 0, :4]
    share = many.flatten().bincount(minlength=16) / 4000
    assert (share - 0.25).abs().max() < 0.03  # 4 standard deviations


def test_before_deployment_one_mask_of_shifted_images(model):
    objective = MaskedReconstruction(model, PREPROCESSING, **SMALL)
    images = torch.rand(5, 3, 16, 16)
    views, orders = objective.source_draw(images, 5, torch.arange(5))
    assert views.shape == images.shape and not torch.equal(views, images)
    assert orders.shape == (5, 1, 16)
    assert objective.source_loss(model, views, orders).isfinite()


@pytest.mark.parametrize("masked, visible", [(0.75, 4), (0.5, 8), (0.9, 2)])
def test_share_that_is_hidden(model, masked, visible):
    objective = MaskedReconstruction(model, PREPROCESSING, masked=masked, **SMALL)
    assert objective.visible == visible


@pytest.mark.parametrize(
    "options, message",
    [
        ({"masked": 0.0}, "must hide at least 1 and not all of the 16"),
        ({"masked": 0.99}, "must hide at least 1 and not all of the 16"),
        ({"masks": 0}, "at least 1 mask"),
        ({"decoder_depth": 0}, "at least 1 block"),
        ({"decoder_width": 48}, "multiple of 32"),
        ({"decoder_width": 0}, "multiple of 32"),
    ],
)
def test_options_that_are_refused(model, options, message):
    with pytest.raises(InputError, match=message):
        MaskedReconstruction(model, PREPROCESSING, **SMALL | options)


def test_models_and_sizes_that_are_refused(model):
    with pytest.raises(InputError, match="timm's VisionTransformer, not Sequential"):
        MaskedReconstruction(build("acclimate:resnet8-w8", classes=4), PREPROCESSING)
    with pytest.raises(InputError, match="18 pixels is no multiple of the patch size"):
        MaskedReconstruction(model, Preprocessing(18))


def test_published_decoder(model):
    objective = MaskedReconstruction(model, PREPROCESSING)
    assert len(objective.blocks) == 8 + 1 and objective.embed.out_features == 512
    assert objective.masks == 128 and objective.visible == 4 and objective.normalise_pixels


def test_it_learns_before_and_at_deployment(model, descend):
    objective = MaskedReconstruction(model, PREPROCESSING, **SMALL)
    images = nn.functional.interpolate(torch.rand(64, 3, 3, 3), size=16, mode="bilinear")
    index = torch.arange(len(images))

    def loss(step):
        return objective(model, *objective.draw(images, step, index))

    with torch.no_grad():
        before = loss(1000)
    descend([*model.parameters(), *objective.parameters()], loss, steps=60, rate=3e-3)
    with torch.no_grad():
        after = loss(1000)
    assert after < 0.6 * before
    images = (images + 0.1 * torch.randn_like(images))[:4]
    index = index[:4]
    with torch.no_grad():
        before = loss(1000)
    descend(model.encoder.parameters(), loss, steps=20, rate=1e-3)
    with torch.no_grad():
        assert after < before and loss(1000) < 0.97 * before
