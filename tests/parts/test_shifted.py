"""Activation shifting against FOA's release and a plain loop."""

import pytest
import torch
from golden_values import assert_golden, golden
from torch import nn

from acclimate.backbones import Classifier
from acclimate.errors import InputError
from acclimate.parts.answer import Prediction
from acclimate.parts.shifted import Shifted


def shift_of(settings, width=8, classes=10, layers=3):
    head = nn.Linear(width, classes).double().requires_grad_(False)
    if width == 8:
        head.weight.data, head.bias.data = golden("foa_head_weight"), golden("foa_head_bias")
    model = Classifier(nn.Identity(), head)
    moments = {f"mean.{n}": golden("foa_source_mean")[8 * n : 8 * n + width] for n in range(layers)}
    return settings.build(model, torch.device("cpu"), moments=moments), model


def test_it_is_the_release_s():
    *_, history, strength = golden("foa_settings").tolist()
    shift, model = shift_of(Shifted(strength, 1 - history))
    for batch in (1, 2, 3):
        features = golden("foa_features")[batch - 1][:, -8:]
        before = golden("foa_source_mean")[-8:] - shift.mean
        assert_golden(before.nan_to_num(0.0), f"foa_shift_{batch}")
        logits = shift(Prediction(model.head(features), features))
        assert_golden(logits, f"foa_output_{batch}")
        assert_golden(shift.mean, f"foa_running_mean_{batch}")
    assert (Shifted().strength, Shifted().momentum) == (strength, pytest.approx(1 - history))


def test_without_strength_it_is_the_head_s_answer():
    shift, model = shift_of(Shifted(strength=0.0))
    for features in golden("foa_features")[:, :, -8:]:
        logits = model.head(features)
        torch.testing.assert_close(shift(Prediction(logits, features)), logits)


def test_a_stream_with_the_source_s_mean_is_not_shifted():
    shift, model = shift_of(Shifted())
    features = golden("foa_features")[0][:, -8:]
    features = features - features.mean(0) + golden("foa_source_mean")[-8:]
    for _ in range(3):
        logits = model.head(features)
        torch.testing.assert_close(shift(Prediction(logits, features)), logits)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (Shifted(strength=-1.0), "strength must be a finite number"),
        (Shifted(momentum=1.5), "momentum must lie between 0 and 1"),
    ],
)
def test_settings_that_cannot_be_meant(part, message):
    with pytest.raises(InputError, match=message):
        part.check()
