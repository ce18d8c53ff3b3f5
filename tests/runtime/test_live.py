"""Bytes of live tensors, against counts by hand."""

import torch

from acclimate.runtime.live import LiveBytes, most_bytes


def test_what_is_freed_does_not_count():
    with LiveBytes() as live:
        first = torch.ones(1000)
        second = first * 2
        part = second[:10]
        assert live.now == 8000
        del second
        assert live.now == 8000  # a view keeps it
        del part
        assert live.now == 4000
    assert live.most == 8000


def test_what_was_there_before_does_not_count():
    weight = torch.ones(1000, requires_grad=True)
    with LiveBytes() as live:
        kept = (weight * weight).relu()
        assert live.now == 4000  # the product is not needed for the gradient
        kept.sum().backward()
        assert weight.grad is not None
    assert most_bytes(lambda: weight.detach().add_(1)) == 0
