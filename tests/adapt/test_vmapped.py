import pytest
import torch
from dotted import dotted

from acclimate.adapt import Adapter
from acclimate.adapt import alone as module
from acclimate.adapt.alone import adapt_alone
from acclimate.adapt.learner import REFUSED
from acclimate.adapt.vmapped import _PlainBatchNorm, can_vmap, vmapped

CASES = [
    *(("ttt", {"momentum": 0.0}), ("ttt", {"momentum": 0.9}), ("ttt", {"update": "adam"})),
    *(("ttt-mae", {"momentum": 0.9}), ("memo", {"momentum": 0.0}), ("memo", {"momentum": 0.9})),
    ("tpt", {"objective.views": 20}),
]


def learner_of(bundle_of, name, **changes):
    given = {"precision": "fp32", "steps": 3, "learning_rate": 0.03} | changes
    return Adapter(bundle_of(name), name, **dotted(**given))._learner


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize(("name", "changes"), CASES)
def test_all_at_once_equals_one_after_another(bundle_of, images, monkeypatch, name, changes):
    monkeypatch.setattr(module, "together", lambda *_: False)
    learner = learner_of(bundle_of, name, **changes)
    unit, index = images[:5].float() / 255, torch.arange(7, 12)
    with torch.no_grad():
        logits, steps = adapt_alone([learner], unit, index, every=True)
        group, group_steps = vmapped(learner, unit, index, every=True)
    plain, group = torch.stack(logits), torch.stack(group)
    assert plain.shape == group.shape == (4, 5, 4)
    for step, other in zip(steps, group_steps, strict=True):
        for name in ("loss", "gradient_norm", "images", "finite"):
            torch.testing.assert_close(
                getattr(other, name), getattr(step, name), atol=1e-4, rtol=1e-3
            )
    assert (plain[3] - plain[0]).abs().max() > 1e-3  # the steps are visible
    torch.testing.assert_close(group, plain, atol=1e-4, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("name", ["ttt", "memo"])
def test_an_image_that_blows_up_harms_no_other(bundle_of, images, name):
    learner = learner_of(bundle_of, name)
    unit, index = images[:3].float() / 255, torch.arange(3)
    with torch.no_grad():
        (alone,), _ = vmapped(learner, unit[:2], index[:2])
        unit[2] = torch.nan
        (group,), _ = vmapped(learner, unit, index)
    torch.testing.assert_close(group[:2], alone, atol=1e-5, rtol=1e-5)
    assert learner.counts[REFUSED] == 3 + 1  # each step, and the answer


def test_only_what_it_can_do(bundle_of):
    assert can_vmap(learner_of(bundle_of, "ttt"))
    assert can_vmap(learner_of(bundle_of, "memo"))
    assert not can_vmap(learner_of(bundle_of, "memo", normalisation="batch"))
    assert can_vmap(learner_of(bundle_of, "ttt", update="adam"))
    assert can_vmap(learner_of(bundle_of, "tpt"))
    assert not can_vmap(learner_of(bundle_of, "ttt", update="sam"))
    assert not can_vmap(learner_of(bundle_of, "ttt", reset="never"))
    assert not can_vmap(learner_of(bundle_of, "clust3"))
    assert not can_vmap(Adapter(bundle_of("ttt"), "ttt", steps=0)._learner)


def test_not_by_the_statistics_of_the_input(bundle_of):
    learner = learner_of(bundle_of, "ttt")
    norm = next(m for m in learner.model.modules() if isinstance(m, torch.nn.BatchNorm2d))
    norm.running_mean = norm.running_var = None
    assert not can_vmap(learner)


@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_by_arithmetic(affine):
    norm = torch.nn.BatchNorm2d(3, affine=affine).eval()
    x = 5 * torch.randn(4, 3, 2, 2)
    for tensor in norm.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5)
    expected = norm(x)
    with _PlainBatchNorm():
        found = norm(x)
    assert not torch.equal(found, x)
    torch.testing.assert_close(found, expected)


def test_groups_shrink_where_memory_is_small(bundle_of, images, monkeypatch):
    learner, sizes = learner_of(bundle_of, "ttt"), []

    def small(learner, images, index, *, every):
        sizes.append(len(images))
        if len(images) > 3:
            raise torch.OutOfMemoryError
        return [images], []

    monkeypatch.setattr(module, "vmapped", small)
    unit = images[:10].float() / 255
    (logits,), _ = module._groups(learner, unit, torch.arange(10), every=False, size=64)
    assert sizes == [10, 10, 10, 8, 4, 2, 2, 2, 2, 2]
    assert torch.equal(logits, unit)
