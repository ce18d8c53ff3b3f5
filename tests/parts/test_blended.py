"""Batch norm by a fixed blend: against the releases of MEMO and α-BN, and a plain formula."""

import pytest
import torch
from golden_values import assert_golden, golden
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from acclimate.backbones.batch_norm import Control
from acclimate.errors import InputError
from acclimate.parts.blended import BlendedStatistics
from acclimate.parts.normalisation import AdaptiveBatchNorm


def layer(share, mean, variance, weight, bias):
    """A batch norm with these tensors, by the blend, and its switch."""
    norm = nn.BatchNorm2d(len(mean)).to(mean.dtype).eval()
    for name, value in (("weight", weight), ("bias", bias)):
        getattr(norm, name).data = value.clone()
    norm.running_mean, norm.running_var = mean.clone(), variance.clone()
    control = Control()
    return AdaptiveBatchNorm(norm, control, BlendedStatistics(share)), control


def released(share):
    given = (golden(f"alphabn_{n}") for n in ("running_mean", "running_var", "weight", "bias"))
    return layer(share, *given)


@pytest.mark.parametrize("learning", [False, True])
def test_memo_s_norm_is_the_release_s(learning):
    norm, control = released(1 - float(golden("memo_bn_prior")))
    control.learning = learning
    x = golden("alphabn_x").requires_grad_()
    y = norm(x)
    y.backward(golden("memo_bn_cotangent"))
    assert_golden(y, "memo_bn_output_as_released")
    assert_golden(x.grad, "memo_bn_grad_x")


def test_its_default_is_memo_s_share():
    assert BlendedStatistics().share == pytest.approx(1 - float(golden("memo_bn_prior")))


def test_alpha_bn_is_the_release_s():
    norm, _ = released(float(golden("alphabn_alpha")))
    assert_golden(norm(golden("alphabn_x")), "alphabn_output_as_released")


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 3), st.floats(0, 1), st.integers(0, 99))
def test_it_is_the_formula(batch, channels, side, share, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, channels, side, side, generator=generator).double()
    mean, weight, bias = torch.randn(3, channels, generator=generator).double()
    variance = torch.rand(channels, generator=generator).double() + 0.5
    norm, _ = layer(share, mean, variance, weight, bias)
    found = norm(x)
    for channel in range(channels):
        values = x[:, channel].flatten()
        own = values.var() if len(values) > 1 else variance[channel]
        centre = (1 - share) * mean[channel] + share * values.mean()
        spread = (1 - share) * variance[channel] + share * own
        expected = (x[:, channel] - centre) / (spread + norm.eps).sqrt()
        expected = expected * weight[channel] + bias[channel]
        torch.testing.assert_close(found[:, channel], expected)


def test_the_source_s_statistics_stay():
    norm, control = released(0.5)
    control.learning = True
    before = norm.running_mean.clone(), norm.running_var.clone()
    norm(golden("alphabn_x"))
    assert torch.equal(norm.running_mean, before[0]) and torch.equal(norm.running_var, before[1])


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_what_is_no_share_is_refused(share):
    with pytest.raises(InputError, match="share must lie between 0 and 1"):
        BlendedStatistics(share).check()
