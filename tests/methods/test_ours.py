"""Our own default in the adapter: settings, state, cost, and what it is safe against."""

import pytest
import torch
from dotted import dotted

from acclimate.adapt import Adapter, as_network
from acclimate.errors import InputError
from acclimate.methods import METHODS, check_settings
from acclimate.parts.class_balanced import ClassBalanced
from acclimate.parts.memory import Gathered

CPU = {"device": "cpu", "precision": "fp32"}


def adapter_of(bundle, **changes):
    return Adapter(bundle, "acclimate", **CPU, **dotted(**changes))


def test_it_learns_online_on_the_twin():
    row = METHODS["acclimate"]
    check_settings(row.settings)
    assert (row.model, row.recipe) == ("twin", "cta")
    assert not row.settings.reset.always
    assert row.settings.update.parameters == "norm"
    assert isinstance(row.settings.normalisation, ClassBalanced)
    assert isinstance(row.settings.memory, Gathered)


def test_a_trace_leaves_what_a_plain_call_leaves(bundle, images):
    """Images enter the statistics once, however many answers are traced."""
    plain, traced = (adapter_of(bundle, memory=Gathered(8)) for _ in range(2))
    for batch in images[:32].split(16):
        expected, found = plain(batch), traced.trace(batch)
        torch.testing.assert_close(found[-1], expected)
    for name, tensor in plain.snapshot().tensors.items():
        torch.testing.assert_close(traced.snapshot().tensors[name], tensor, msg=name)


def test_a_peek_changes_nothing(bundle, images):
    adapter = adapter_of(bundle)
    adapter(images[:16])
    before = adapter.snapshot().tensors
    first = adapter.peek(images[16:32])
    assert torch.equal(adapter.peek(images[16:32]), first)
    after = adapter.snapshot().tensors
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_the_network_of_its_own_needs_no_images(bundle, images):
    """What normalises is known: the statistics that are kept."""
    adapter = adapter_of(bundle, **{"answer.flip": False})
    adapter(images[:16])
    logits = adapter(images[16:32])
    network = as_network(adapter)
    with torch.no_grad():
        one = torch.cat([network(image[None]) for image in images[16:32].float() / 255])
    torch.testing.assert_close(one, logits, rtol=1e-4, atol=1e-4)
    assert adapter(images[32:48]).isfinite().all()  # and it still adapts


@pytest.mark.parametrize(("batch", "passes"), [(4, 5), (7, 5), (8, 6), (64, 6), (128, 6)])
def test_its_cost_hardly_depends_on_the_batch(bundle, batch, passes):
    """A step (two passes but the first layer's), the image two or three times, its mirror."""
    cost = adapter_of(bundle).cost(batch).forward_equivalents
    usual = adapter_of(bundle).cost(64).forward_equivalents
    assert passes - 0.2 < cost < passes
    assert cost == pytest.approx(usual + passes - 6, abs=0.01)
    never = adapter_of(bundle, **{"normalisation.again": 0}).cost(batch).forward_equivalents
    assert never == pytest.approx(cost + 5 - passes, abs=0.01)


def test_images_that_wait_go_on_waiting_after_an_error(bundle, images, monkeypatch):
    adapter, plain = (adapter_of(bundle, memory=Gathered(16)) for _ in range(2))
    for each in (adapter, plain):
        each(images[:10])

    def refuse(count):
        raise InputError("too large")

    with monkeypatch.context() as patch, pytest.raises(InputError, match="too large"):
        patch.setattr(adapter._learner.room, "step", refuse)
        adapter(images[10:20])
    assert torch.equal(adapter(images[10:20]), plain(images[10:20]))
    assert adapter.steps[0].taken and int(adapter.snapshot().tensors["memory.count"]) == 0


def test_a_network_without_batch_norm_is_spared_the_extra_pass(group_norm_bundle, images):
    adapter = adapter_of(group_norm_bundle, memory=Gathered(8))
    assert adapter.cost(8).forward_equivalents < 4
    assert not torch.equal(adapter(images[:16]), adapter(images[:16]))  # it learned


def test_single_images_are_answered_from_the_first(bundle, images):
    adapter = adapter_of(bundle, memory=Gathered(8))
    taken = 0
    for image in images[:24].split(1):
        assert adapter(image).isfinite().all()
        taken += int(adapter.steps[0].taken)
    assert taken == 3
    assert adapter.refused == 0


def test_an_answer_that_is_not_finite_takes_the_statistics_back(bundle, images):
    adapter = adapter_of(bundle, memory=Gathered(8))
    fresh = adapter_of(bundle, memory=Gathered(8), steps=0)
    adapter(images[:16])
    with torch.no_grad():
        next(iter(adapter._learner.moving.values())).fill_(torch.nan)
    spoilt = adapter(images[16:32])
    assert spoilt.isfinite().all()
    assert adapter.refused >= 1
    torch.testing.assert_close(spoilt, fresh(images[16:32]), rtol=1e-4, atol=1e-4)
