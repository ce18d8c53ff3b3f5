import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from acclimate.backbones import build
from acclimate.backbones.siamese import siamese
from acclimate.errors import InputError
from acclimate.objectives.decoder import FeatureDecoder
from acclimate.objectives.reconstruction import (
    Reconstruction,
    cosine_distance,
    mutual_divergence,
    only_hard,
)
from acclimate.preprocessing import Preprocessing

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "losses.npz")
PREPROCESSING = Preprocessing(16)


@pytest.fixture
def model():
    torch.manual_seed(0)
    pair = siamese(build("acclimate:resnet8-w8", classes=4))
    with torch.no_grad():
        for parameter in pair.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return pair


def golden():
    encoded = [torch.from_numpy(GOLDEN[f"recttt_encoder_{i}"]) for i in range(3)]
    decoded = [torch.from_numpy(GOLDEN[f"recttt_decoder_{i}"]).requires_grad_() for i in range(3)]
    return encoded, decoded


@pytest.mark.parametrize("name, alpha", [("cosine", None), ("hard_mined_alpha1", 1.0)])
def test_golden_values_and_gradients(name, alpha):
    encoded, decoded = golden()
    compared = decoded
    if alpha is not None:
        compared = [only_hard(e, d, alpha) for e, d in zip(encoded, decoded)]
    loss = cosine_distance(encoded, compared)
    assert loss.item() == pytest.approx(float(GOLDEN[f"recttt_{name}"]), rel=1e-4)
    for i, found in enumerate(torch.autograd.grad(loss, decoded)):
        expected = torch.from_numpy(GOLDEN[f"recttt_{name}_grad_{i}"])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * expected.abs().max())


def test_targets_teach_nothing():
    target, found = (torch.randn(2, 3, 2, 2, requires_grad=True) for _ in range(2))
    loss = cosine_distance([target], [found])
    assert torch.autograd.grad(loss, [target, found], allow_unused=True)[0] is None


@pytest.mark.parametrize("alpha", [-3.0, 0.0, 0.5])
def test_hard_positions_equal_the_plain_loop(alpha):
    target, found = torch.randn(2, 4, 5, 3, 2, dtype=torch.float64).unbind(0)
    found.requires_grad_()
    distances = torch.zeros(4, 3, 2)
    for n, i, j in np.ndindex(4, 3, 2):
        a, b = target[n, :, i, j], found[n, :, i, j].detach()
        distances[n, i, j] = 1 - a @ b / (a.norm() * b.norm())
    hard = distances >= distances.mean() + alpha * distances.std()
    assert hard.all() if alpha == -3 else 0 < hard.sum() < 24
    (gradient,) = torch.autograd.grad(only_hard(target, found, alpha).sum(), found)
    assert torch.equal(gradient, hard[:, None].expand_as(gradient).double())


def test_mutual_divergence_equals_the_definition():
    first, second = torch.randn(2, 6, 4, dtype=torch.float64).requires_grad_().unbind(0)
    p, q = first.softmax(1), second.softmax(1)
    forward = (p.detach() * (p.detach().log() - q.log())).sum() / 6
    backward = (q.detach() * (q.detach().log() - p.log())).sum() / 6
    found = mutual_divergence(first, second)
    torch.testing.assert_close(found, forward + backward)
    torch.testing.assert_close(
        torch.autograd.grad(found, first, retain_graph=True),
        torch.autograd.grad(backward, first),
    )


def test_bf16_is_compared_in_float32():
    target = torch.randn(3, 8, 4, 4).bfloat16()
    found = (target + 0.05 * torch.randn(3, 8, 4, 4)).bfloat16()
    expected = cosine_distance([target.double()], [found.double()])
    with torch.autocast("cpu", torch.bfloat16):
        loss = cosine_distance([target], [found])
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), expected, rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    "shapes",
    [
        [(8, 16, 16), (16, 8, 8), (32, 4, 4)],
        [(8, 14, 14), (16, 7, 7), (32, 4, 4)],
        [(4, 20, 12), (6, 20, 12), (10, 5, 3)],
        [(12, 17, 1), (12, 17, 1), (12, 17, 1)],
    ],
)
def test_the_decoder_gives_back_every_shape(shapes):
    decoder = FeatureDecoder(shapes, blocks=1, origins=2)
    features = [torch.randn(4, *shape) for shape in shapes]
    decoded = decoder(features, origins=2)
    assert [f.shape for f in decoded] == [f.shape for f in features]
    sum(f.square().sum() for f in decoded).backward()
    assert all(parameter.grad is not None for parameter in decoder.parameters())


def test_stages_that_do_not_halve_are_refused():
    with pytest.raises(InputError, match="shrink by halves"):
        FeatureDecoder([(8, 9, 9), (8, 5, 5), (8, 4, 4)], blocks=1, origins=2)


def all_terms(objective, model, images):
    """The four distances as they are defined, one at a time."""
    mirror = images.flip(3)

    def stages(encoder, images):
        x, found = encoder.stem(images), []
        for stage in encoder.stages:
            x = stage(x)
            found.append(x)
        return found

    first, second = stages(model.encoder.first, images), stages(model.encoder.second, mirror)
    teacher, mirrored = stages(objective.teacher, images), stages(objective.teacher, mirror)
    origins = [first, second, teacher, mirrored]
    decoded = objective.decoder([torch.cat(stage) for stage in zip(*origins)], origins=4)
    decoded = zip(*(stage.chunk(4) for stage in decoded))
    return [cosine_distance(t, d) for t, d in zip([teacher, mirrored, first, second], decoded)]


def test_deployment_loss_has_the_gradients_of_all_four_terms(model):
    objective = Reconstruction(model, PREPROCESSING, blocks=1).eval()
    model.eval()
    images = torch.randn(4, 3, 16, 16)
    (views,) = objective.draw(images, 1, torch.arange(4))
    assert views is images
    loss = objective(model, views)
    terms = all_terms(objective, model, images)
    torch.testing.assert_close(loss, (terms[0] + terms[1]) / 4)
    parameters = [p for e in (model.encoder.first, model.encoder.second) for p in e.parameters()]
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    expected = torch.autograd.grad(sum(terms) / 4, parameters, allow_unused=True)
    assert sum(g is not None and bool(g.any()) for g in found) > len(parameters) / 2
    for ours, theirs in zip(found, expected):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)


def test_only_what_is_below_the_last_tap_moves(model):
    taps = ["stem", "stages.0", "stages.1"]
    objective = Reconstruction(model, PREPROCESSING, taps=taps, blocks=1).eval()
    objective(model, torch.randn(4, 3, 16, 16)).backward()
    for encoder in (model.encoder.first, model.encoder.second):
        assert all(p.grad is not None for p in encoder.stages[1].parameters())
        assert all(p.grad is None for p in encoder.stages[2].parameters())
    assert all(p.grad is None for p in model.head.parameters())


def test_source_loss_is_the_four_terms_and_the_mutual_divergence(model):
    objective = Reconstruction(model, PREPROCESSING, blocks=1).eval()
    model.eval()
    images = torch.randn(4, 3, 16, 16)
    (views,) = objective.source_draw(images, 3, torch.arange(4))
    assert views.shape == images.shape and not torch.equal(views, images)
    terms = all_terms(objective, model, images)
    expected = sum(terms) / 4 + mutual_divergence(*model.votes(images))
    torch.testing.assert_close(objective.source_loss(model, images), expected)
    expected.backward()
    model.zero_grad()
    objective.source_loss(model, images).backward()
    assert all(p.grad is not None for p in model.parameters())
    assert all(p.grad is not None for p in objective.decoder.parameters())


def test_mining_warms_up(model):
    objective = Reconstruction(model, PREPROCESSING, blocks=1, warm_up_steps=4).eval()
    model.eval()
    images = torch.randn(4, 3, 16, 16)

    def learned():
        """How much of the gradient of the decoder's last bias is left."""
        objective.zero_grad()
        objective.source_loss(model, images).backward()
        return objective.decoder.last[0][0].bias.grad.norm().item()

    norms = [learned() for _ in range(6)]
    # α is -3, -2, -1, 0 and then stays at 1: ever fewer positions teach.
    assert len(set(norms[:5])) == 5 and norms[4] < 0.9 * norms[0]
    assert norms[5] == pytest.approx(norms[4])
    assert objective.calls == 6 and "calls" in objective.state_dict()


def test_the_teacher_stays_as_it_was(model):
    objective = Reconstruction(model, PREPROCESSING, blocks=1)
    before = copy.deepcopy(objective.teacher.state_dict())
    torch.testing.assert_close(before, model.encoder.first.state_dict(), rtol=0, atol=0)
    objective.train()
    objective.requires_grad_(True)
    assert not list(objective.teacher.parameters())
    parameters = [*model.parameters(), *objective.parameters()]
    optimizer = torch.optim.AdamW(parameters, 0.1)
    for loss in (objective.source_loss, objective):
        optimizer.zero_grad()
        loss(model, torch.randn(4, 3, 16, 16)).backward()
        optimizer.step()
    torch.testing.assert_close(objective.teacher.state_dict(), before, rtol=0, atol=0)


def test_state_brings_the_teacher_back(model):
    objective = Reconstruction(model, PREPROCESSING, blocks=1).eval()
    images = torch.randn(4, 3, 16, 16)
    trained = copy.deepcopy(model).eval()
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter *= 1.1
    rebuilt = Reconstruction(trained, PREPROCESSING, blocks=1).eval()
    assert rebuilt(trained, images) != objective(trained, images)
    rebuilt.load_state_dict(objective.state_dict())
    torch.testing.assert_close(rebuilt(trained, images), objective(trained, images))


def test_what_is_refused(model):
    with pytest.raises(InputError, match="two encoders"):
        Reconstruction(build("acclimate:resnet8-w8", classes=4), PREPROCESSING)
    for options in ({"taps": (1, 2)}, {"warm_up_steps": 0}, {"blocks": 0}):
        with pytest.raises(InputError, match="three taps"):
            Reconstruction(model, PREPROCESSING, **options)


def test_it_learns_before_and_at_deployment(model, descend):
    objective = Reconstruction(model, PREPROCESSING, blocks=1, warm_up_steps=25)
    coarse = torch.randn(32, 3, 4, 4)
    images = nn.functional.interpolate(coarse, size=16, mode="bilinear")

    parameters = [*model.parameters(), *objective.parameters()]
    losses = descend(
        parameters, lambda step: objective.source_loss(model, images), steps=25, rate=3e-3
    )
    assert losses[-1] < 0.7 * losses[0]
    objective.eval()
    model.eval()
    clean = objective(model, images).item()
    noisy = images + 0.5 * torch.randn_like(images)
    parameters = model.encoder.parameters()
    losses = descend(parameters, lambda step: objective(model, noisy), steps=20, rate=1e-3)
    assert clean < losses[0] and losses[-1] < 0.9 * losses[0]
