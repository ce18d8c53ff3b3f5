import pytest
import torch
from golden_values import assert_golden, golden

from acclimate.errors import InputError
from acclimate.parts.aftermath import PullToSource
from acclimate.parts.kalman import KalmanFilter

TAKEN = torch.tensor(True)


@pytest.mark.parametrize(("name", "noise"), [("q005", 0.005), ("q03", 0.03)])
def test_it_is_the_release(name, noise):
    weights = golden("cmf_source").clone()
    part = KalmanFilter(noise=noise * 38_400 / 5).build({"weight": weights})
    for t, step in enumerate(golden("cmf_gradient_steps")):
        weights += step
        close(weights, golden(f"cmf_{name}_adapted")[t])
        part(TAKEN)
        close(part.variance, golden(f"cmf_{name}_hidden_variance")[t])
        close(part.hidden["weight"], golden(f"cmf_{name}_hidden")[t])
        close(weights, golden(f"cmf_{name}_model")[t])


@pytest.mark.parametrize(("name", "q"), [("q005", 0.005), ("q03", 0.03)])
def test_beta_follows_from_the_variances(name, q):
    """β = P_after / P_before, where P_before = α² P + q."""
    before = torch.cat([torch.zeros(1), golden(f"cmf_{name}_hidden_variance")[:-1]])
    expected = golden(f"cmf_{name}_hidden_variance") / (0.99**2 * before + q)
    close(expected, golden(f"cmf_{name}_beta"))


def close(found, expected):
    torch.testing.assert_close(found.double(), expected.double(), rtol=1e-6, atol=1e-8)


def slow(source, steps, q, drift, least, momentum):
    """The filter, number by number."""
    theta, hidden, variance = list(source), list(source), 0.0
    for step in steps:
        theta = [a + b for a, b in zip(theta, step)]
        variance = drift**2 * variance + q
        beta = max(least, (1 - q) / (variance + 1 - q))
        beta = 1.0 if beta >= 0.9999 else beta
        variance *= beta
        hidden = [drift * h + (1 - drift) * s for h, s in zip(hidden, source)]
        hidden = [beta * h + (1 - beta) * t for h, t in zip(hidden, theta)]
        theta = [momentum * t + (1 - momentum) * h for t, h in zip(theta, hidden)]
    return theta, hidden, variance


@pytest.mark.parametrize("q", [1e-6, 0.01, 0.4, 0.95])
def test_it_is_the_plain_loop_with_other_settings(q):
    generator = torch.Generator().manual_seed(1)
    source = torch.randn(3, generator=generator, dtype=torch.float64)
    steps = torch.randn(20, 3, generator=generator, dtype=torch.float64)
    weights = source.clone()
    part = KalmanFilter(0.9, q * 38_400 / 3, 0.5, 0.8).build({"w": weights[:1], "v": weights[1:]})
    for step in steps:
        weights += step
        part(TAKEN)
    theta, hidden, variance = slow(source.tolist(), steps.tolist(), q, 0.9, 0.5, 0.8)
    close(weights, torch.tensor(theta))
    close(torch.cat([part.hidden["w"], part.hidden["v"]]), torch.tensor(hidden))
    close(part.variance, torch.tensor(variance))


def test_after_a_step_that_was_not_taken_nothing_moves():
    weights = torch.ones(5)
    part = KalmanFilter().build({"weight": weights})
    weights += 1
    part(TAKEN)
    before = [tensor.clone() for tensor in (weights, *part.state().values())]
    part(torch.tensor(False))
    for tensor, old in zip((weights, *part.state().values()), before):
        assert torch.equal(tensor, old)


def test_the_noise_grows_with_the_number_of_parameters_and_stays_below_one():
    KalmanFilter().build({"weight": torch.zeros(7_000_000)})
    with pytest.raises(
        InputError, match=r"is 1\.04 for the 8000000 that move, and must be below 1"
    ):
        KalmanFilter().build({"weight": torch.zeros(8_000_000)})


@pytest.mark.parametrize(
    "settings", [{"drift": 1.1}, {"noise": -1.0}, {"least": -0.1}, {"momentum": float("nan")}]
)
def test_settings_that_cannot_be_meant_are_refused(settings):
    with pytest.raises(InputError, match="must"):
        KalmanFilter(**settings).check()


def test_roid_s_weight_ensembling_is_the_release():
    """The pull to the source that ROID takes in the filter's place."""
    weights = golden("roid_ensemble_source_trainable").clone()
    frozen = golden("roid_ensemble_adapted_frozen").clone()
    pull = PullToSource(0.01).build({"weight": weights})
    weights.copy_(golden("roid_ensemble_adapted_trainable"))
    pull(torch.tensor(False))
    assert torch.equal(weights, golden("roid_ensemble_adapted_trainable"))
    pull(TAKEN)
    assert_golden(weights, "roid_ensemble_result_trainable", rtol=1e-6)
    assert_golden(frozen, "roid_ensemble_result_frozen")
