import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import conv2d

from acclimate.backbones.taps import tapped
from acclimate.errors import InputError
from acclimate.objectives.clustering import Clustering, cluster_entropies

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "losses.npz")


def draw(seed, *shape, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(shape, generator=generator, dtype=torch.float64)


def plain(logits):
    """Eq. 2 point by point, for logits [batch, clusters, positions]."""
    batch, clusters, positions = logits.shape
    conditional, mean = 0.0, torch.zeros(clusters, dtype=logits.dtype)
    for i in range(batch):
        for j in range(positions):
            weights = torch.exp(logits[i, :, j])
            z = weights / weights.sum()
            conditional = conditional - sum(z[k] * torch.log(z[k]) for k in range(clusters))
            mean = mean + z
    points = batch * positions
    mean = mean / points
    return -sum(m * torch.log(m) for m in mean), conditional / points


@pytest.mark.parametrize("layout", ["positions of one image", "images of one position"])
def test_golden_values(layout):
    logits = torch.from_numpy(GOLDEN["clust3_logits_K_by_M"])
    one_image = layout == "positions of one image"
    marginal, conditional = cluster_entropies(logits[None] if one_image else logits.T[..., None])
    expected = float(GOLDEN["clust3_marginal_entropy"])
    assert marginal.item() == pytest.approx(expected, rel=1e-5)
    expected = float(GOLDEN["clust3_conditional_entropy"])
    assert conditional.item() == pytest.approx(expected, rel=1e-5)
    expected = float(GOLDEN["clust3_mutual_information"])
    assert (marginal - conditional).item() == pytest.approx(expected, rel=1e-4)


def test_value_and_gradients_equal_the_loop_over_points(assert_same_with_gradients):
    logits = draw(1, 3, 4, 5).requires_grad_()
    for found, expected in zip(cluster_entropies(logits), plain(logits), strict=True):
        assert_same_with_gradients(found, expected, [logits])


def test_each_head_is_as_alone():
    logits = draw(2, 3, 2, 4, 5)
    found = torch.stack(cluster_entropies(logits))
    alone = [torch.stack(cluster_entropies(head)) for head in logits.unbind(1)]
    torch.testing.assert_close(found, torch.stack(alone, dim=1))


sizes = {
    "seed": st.integers(0, 2**31),
    "batch": st.integers(1, 5),
    "clusters": st.integers(2, 6),
    "positions": st.integers(1, 7),
    "scale": st.floats(0, 1e4),
}


@settings(deadline=None, max_examples=50)
@given(**sizes)
def test_information_lies_between_nothing_and_log_clusters(seed, batch, clusters, positions, scale):
    logits = draw(seed, batch, clusters, positions, scale=scale)
    marginal, conditional = cluster_entropies(logits)
    assert -1e-9 <= conditional <= marginal + 1e-9
    assert marginal <= math.log(clusters) + 1e-9


@settings(deadline=None, max_examples=30)
@given(**sizes)
def test_order_does_not_matter(seed, batch, clusters, positions, scale):
    logits = draw(seed, batch, clusters, positions, scale=scale)
    generator = torch.Generator().manual_seed(seed)
    other = logits
    for axis, size in enumerate(logits.shape):
        other = other.index_select(axis, torch.randperm(size, generator=generator))
    torch.testing.assert_close(cluster_entropies(other), cluster_entropies(logits))


def test_known_extremes():
    even = 1e3 * torch.eye(4).repeat(2, 1, 1)  # each cluster has two of eight points, for sure
    marginal, conditional = cluster_entropies(even)
    assert (marginal.item(), conditional.item()) == pytest.approx((math.log(4), 0))
    marginal, conditional = cluster_entropies(1e3 * torch.tensor([1.0, 0, 0]).view(1, 3, 1))
    assert (marginal.item(), conditional.item()) == pytest.approx((0, 0))


def test_empty_clusters_give_finite_gradients():
    logits = torch.zeros(2, 3, 4)
    logits[:, 0] = 1e5
    logits.requires_grad_()
    marginal, conditional = cluster_entropies(logits)
    (gradient,) = torch.autograd.grad(conditional - marginal, logits)
    assert gradient.isfinite().all()


def test_bf16_autocast_computes_in_float32():
    logits = draw(3, 8, 10, 16)
    with torch.autocast("cpu", torch.bfloat16):
        found = cluster_entropies(logits.bfloat16())
    expected = plain(logits.bfloat16().double())
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-6)


def test_loss_is_summed_over_projectors_and_taps(network, clean):
    model, preprocessing = network
    objective = Clustering(model, preprocessing, clusters=3, projectors=2)
    images = preprocessing(clean[:4])
    model.eval()
    expected = 0.0
    maps = tapped(model.encoder, objective.names, images)
    assert len(maps) == 2
    for layer, features in zip(objective.projectors, maps, strict=True):
        if features.ndim == 3:  # tokens
            features = features.transpose(1, 2)[..., None]
        for weight, bias in zip(layer.weight.split(3), layer.bias.split(3), strict=True):
            marginal, conditional = plain(conv2d(features, weight, bias).flatten(2).double())
            expected -= (marginal - conditional).item()
    assert objective(model, images).item() == pytest.approx(expected, rel=1e-4)


def test_learns_on_source_then_on_target(network, clean, shifted, learn):
    model, preprocessing = network
    objective = Clustering(model, preprocessing, clusters=4, projectors=2)
    parameters = [*model.parameters(), *objective.parameters()]
    losses = learn(objective, network, clean, parameters, on="source", steps=15, rate=1e-2)
    assert losses[-1] < losses[0] - 1

    model.eval()
    source = objective(model, preprocessing.normalize(clean))
    parameters = model.encoder.parameters()
    losses = learn(objective, network, shifted, parameters, on="target", steps=8, rate=1e-3)
    assert source < losses[0]  # the clusters tell less about what they were not made for
    assert losses[-1] < losses[0] - 0.05


def test_only_what_lies_before_the_last_tap_learns(bundle, images):
    model = copy.deepcopy(bundle.classifier).requires_grad_(True)
    objective = Clustering(model, bundle.preprocessing, taps=("stages.0", 2))
    objective(model, bundle.preprocessing(images[:4])).backward()
    for name, parameter in model.named_parameters():
        learns = name.startswith(("encoder.stem", "encoder.stages.0", "encoder.stages.1"))
        assert (parameter.grad is not None) == learns, name


def test_construction_leaves_the_model_alone(network):
    model, preprocessing = network
    before = copy.deepcopy(model.state_dict())
    Clustering(model, preprocessing)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize(
    "options, message",
    [
        ({"taps": ()}, "tap"),
        ({"clusters": 1}, "clusters"),
        ({"projectors": 0}, "projector"),
        ({"taps": (9,)}, "9"),
        ({"taps": ("stage",)}, "unknown layer 'stage'"),
    ],
)
def test_what_is_refused(bundle, options, message):
    with pytest.raises(InputError, match=message):
        Clustering(bundle.classifier, bundle.preprocessing, **options)
