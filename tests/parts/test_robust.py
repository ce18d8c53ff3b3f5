"""RoTTA's and NOTE's batch norm against what the releases compute (`golden/online.npz`)."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from acclimate.backbones.batch_norm import Control
from acclimate.errors import InputError
from acclimate.parts.normalisation import AdaptiveBatchNorm, RunningStatistics
from acclimate.parts.robust import InstanceAware, RobustStatistics

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "online.npz")


def golden(name):
    return torch.from_numpy(np.asarray(GOLDEN[name])).double()


def close(found, name):
    torch.testing.assert_close(found, golden(name), rtol=1e-9, atol=1e-11)


def layer(policy, mean, variance, weight, bias):
    norm = nn.BatchNorm2d(3).double().eval()
    norm.load_state_dict(
        {"running_mean": mean, "running_var": variance, "weight": weight, "bias": bias},
        strict=False,
    )
    control = Control()
    return AdaptiveBatchNorm(norm, control, policy).eval(), control


def rotta():
    given = (golden(f"rotta_rbn_{n}") for n in ("source_mean", "source_var", "weight", "bias"))
    return layer(RobustStatistics(float(GOLDEN["rotta_rbn_alpha"])), *given)


def test_rotta_s_norm_is_the_release_s():
    norm, control = rotta()
    first, second = golden("rotta_rbn_x")
    control.learning = True
    first = first.clone().requires_grad_()
    for t, x in enumerate((first, second), 1):
        y = norm(x)
        close(y, f"rotta_rbn_train_output_{t}")
        close(norm.running_mean, f"rotta_rbn_mean_{t}")
        close(norm.running_var, f"rotta_rbn_var_{t}")
        if t == 1:
            y.backward(golden("rotta_rbn_cotangent"))
            close(first.grad, "rotta_rbn_grad_x")
    control.learning = False
    close(norm(first), "rotta_rbn_eval_output")


@pytest.mark.parametrize("shape", [(5, 3), (1, 3, 4, 4), (6, 3, 2, 5)])
def test_a_teacher_s_pass_is_that_with_gradients(shape):
    """Its statistics come from another kernel."""
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64)
    (norm, control), (other, of_other) = rotta(), rotta()
    control.learning = of_other.learning = True
    with torch.no_grad():
        found = other(x)
    torch.testing.assert_close(found, norm(x).detach())
    torch.testing.assert_close(other.running_mean, norm.running_mean)
    torch.testing.assert_close(other.running_var, norm.running_var)


def test_a_second_pass_leaves_robust_averages_alone():
    norm, control = rotta()
    control.learning = control.apart = True
    norm(golden("rotta_rbn_x")[0])
    close(norm.running_mean, "rotta_rbn_source_mean")


def note(width):
    given = (golden(f"note_iabn_{n}") for n in ("running_mean", "running_var", "weight", "bias"))
    return layer(InstanceAware(width=width), *given)


@pytest.mark.parametrize("width", [1, 4])
def test_note_s_norm_is_the_release_s(width):
    norm, control = note(float(width))
    x = golden("note_iabn_x")
    close(norm(x), f"note_iabn_eval_output_k{width}")
    control.learning = True
    close(norm(x), f"note_iabn_train_output_k{width}")
    close(norm.running_mean, "note_iabn_running_mean_after")
    close(norm.running_var, "note_iabn_running_var_after")


def test_note_s_norm_of_single_values_is_batch_norm():
    norm, control = note(4.0)
    x = golden("note_iabn_x")[:, :, :1, :1]
    plain, _ = layer(
        RunningStatistics(0.01), norm.running_mean, norm.running_var, norm.weight, norm.bias
    )
    assert torch.equal(norm(x), plain(x))
    control.learning = plain.control.learning = True
    assert torch.equal(norm(x), plain(x)) and torch.equal(norm.running_var, plain.running_var)


def test_note_s_norm_of_an_image_does_not_depend_on_the_others():
    norm, _ = note(1.0)
    x = golden("note_iabn_x")
    torch.testing.assert_close(norm(x[:1]), norm(x)[:1], rtol=1e-12, atol=0)


def test_a_width_without_bounds_is_batch_norm():
    norm, _ = note(1e9)
    x = golden("note_iabn_x")
    source = nn.functional.batch_norm(
        x, norm.running_mean, norm.running_var, norm.weight, norm.bias
    )
    torch.testing.assert_close(norm(x), source, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("policy", [RobustStatistics(), InstanceAware()])
def test_the_type_of_the_input_stays(policy, dtype):
    control = Control(learning=True)
    norm = AdaptiveBatchNorm(nn.BatchNorm2d(3).eval(), control, policy)
    x = golden("note_iabn_x").to(dtype)
    assert norm(x).dtype == dtype
    control.learning = False
    assert norm(x).dtype == dtype


def test_momentum_is_the_layer_s_own_unless_it_is_given():
    x = golden("note_iabn_x")
    for given, used in ((None, 0.1), (0.3, 0.3)):
        made = AdaptiveBatchNorm(
            nn.BatchNorm2d(3).double(), Control(learning=True), RunningStatistics(given)
        )
        made(x)
        torch.testing.assert_close(made.running_mean, used * x.mean((0, 2, 3)))


@pytest.mark.parametrize(("policy", "usual"), [(RobustStatistics, 0.05), (InstanceAware, 0.01)])
def test_a_momentum_that_is_not_given_is_the_layer_s_own(policy, usual):
    """As from `running` to `robust` by name; a cumulative average has none."""
    x = golden("note_iabn_x")
    for own, used in ((0.2, 0.2), (None, usual)):
        norm = AdaptiveBatchNorm(
            nn.BatchNorm2d(3, momentum=own).double(), Control(learning=True), policy(None)
        )
        norm(x)
        torch.testing.assert_close(norm.running_mean, used * x.mean((0, 2, 3)))


def test_settings_that_cannot_be_meant_are_refused():
    for policy in (RunningStatistics(2.0), RobustStatistics(-0.1), InstanceAware(3.0)):
        with pytest.raises(InputError, match="momentum must lie between 0 and 1"):
            policy.check()
    with pytest.raises(InputError, match="width must be a finite number"):
        InstanceAware(width=-1.0).check()
