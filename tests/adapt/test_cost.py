"""What adapting costs, against counts by hand."""

import pytest
import torch
from dotted import dotted
from fewer import few_steps
from rated import rated
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from toy_clip import clip_bundle

from acclimate.adapt import Adapter, cost
from acclimate.backbones import Classifier
from acclimate.bundle import Bundle
from acclimate.errors import InputError
from acclimate.methods import METHODS
from acclimate.preprocessing import Preprocessing

WITH_STEPS = [name for name, row in METHODS.items() if row.objective]


def fp32(bundle, name, **changes):
    return Adapter(bundle, name, precision="fp32", **dotted(**changes))


def layers(network, example=torch.rand(1, 3, 16, 16)):  # noqa: B008
    """Multiplications for one image of each convolution and linear layer, in order of use."""
    counts = []

    def count(module, inputs, output):
        positions = output[0, 0].numel() if isinstance(module, nn.Conv2d) else 1
        counts.append(positions * module.weight.numel())

    kinds = nn.Conv2d | nn.Linear
    hooks = [m.register_forward_hook(count) for m in network.modules() if isinstance(m, kinds)]
    with torch.no_grad():
        network(example)
    for hook in hooks:
        hook.remove()
    return counts


@pytest.mark.parametrize("name", ["source", "ptbn", "joint", "aligned", "aligned-bn"])
def test_a_plain_answer_is_one(bundle_of, name):
    cost = fp32(bundle_of(name), name).cost(4)
    assert cost.forward_equivalents == pytest.approx(1)
    assert cost.moving_parameters == cost.activation_bytes == 0


def test_two_encoders_cost_two(bundle_of):
    frozen = fp32(bundle_of("rec-ttt"), "source")
    assert frozen.cost(4).forward_equivalents == pytest.approx(2)


def test_tpt_s_texts_cost_in_proportion_to_the_classes():
    """A pass of the image encoder for each view and the answer; the rest is of all prompts."""
    texts = {}
    for classes in (4, 8):
        bundle = clip_bundle([f"class {number}" for number in range(classes)])
        few, many = (fp32(bundle, "tpt", objective={"views": views}).cost(1) for views in (10, 20))
        each = (many.forward_equivalents - few.forward_equivalents) / 10
        assert each == pytest.approx(1, rel=0.02)
        texts[classes] = few.forward_equivalents - 11
        assert few.moving_parameters == 4 * 16
    assert texts[8] == pytest.approx(2 * texts[4], rel=0.02)


def test_tent_by_hand(bundle_of):
    """A forward pass, gradients of all inputs but the first layer's and of no weights, an answer.

    The head is frozen: of it too only the gradient of its input is computed.
    """
    bundle = bundle_of("tent")
    first, *others = layers(bundle.classifier)
    expected = 2 + sum(others) / (first + sum(others))
    cost = fp32(bundle, "tent").cost(4)
    assert cost.forward_equivalents == pytest.approx(expected)
    norms = [m for m in bundle.classifier.modules() if isinstance(m, nn.BatchNorm2d)]
    assert cost.moving_parameters == sum(2 * norm.num_features for norm in norms)


def test_cta_by_hand(bundle_of):
    """Two views a step forward, backward to weights and inputs, and the cosines; then an answer."""
    bundle, batch = bundle_of("cta"), 12
    twin = bundle.twin
    first, *others, head = layers(twin)
    forward = first + sum(others)
    # Of a batch: 2 batch anchors against 2 batch views; backward to both of them.
    cosines = 3 * (2 * batch) ** 2 * twin.feature_dim / batch
    per_step = 2 * (forward + first + 2 * sum(others)) + cosines
    for steps in (1, 3):
        expected = (steps * per_step + forward + head) / (forward + head)
        cost = fp32(bundle, "cta", steps=steps).cost(batch)
        assert cost.forward_equivalents == pytest.approx(expected)
    moving = sum(parameter.numel() for parameter in twin.encoder.parameters())
    assert cost.moving_parameters == moving


def test_ttt_by_hand(bundle_of):
    """Each step's copies go up to the tap and through the branch, not through the rest."""
    bundle = bundle_of("ttt")
    encoder, branch = bundle.classifier.encoder, bundle.objective.branch
    whole = sum(layers(bundle.classifier))
    stage = int(bundle.objective.tap.split(".")[-1])
    below = nn.Sequential(encoder.stem, *encoder.stages[: stage + 1])
    first, *others = layers(below)
    others += layers(branch, below.eval()(torch.rand(1, 3, 16, 16)))
    per_copy = 2 * first + 3 * sum(others)
    steps, copies = 2, bundle.objective.copies
    cost = fp32(bundle, "ttt", steps=steps).cost(128)
    assert cost.forward_equivalents == pytest.approx(1 + steps * copies * per_copy / whole)
    moving = [*below.parameters(), *branch.parameters()]
    assert cost.moving_parameters == sum(parameter.numel() for parameter in moving)


def test_ttt_mae_by_hand(bundle_of):
    """Attention counts too; its backward pass is 4 products to the forward pass's 2, fused 5."""
    bundle = bundle_of("ttt-mae")
    encoder, objective = bundle.classifier.encoder, bundle.objective
    back = 2.5 if encoder.blocks[0].attn.fused_attn else 2

    def blocks(depth, width, tokens, backward):
        linear, attention = 12 * width**2 * tokens, 2 * tokens**2 * width
        return depth * (linear * (1 + backward) + attention * (back * (backward > 0) + 1))

    patches, width, depth = 16, encoder.embed_dim, len(encoder.blocks)
    assert encoder.num_prefix_tokens == 0
    embed, head = patches * 48 * width, width * bundle.classifier.num_classes
    forward = embed + blocks(depth, width, patches, backward=0) + head
    visible, hidden = objective.visible, patches - objective.visible
    decoder = objective.embed.out_features
    per_mask = (  # the encoder's weights move, the decoder's do not
        blocks(depth, width, visible, backward=2)
        + 2 * visible * width * decoder
        + blocks(bundle.options["decoder_depth"], decoder, patches, backward=1)
        + 2 * hidden * decoder * 48
    )
    expected = 1 + 2 * (2 * embed + objective.masks * per_mask) / forward
    cost = fp32(bundle, "ttt-mae", steps=2).cost()
    assert cost.forward_equivalents == pytest.approx(expected)


@pytest.mark.parametrize("name", ["clust3", "nc-ttt"])
def test_what_comes_after_the_tap_costs_nothing(bundle_of, name):
    """Forward and backward through the whole network would be more than 3 passes a step."""
    bundle = bundle_of(name)
    one, three = (fp32(bundle, name, steps=steps).cost(8) for steps in (1, 3))
    per_step = (three.forward_equivalents - one.forward_equivalents) / 2
    assert one.forward_equivalents == pytest.approx(1 + per_step)
    assert per_step < 3


def test_too_few_images_are_learned_from_with_earlier_ones(bundle_of):
    """So that each pays for eight."""
    bundle = bundle_of("cta")
    one, eight = (fp32(bundle, "cta").cost(batch) for batch in (1, 8))
    assert one.forward_equivalents == pytest.approx(8 * eight.forward_equivalents)
    with pytest.raises(InputError, match="at least 1 image"):
        fp32(bundle, "cta").cost(0)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(8, 12, 3, padding=1),
        nn.Conv2d(8, 12, 3, stride=2, groups=4),
        nn.Conv2d(8, 8, 5, groups=8),
        nn.Conv2d(8, 16, 3, dilation=2, groups=8),
        nn.ConvTranspose2d(8, 12, 3),
        nn.ConvTranspose2d(8, 12, 3, stride=2, groups=4),
        nn.ConvTranspose2d(8, 8, 3, groups=8),
    ],
    ids=str,
)
def test_convolutions_by_hand_whatever_their_groups(layer):
    """Each weight meets each position of the output, or of a transposed convolution's input."""
    images = torch.rand(2, 8, 9, 9, requires_grad=True)
    with cost._flops() as forward:
        made = layer(images)
    with cost._flops() as backward:
        made.sum().backward()
    positions = (images if isinstance(layer, nn.ConvTranspose2d) else made)[0, 0].numel()
    expected = 2 * len(images) * positions * layer.weight.numel()
    assert forward.get_total_flops() == expected
    assert backward.get_total_flops() == 2 * expected
    with FlopCounterMode(display=False) as torchs:
        layer(images).sum().backward()
    assert (torchs.get_total_flops() == 3 * expected) == (layer.groups == 1)
    with cost._flops() as weights_alone:
        layer(images.detach()).sum().backward()
    assert weights_alone.get_total_flops() == 2 * expected


class Depthwise(nn.Module):
    """A convolution for each channel, and one that mixes them, as in a MobileNet."""

    def __init__(self):
        super().__init__()
        self.stem, self.each = nn.Conv2d(3, 64, 1), nn.Conv2d(64, 64, 3, padding=1, groups=64)
        self.mix, self.norm = nn.Conv2d(64, 64, 1), nn.BatchNorm2d(64)

    def forward(self, images):
        return self.norm(self.mix(self.each(self.stem(images)))).mean((2, 3))


def test_a_depthwise_network_costs_about_three_passes_a_step():
    classifier = Classifier(Depthwise(), nn.Linear(64, 7))
    bundle = Bundle(classifier, None, Preprocessing(16), tuple("abcdefg"), method="tent")
    counted = fp32(bundle, "tent", parameters="all").cost(4)
    assert 3 < counted.forward_equivalents < 4  # by torch's own counter more than 10


class Plain(nn.Module):
    """A convolution and a batch norm."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)

    def forward(self, images):
        return self.norm(self.conv(images)).mean((2, 3))


@pytest.mark.parametrize("batch", [4, 12])
def test_kept_activations_by_hand(batch):
    """Of TENT: batch norm's input and the statistics, then log p, and p of the entropy."""
    classifier = Classifier(Plain(), nn.Linear(5, 7))
    bundle = Bundle(classifier, None, Preprocessing(16), tuple("abcdefg"), method="tent")
    numbers = batch * 5 * 14 * 14 + 2 * 5 + 2 * batch * 7
    assert fp32(bundle, "tent", steps=2).cost(batch).activation_bytes == 4 * numbers


def test_tipi_keeps_one_pass_at_a_time(bundle_of):
    """It makes three, and frees the first two before the last: like TENT's one."""
    tent, tipi = (
        fp32(bundle_of("tent"), name).cost(8).activation_bytes for name in ("tent", "tipi")
    )
    assert tent <= tipi < 1.2 * tent


def test_what_is_held_by_hand(bundle_of):
    """What moves three times, in Adam: as it was, and two averages; recent images; counters."""
    bundle = bundle_of("cta")
    held = fp32(bundle, "cta").cost(8).held_bytes
    moving = sum(4 * p.numel() for p in bundle.twin.encoder.parameters())
    tensors = len(list(bundle.twin.encoder.parameters()))
    recent = 8 * (4 * 3 * 16 * 16 + 8) + 8  # images, each one's index, and their number
    counters = 4 * 8  # steps taken, skipped, refused; images seen
    assert held == 3 * moving + 4 * tensors + recent + counters


@pytest.mark.parametrize("forget", [pytest.param("batch", marks=pytest.mark.slow), "never"])
@pytest.mark.parametrize("name", WITH_STEPS)
def test_measuring_leaves_the_adapter_as_it_was(bundle_of, images, name, forget):
    def answers(measured):
        changes = few_steps(name, 2) | {"reset": forget} | rated(name, 3e-3)
        adapter = fp32(bundle_of(name), name, **changes)
        found = []
        for batch in (images[:9], images[9:12]):
            found.append(adapter(batch))
            if measured:
                adapter.cost(10)
        return torch.cat(found), adapter.refused

    (plain, refused), (found, also_refused) = answers(False), answers(True)
    assert torch.equal(found, plain)
    assert refused == also_refused == 0
