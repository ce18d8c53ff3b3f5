import math

import pytest
import torch
from golden_values import assert_golden, golden
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from acclimate.backbones import Classifier
from acclimate.errors import InputError
from acclimate.objectives.likelihood_ratio import (
    LikelihoodRatio,
    LikelihoodRatioOptions,
    soft_likelihood_ratios,
    symmetric_cross_entropies,
)
from acclimate.parts.diverse import CertainAndDiverse
from acclimate.parts.selection import weighted_mean
from acclimate.preprocessing import Preprocessing
from acclimate.randomness import key

PLAIN = Preprocessing(8, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
LOGITS = st.lists(st.lists(st.floats(-300, 300), min_size=3, max_size=3), min_size=1, max_size=6)


def slow_ratio(row, clip=0.99):
    total = sum(math.exp(z - max(row)) for z in row)
    found = 0.0
    for z in row:
        q = min(math.exp(z - max(row)) / total, clip)
        found -= q * math.log(q / (1 - q) + 1e-5)
    return found


def slow_symmetric(first, second):
    logs = []
    for row in (first, second):
        normaliser = max(row) + math.log(sum(math.exp(z - max(row)) for z in row))
        logs.append([z - normaliser for z in row])
    return -0.5 * sum(math.exp(a) * b + math.exp(b) * a for a, b in zip(*logs))


def test_the_losses_are_the_release_s():
    assert_golden(soft_likelihood_ratios(golden("losses_x")), "slr_loss")
    sce = symmetric_cross_entropies(golden("losses_x"), golden("losses_teacher"))
    assert_golden(sce, "sce_loss")
    for t in (1, 2):
        assert_golden(soft_likelihood_ratios(golden(f"roid_logits_{t}")), f"roid_slr_{t}")
    z = golden("roid_logits_1").requires_grad_()
    soft_likelihood_ratios(z).sum().backward()
    assert_golden(z.grad, "roid_slr_grad_1")


class TwoPasses(nn.Module):
    """A classifier whose two passes give logits that were stored."""

    def __init__(self, *logits):
        super().__init__()
        self.logits = list(logits)

    def forward(self, views):
        return self.logits.pop(0)


def test_roid_s_weighted_loss_is_the_release_s():
    objective, selection = LikelihoodRatio(None, PLAIN), CertainAndDiverse().build(10, "cpu")
    for t in (1, 2):
        z, augmented = (
            golden(f"roid_{name}_{t}").requires_grad_() for name in ("logits", "augmented_logits")
        )
        model = Classifier(TwoPasses(z, augmented), nn.Identity())
        outcome = objective(model, torch.zeros(2 * len(z), 3, 8, 8))
        with torch.no_grad():
            weights = selection(outcome)
        excluded = golden(f"roid_excluded_mask_{t}")
        assert torch.equal(weights == 0, excluded)
        share = (~excluded).double().mean()
        assert_golden(weights / share, f"roid_weight_{t}")
        assert_golden(selection.mean, f"roid_mean_probabilities_{t}")
        ratios = soft_likelihood_ratios(z)
        assert_golden(weighted_mean(ratios, weights), f"roid_slr_loss_{t}")
        rest = weighted_mean(outcome.losses - ratios, weights)
        assert_golden(rest, f"roid_consistency_loss_{t}")
        loss = weighted_mean(outcome.losses, weights)
        assert_golden(loss, f"roid_loss_{t}")
        loss.backward()
        assert_golden(z.grad, f"roid_loss_grad_logits_{t}")
        assert_golden(augmented.grad, f"roid_loss_grad_augmented_logits_{t}")


@settings(deadline=None, max_examples=40)
@given(LOGITS)
def test_they_are_the_plain_loops_and_finite(rows):
    z = torch.tensor(rows, dtype=torch.float64, requires_grad=True)
    other = z.detach().flip(1)
    ratios, both = soft_likelihood_ratios(z), symmetric_cross_entropies(z, other)
    for row, mirrored, ratio, symmetric in zip(rows, other.tolist(), ratios, both):
        assert ratio.item() == pytest.approx(slow_ratio(row), rel=1e-6, abs=1e-9)
        assert symmetric.item() == pytest.approx(slow_symmetric(row, mirrored), rel=1e-6, abs=1e-9)
    (ratios.sum() + both.sum()).backward()
    assert z.grad.isfinite().all()


def test_half_precision_is_computed_in_float32():
    z = torch.tensor([[9.0, 0.0, -3.0]])
    found = soft_likelihood_ratios(z.bfloat16())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, soft_likelihood_ratios(z))


def test_a_certain_entry_has_no_gradient_and_the_others_keep_theirs():
    z = torch.tensor([[20.0, 0.0, 1.0]], dtype=torch.float64, requires_grad=True)
    soft_likelihood_ratios(z).sum().backward()
    certain = z.grad.abs().max()
    moderate = torch.tensor([[2.0, 0.0, 1.0]], dtype=torch.float64, requires_grad=True)
    soft_likelihood_ratios(moderate).sum().backward()
    assert 0 < certain < 1e-6 < moderate.grad.abs().max()


def test_without_consistency_there_is_no_view(bundle, images):
    unit, index = images[:6].float() / 255, torch.arange(6)
    (views,) = LikelihoodRatio(None, PLAIN, consistency=0.0).draw(unit, key(0), index)
    assert views is unit
    (views,) = LikelihoodRatio(None, PLAIN).draw(unit, key(0), index)
    assert torch.equal(views[:6], unit) and views.shape == (12, 3, 16, 16)
    assert views.min() >= 0 and views.max() <= 1 and not torch.equal(views[6:], unit)
    normalised = bundle.preprocessing.normalize(views)
    alone = LikelihoodRatio(None, PLAIN, consistency=0.0)(bundle.classifier, normalised[:6])
    both = LikelihoodRatio(None, PLAIN)(bundle.classifier, normalised)
    half = LikelihoodRatio(None, PLAIN, consistency=0.5)(bundle.classifier, normalised)
    torch.testing.assert_close(both.logits, alone.logits)
    torch.testing.assert_close(both.features, bundle.classifier.encoder(normalised[:6]))
    torch.testing.assert_close(both.losses - half.losses, half.losses - alone.losses)


@pytest.mark.parametrize(
    "options",
    [
        {"clip": 1.0},
        {"clip": 0.0},
        {"clip": math.nan},
        {"consistency": -1.0},
        {"consistency": math.inf},
    ],
)
def test_options_that_cannot_be_meant_are_refused(options):
    with pytest.raises(InputError, match="needs a clip above 0 and below 1"):
        LikelihoodRatioOptions(**options).build(None, PLAIN, None)
