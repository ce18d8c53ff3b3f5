"""FOA's fitness against its release, a plain loop, and networks with and without class token."""

import math

import pytest
import torch
from golden_values import assert_golden, golden
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from acclimate.backbones import Classifier
from acclimate.errors import InputError
from acclimate.objectives import Discrepancy, DiscrepancyOptions, discrepancy
from acclimate.objectives.discrepancy import Tokens
from acclimate.objectives.entropy import entropies
from acclimate.preprocessing import Preprocessing

LAYERS = range(3)
EXACT = Preprocessing(8, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def of_layers(features):
    """The golden file's features, side by side, as three layers of eight."""
    return features.split(8, dim=-1)


@pytest.fixture
def source():
    features = golden("foa_source_features")
    deviations, means = torch.std_mean(features, dim=0)
    assert_golden(means, "foa_source_mean")
    assert_golden(deviations, "foa_source_std")
    return of_layers(means), of_layers(deviations)


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_the_discrepancy_is_the_release_s(source, batch):
    weight, reference = golden("foa_settings")[:2]
    given = of_layers(golden("foa_features")[batch - 1])
    scale = weight * 16 / reference
    squared = discrepancy(given, *source, released=True)
    assert_golden(scale * squared, f"foa_discrepancy_{batch}_as_released")
    entropy = golden(f"foa_entropy_sum_{batch}")
    assert_golden(scale * squared + entropy, f"foa_fitness_{batch}_as_released")
    assert_golden(scale * discrepancy(given, *source) + entropy, f"foa_fitness_{batch}")


class Blocks(nn.Module):
    """Three blocks, after each of which the first token is a part of the golden features."""

    def __init__(self, features):
        super().__init__()
        self.embed = nn.Identity()
        self.blocks = nn.Sequential(*(Block(layer) for layer in of_layers(features)))

    def forward(self, images):
        tokens = images.flatten(1)[:, :16].view(len(images), 2, 8).double()
        return self.blocks(self.embed(tokens))[:, 0]


class Block(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.linear = nn.Linear(8, 8).double()  # for its weights: it is not called

    def forward(self, tokens):
        first = self.layer[: len(tokens), None]
        return torch.cat([first, 2 * tokens[:, 1:]], dim=1)


@pytest.mark.parametrize("released", [False, True])
def test_the_objective_is_the_release_s_fitness(source, released):
    """Of a network whose class token in each layer is the golden file's."""
    encoder = Blocks(golden("foa_features")[0])
    head = nn.Linear(8, 10).double()
    head.weight.data, head.bias.data = golden("foa_head_weight"), golden("foa_head_bias")
    model = Classifier(encoder, head).eval()
    moments = {f"mean.{layer}": source[0][layer] for layer in LAYERS}
    moments |= {f"std.{layer}": source[1][layer] for layer in LAYERS}
    weight = float(golden("foa_settings")[0])
    objective = Discrepancy(model, EXACT, moments=moments, weight=weight, released=released)
    assert objective.tokens.blocks == ["blocks.0", "blocks.1", "blocks.2"]
    assert objective.tokens.one_token
    with torch.no_grad():
        outcome = objective(model, torch.rand(16, 3, 8, 8))
    assert_golden(entropies(outcome.logits).sum(), "foa_entropy_sum_1")
    name = "foa_fitness_1_as_released" if released else "foa_fitness_1"
    assert_golden(outcome.losses.sum(), name)


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 5), st.lists(st.integers(1, 4), min_size=1, max_size=3), st.booleans())
def test_it_is_a_plain_sum(batch, widths, released):
    generator = torch.Generator().manual_seed(batch)
    given = [torch.randn(batch, width, generator=generator).double() for width in widths]
    means = [torch.randn(width, generator=generator).double() for width in widths]
    deviations = [torch.rand(width, generator=generator).double() for width in widths]
    expected = 0.0
    for layer, mean, deviation in zip(given, means, deviations):
        squares = [0.0, 0.0]
        for channel in range(layer.shape[1]):
            values = layer[:, channel].tolist()
            own = sum(values) / batch
            spread = math.sqrt(sum((x - own) ** 2 for x in values) / (batch - 1))
            squares[0] += (own - mean[channel].item()) ** 2
            squares[1] += (spread - deviation[channel].item()) ** 2
        expected += sum(squares) if released else sum(map(math.sqrt, squares))
    found = discrepancy(given, means, deviations, released=released)
    assert found.item() == pytest.approx(expected, rel=1e-9)


def test_the_source_s_own_images_are_at_no_distance(bundle_of, images):
    """All 40 images give the moments; the same 40 have them."""
    model = bundle_of("foa").classifier
    tokens = Tokens(model, bundle_of("foa").preprocessing.size)
    normalized = bundle_of("foa").preprocessing(images[:40])
    with torch.no_grad():
        activations = tokens.activations(model, normalized)
    deviations, means = zip(*(torch.std_mean(each, dim=0) for each in activations))
    assert discrepancy(activations, means, deviations).item() == 0
    assert torch.equal(activations[-1], model.encoder(normalized))
    others = [each + 0.1 for each in activations]
    assert discrepancy(others, means, deviations) > 0.1


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_a_weight_that_cannot_be_meant(weight):
    with pytest.raises(InputError, match="weight must be a finite number, 0 or more"):
        DiscrepancyOptions(weight).check()
