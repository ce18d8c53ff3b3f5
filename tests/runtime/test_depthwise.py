"""Depthwise convolutions in bf16: gradients against float32."""

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d
from torch.overrides import _get_current_function_mode_stack

from acclimate.runtime.depthwise import depthwise_gradients, may_be_depthwise
from acclimate.runtime.precision import autocast

CPU = torch.device("cpu")


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(3, 1, 1), (5, 2, 1), (3, 1, 2)])
def test_gradients_are_float32_s(kernel, stride, dilation, bias):
    torch.manual_seed(0)
    x = torch.randn(5, 6, 200, 190).bfloat16().float()  # more than one part
    weight = torch.randn(6, 1, kernel, kernel).bfloat16().float()
    shift = torch.randn(6).bfloat16().float() if bias else None
    options = {"stride": stride, "padding": 2, "dilation": dilation, "groups": 6}
    leaves = [t.requires_grad_() for t in (x, weight, shift) if t is not None]
    plain = conv2d(x, weight, shift, **options)
    way = torch.randn_like(plain).bfloat16().float()
    expected = torch.autograd.grad(plain, leaves, way)
    with autocast(CPU, "bf16"):
        out = conv2d(x, weight, shift, **options)
    assert out.dtype == torch.bfloat16
    for found, wanted in zip(torch.autograd.grad(out, leaves, way.bfloat16()), expected):
        assert (found - wanted).norm() <= 2e-2 * wanted.norm()


def test_other_convolutions_and_precisions_are_left_alone(monkeypatch):
    def refuse(*given):
        raise AssertionError

    monkeypatch.setattr("acclimate.runtime.depthwise._Depthwise.apply", refuse)
    x = torch.rand(2, 8, 8, 8, requires_grad=True)
    with autocast(CPU, "bf16"):
        nn.Conv2d(8, 8, 3)(x)
        nn.Conv2d(8, 8, 3, groups=4)(x)
        with torch.no_grad():
            nn.Conv2d(8, 8, 3, groups=8)(x)
        with pytest.raises(AssertionError):
            nn.Conv2d(8, 8, 3, groups=8)(x)
    with autocast(CPU, "fp32"), depthwise_gradients():
        nn.Conv2d(8, 8, 3, groups=8)(x)


def test_nothing_is_looked_for_where_nothing_can_be():
    """The mode sees each operation, which takes time."""
    plain, depthwise = nn.Conv2d(8, 8, 3, groups=4), nn.Conv2d(8, 8, 3, groups=8)
    assert may_be_depthwise(None, nn.Sequential(plain, depthwise))
    assert not may_be_depthwise(None, plain, nn.Linear(8, 1))

    def modes(**options):
        with autocast(CPU, "bf16", **options):
            return len(_get_current_function_mode_stack())

    assert modes() == 1 and modes(depthwise=False) == 0
    with torch.no_grad():
        assert modes() == 0
