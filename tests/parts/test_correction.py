import pytest
import torch
from golden_values import assert_golden, golden
from hypothesis import given, settings
from hypothesis import strategies as st

from acclimate.parts.answer import After, Prediction
from acclimate.parts.correction import Prior, smoothed_prior

LOGITS = st.lists(st.lists(st.floats(-1e4, 1e4), min_size=3, max_size=3), min_size=1, max_size=8)


def slow(rows, released):
    """The release's correction of each image, and Bayes' rule on its probabilities."""
    predictions = [torch.tensor(row, dtype=torch.float64).softmax(0).tolist() for row in rows]
    classes = len(rows[0])
    prior = [sum(column) / len(rows) for column in zip(*predictions)]
    smooth = max(1 / len(rows), 1 / classes) / max(prior)
    prior = [(p + smooth) / (1 + smooth * classes) for p in prior]
    if released:
        return [[z * w for z, w in zip(row, prior)] for row in rows]
    found = [[p * w for p, w in zip(row, prior)] for row in predictions]
    return [[p / sum(row) for p in row] for row in found]


def test_it_is_bayes_rule_and_as_released_the_release():
    z = golden("roid_logits_1")
    assert_golden(z.softmax(1).mean(0), "prior_correction_prior")
    assert_golden(smoothed_prior(z), "prior_correction_smoothed_prior")
    bayes, released = Prior()(Prediction(z)), Prior(as_released=True)(Prediction(z))
    assert_golden(bayes.softmax(1), "prior_correction_probabilities")
    assert_golden(released, "prior_correction_output_as_released")
    assert (bayes.argmax(1) != released.argmax(1)).sum() == 7
    prior, smooth = golden("prior_correction_prior"), golden("prior_correction_smooth")
    assert_golden((prior + smooth) / (1 + 10 * smooth), "prior_correction_smoothed_prior")


@settings(deadline=None, max_examples=40)
@given(LOGITS)
def test_it_is_the_plain_loop_and_finite(rows):
    z = torch.tensor(rows, dtype=torch.float64)
    bayes, released = Prior()(Prediction(z)), Prior(as_released=True)(Prediction(z))
    assert bayes.isfinite().all() and released.isfinite().all()
    torch.testing.assert_close(bayes.softmax(1).tolist(), slow(rows, False), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(released.tolist(), slow(rows, True), rtol=1e-9, atol=1e-12)


@settings(deadline=None, max_examples=40)
@given(LOGITS)
def test_one_image_keeps_its_prediction(rows):
    z = torch.tensor(rows[:1])
    chosen = Prior()(Prediction(z)).argmax(1)
    assert z[0, chosen] >= z.max() - 1e-5  # up to rounding


def test_a_frequent_class_becomes_more_likely():
    z = torch.tensor([[3.0, 0.0, 0.0]] * 6 + [[0.0, 0.1, 0.0]])
    assert Prior()(Prediction(z)).argmax(1).tolist() == [0] * 7


def test_the_release_s_form_has_the_sign_of_the_logits():
    """A constant added to all logits changes no probability, and changes the release's answer."""
    z = torch.tensor([[3.0, 0.0, 0.0]] * 6 + [[0.0, 0.1, 0.0]])
    for part, same in ((Prior(), True), (Prior(as_released=True), False)):
        answers = [part(Prediction(z + shift)).argmax(1) for shift in (0.0, -9.0)]
        assert torch.equal(*answers) == same


@pytest.mark.parametrize("flip", [True, False])
def test_a_mirrored_answer_averages_logits_and_features(flip):
    def predict(mirrored):
        return Prediction(torch.full((2, 3), float(mirrored)), torch.full((2, 5), 4.0 * mirrored))

    found = After(flip=flip).late(predict, None)
    assert found.logits.unique().tolist() == [0.5 * flip]
    assert found.features.unique().tolist() == [2.0 * flip]
