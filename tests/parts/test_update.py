from collections import OrderedDict

import pytest
import torch
from torch import nn

from acclimate.backbones.batch_norm import batch_norms
from acclimate.errors import InputError
from acclimate.parts.update import SAM, SGD, Adam, AdamW, select_parameters


@pytest.fixture
def encoder():
    return nn.Sequential(
        OrderedDict(
            first=nn.Conv2d(3, 4, 3),
            batch=nn.BatchNorm2d(4),
            group=nn.GroupNorm(2, 4),
            instance=nn.InstanceNorm2d(4, affine=True),
            deep=nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)),
            flat=nn.Flatten(),
            layer=nn.LayerNorm(4),
        )
    )


def moving(encoder):
    return {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}


NORMS = {"batch", "group", "instance", "deep.1", "layer"}


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        ("all", {"first", "deep.0"} | NORMS),
        ("norm", NORMS),
        (r"^deep\.", {"deep.0", "deep.1"}),
        ("atch|first", {"batch", "first"}),
    ],
)
def test_parameters_by_name(encoder, which, expected):
    encoder.requires_grad_(False)
    chosen = select_parameters(encoder, which)
    names = {f"{name}.{kind}" for name in expected for kind in ("weight", "bias")}
    assert moving(encoder) == names
    assert {name: id(p) for name, p in chosen.items()} == {
        name: id(p) for name, p in encoder.named_parameters() if p.requires_grad
    }


def test_nothing_of_the_encoder_may_move(encoder):
    assert select_parameters(encoder, "none") == {}
    assert moving(encoder) == set()


def test_adam_with_weight_decay_by_hand():
    """The first step is the rate along the gradient's sign, after the weights have shrunk."""
    weights = torch.tensor([2.0, -4.0], dtype=torch.float64, requires_grad=True)
    optimizer = AdamW(0.1, weight_decay=0.5).build([weights])
    weights.grad = torch.tensor([3.0, -0.2], dtype=torch.float64)
    optimizer.step()
    expected = torch.tensor([2.0, -4.0], dtype=torch.float64) * (1 - 0.1 * 0.5)
    expected -= 0.1 * torch.tensor([1.0, -1.0], dtype=torch.float64)
    torch.testing.assert_close(weights.detach(), expected, rtol=1e-6, atol=1e-6)
    with pytest.raises(InputError, match="weight_decay"):
        AdamW(0.1, weight_decay=-1.0).check()


def test_a_norm_on_its_own():
    assert len(select_parameters(nn.BatchNorm2d(3), "norm")) == 2


@pytest.mark.parametrize("which", ["", "weight"])
def test_an_empty_pattern_is_found_everywhere(encoder, which):
    assert len(select_parameters(encoder, which)) == (14 if which == "" else 7)


@pytest.mark.parametrize(("which", "reason"), [("no such", "matches"), ("*", "regular expression")])
def test_patterns_that_select_nothing_are_refused(encoder, which, reason):
    encoder.requires_grad_(False)
    with pytest.raises(InputError, match=reason):
        select_parameters(encoder, which)
    assert moving(encoder) == set()


def test_norm_without_norms_is_refused():
    with pytest.raises(InputError, match="'norm'"):
        select_parameters(nn.Linear(2, 2), "norm")


def test_batch_norms_are_those_with_running_statistics(encoder):
    assert [id(norm) for norm in batch_norms(encoder)] == [id(encoder.batch)]


def quadratic(parameters, centre):
    """½ Σ k (θ − c)², so that the gradient is k (θ − c), k the number of the parameter."""
    return sum(((p - centre) ** 2 * k).sum() / 2 for k, p in enumerate(parameters, 1))


def closure_of(optimizer, parameters, found_inf=0.0):
    """A closure, and the points at which it was called."""
    points = []

    def closure():
        optimizer.zero_grad()
        loss = quadratic(parameters, 1.0)
        loss.backward()
        points.append([p.detach().clone() for p in parameters])
        optimizer.found_inf = torch.tensor(found_inf)
        return loss.detach()

    return closure, points


def pair():
    return [nn.Parameter(torch.tensor([3.0, -2.0])), nn.Parameter(torch.tensor([[0.5]]))]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sam_is_sgd_by_the_gradient_at_the_worst_point(momentum):
    """Against the formula written out with numbers: θ − η ∇L(θ + ρ g/‖g‖)."""
    parameters, rate, radius = pair(), 0.1, 0.05
    optimizer = SAM(rate, momentum=momentum, radius=radius).build(parameters)
    plain = [p.detach().double().clone() for p in parameters]
    velocity = [torch.zeros_like(p) for p in plain]
    for _ in range(3):
        closure, points = closure_of(optimizer, parameters)
        optimizer.step(closure)
        assert len(points) == 2
        gradient = [k * (p - 1) for k, p in enumerate(plain, 1)]
        length = sum((g**2).sum() for g in gradient).sqrt()
        worst = [p + radius * g / length for p, g in zip(plain, gradient)]
        for k, point in enumerate(worst):
            torch.testing.assert_close(points[1][k].double(), point, atol=1e-5, rtol=1e-5)
            velocity[k] = momentum * velocity[k] + (k + 1) * (point - 1)
            plain[k] = plain[k] - rate * velocity[k]
        for own, expected in zip(parameters, plain):
            torch.testing.assert_close(own.detach().double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("update", [Adam(0.1), SGD(0.1, momentum=0.9), SAM(0.1, momentum=0.9)])
def test_a_step_that_is_refused_moves_nothing_at_all(update):
    parameters = pair()
    optimizer = update.build(parameters)
    optimizer.step(closure_of(optimizer, parameters)[0])

    def tensors():
        state = [v for s in optimizer.state.values() for v in s.values() if v is not None]
        return [t.detach().clone() for t in (*parameters, *state)]

    before = tensors()
    optimizer.step(closure_of(optimizer, parameters, found_inf=1.0)[0])
    assert all(torch.equal(x, y) for x, y in zip(tensors(), before, strict=True))
    optimizer.step(closure_of(optimizer, parameters)[0])
    assert not any(torch.equal(x, y) for x, y in zip(parameters, before))


def test_sam_survives_a_gradient_that_is_not_finite():
    parameter = nn.Parameter(torch.ones(2))
    optimizer = SAM(0.1).build([parameter])

    def closure():
        optimizer.zero_grad()
        parameter.grad = torch.tensor([float("inf"), 1.0])
        optimizer.found_inf = torch.tensor(1.0)
        assert parameter.isfinite().all()
        return torch.tensor(1.0)

    optimizer.step(closure)
    assert parameter.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: Adam(-1.0), "learning_rate"),
        (lambda: SGD(float("nan")), "learning_rate"),
        (lambda: SGD(0.1, momentum=1.5), "momentum"),
        (lambda: SAM(0.1, radius=-0.1), "radius"),
    ],
)
def test_impossible_settings_are_refused(make, name):
    with pytest.raises(InputError, match=name):
        make().check()
