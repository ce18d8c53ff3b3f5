import math

import pytest
import torch

from acclimate.data import Shift, streams
from acclimate.errors import InputError

SHIFTS = [Shift("gaussian_noise", 5), streams.CLEAN]


def data(count):
    return torch.zeros(count, 3, 6, 6, dtype=torch.uint8), torch.arange(count) % 4


@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (lambda x, y: Shift("fogg", 1), "unknown corruption 'fogg': did you mean fog"),
        (lambda x, y: Shift("fog", 6), "severity 6 does not exist"),
        (lambda x, y: Shift("fog", 0), "severity 0 does not exist"),
        (lambda x, y: Shift("fog", 2.5), r"fog has no severity 2.5"),
        (lambda x, y: Shift("impulse_noise", 5.5), "severity 5.5 does not exist"),
        (lambda x, y: Shift("none", 1), "'none' has severity 0, not 1"),
        (lambda x, y: Shift(), "unknown corruption ''"),
        (lambda x, y: Shift("fog", 5, "sketch"), "a corruption or a domain, not 'fog' of 'sketch'"),
        (lambda x, y: Shift("none", 0, "sketch"), "a corruption or a domain, not 'none'"),
        (lambda x, y: Shift(severity=5, domain="sketch"), "a corruption or a domain"),
        (lambda x, y: streams.shuffled(x[:0]), "there are no images"),
        (lambda x, y: streams.shuffled(x.float()), "float32.*uint8"),
        (lambda x, y: streams.shuffled(x[0]), r"shape \[3, 6, 6\]"),
        (lambda x, y: streams.shuffled(x.numpy()), "ndarray.*tensor"),
        (lambda x, y: streams.shuffled(x, batch=0), "batch is 0: give an integer"),
        (lambda x, y: streams.shuffled(x, batch=2.5), r"batch is 2.5: give an integer"),
        (lambda x, y: streams.shuffled(x).start_at(-1), r"position -1 .*0\.\.20"),
        (lambda x, y: streams.shuffled(x).start_at(21), r"position 21 .*0\.\.20"),
        (lambda x, y: streams.continual(x, []), "there are no shifts"),
        (lambda x, y: streams.mixed(x, []), "there are no shifts"),
        (lambda x, y: streams.mixed(x[:0], SHIFTS), "there are no images"),
        (lambda x, y: streams.gradual(x, []), "there are no shifts"),
        (lambda x, y: streams.gradual(x, ["fogg"]), "did you mean fog"),
        (lambda x, y: streams.recurring(x, SHIFTS, rounds=0), "rounds is 0"),
        (lambda x, y: streams.growing_noise(x, "fog"), "fog has no severity 0.0"),
        (lambda x, y: streams.growing_noise(x, last=6), "severity 6.0 does not exist"),
        (lambda x, y: streams.class_correlated(x, y[:3]), r"20 images and labels of shape \[3\]"),
        (lambda x, y: streams.class_correlated(x[:0], y[:0]), "there are no images"),
        (lambda x, y: streams.class_correlated(x, y.float()), "labels are torch.float32"),
        (lambda x, y: streams.class_correlated(x, y.tolist()), "labels are list"),
        (lambda x, y: streams.class_correlated(x, y, concentration=0), "concentration is 0"),
        (lambda x, y: streams.class_correlated(x, y, concentration=math.nan), "concentration"),
        (lambda x, y: streams.class_correlated(x, y, slots=0), "slots is 0"),
        (lambda x, y: streams.class_correlated_continual(x, y, []), "there are no shifts"),
        (lambda x, y: streams.class_correlated_gradual(x, y, []), "there are no shifts"),
        (lambda x, y: streams.class_correlated_gradual(x, y, ["fogg"]), "did you mean fog"),
        (lambda x, y: streams.class_correlated_mixed(x, y, []), "there are no shifts"),
        (lambda x, y: streams.class_correlated_mixed(x, y[:3], SHIFTS), "20 images and labels"),
        (
            lambda x, y: streams.class_correlated_mixed(x, y, SHIFTS, concentration=0),
            "concentration is 0",
        ),
        (lambda x, y: streams.label_shifted(x, y, imbalance=0.5), "imbalance is 0.5"),
        (lambda x, y: streams.label_shifted(x, y, imbalance=math.inf), "imbalance is inf"),
        (lambda x, y: streams.label_shifted(x, y[:, None]), r"labels of shape \[20, 1\]"),
        (lambda x, y: streams.joined([]), "there are no streams"),
        (
            lambda x, y: streams.joined([streams.shuffled(x), streams.shuffled(x, seed=1)]),
            "cannot be joined",
        ),
        (
            lambda x, y: streams.joined([streams.shuffled(x), streams.shuffled(x.clone())]),
            "cannot be joined",
        ),
    ],
)
def test_bad_input_gets_one_clear_sentence(make_it, message):
    with pytest.raises(InputError, match=message):
        make_it(*data(20))
