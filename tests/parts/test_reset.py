"""SAR's recovery: the rule as meant, the release's, and without waiting for a device."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pretended import pretended_gpu
from toy import close, golden

from acclimate.adapt import Adapter
from acclimate.adapt.state import State
from acclimate.errors import InputError
from acclimate.parts.reset import AtLowLoss
from acclimate.parts.step import Step

CPU = torch.device("cpu")


def step_of(loss, *, images=1, finite=True):
    return Step(torch.as_tensor(loss), torch.ones(()), torch.tensor(images), torch.tensor(finite))


def resets_of(losses, clear):
    part, found, averages = AtLowLoss(0.2).build(CPU), [], []

    def forget(when):
        found.append(bool(when))
        averages.append(part.average.clone())
        if clear and when:
            part.average.fill_(torch.nan)  # as the state's own forgetting does

    for loss in losses:
        part.before(forget)
        part.after(step_of(loss), forget)
    return torch.tensor(found), torch.stack(averages)


@pytest.mark.parametrize("released", [False, True])
def test_sar_s_reset_is_the_rule_as_meant_or_the_release_s(released):
    """In the release the average survives a reset, and resets repeat."""
    found, averages = resets_of(golden("sar_recovery_losses"), clear=not released)
    suffix = "_as_released" if released else ""
    assert torch.equal(found, golden(f"sar_recovery_reset{suffix}"))
    expected = golden(f"sar_recovery_ema{suffix}")
    seen = ~(expected.isnan())
    torch.testing.assert_close(averages[seen], expected[seen], rtol=1e-9, atol=0)


def test_the_golden_losses_are_those_of_reliable_rows():
    from acclimate.objectives import Outcome
    from acclimate.objectives.entropy import entropies
    from acclimate.parts.reliable import Reliable
    from acclimate.parts.selection import weighted_mean

    reliable = Reliable().build(10, CPU)
    logits = golden("sar_recovery_logits").double()
    found = [weighted_mean(entropies(z), reliable(Outcome(entropies(z), z))) for z in logits]
    close(torch.stack(found), "sar_recovery_losses")


@given(st.lists(st.tuples(st.floats(0, 3), st.booleans(), st.booleans()), max_size=30))
def test_the_average_is_a_plain_loop_s(steps):
    """Steps that were not taken do not count, and a reset begins anew."""
    part, average, expected, found = AtLowLoss(0.4).build(CPU), None, [], []
    state = State(part.state(), {})

    def forget(when):
        found.append(bool(when))
        state.forget(when)

    for loss, some, finite in steps:
        step = step_of(loss, images=int(some), finite=finite)
        part.after(step, forget)
        if some and finite:
            average = loss if average is None else 0.9 * average + 0.1 * loss
        low = average is not None and average < 0.4
        expected.append(low)
        average = None if low else average
        assert bool(part.average.isnan()) == (average is None)
        assert average is None or abs(float(part.average) - average) < 1e-6
    assert found == expected


@given(st.booleans(), st.integers(0, 3))
def test_forgetting_on_a_flag_is_forgetting_or_nothing(flag, zeros):
    tensors = {str(n): torch.arange(3.0) * (n >= zeros) + (n >= zeros) for n in range(4)}
    tensors["nan"] = torch.tensor(torch.nan)
    source = {name: tensor.clone() for name, tensor in tensors.items()}
    state = State(tensors, {})
    for tensor in tensors.values():
        tensor.fill_(7)
    state.forget(torch.tensor(flag))
    for name, tensor in tensors.items():
        expected = source[name] if flag else torch.full_like(tensor, 7)
        torch.testing.assert_close(tensor, expected, rtol=0, atol=0, equal_nan=True)


def test_a_recorded_batch_is_forgotten_on_the_signal_alone(bundle_of, images):
    """The signal is read by the device: what is recorded without it must heed it when replayed."""
    with pretended_gpu() as gpu:
        changes = {"precision": "fp32", "selection.margin": 9.0, "reset.threshold": 1.0}
        made = Adapter(bundle_of("sar"), "sar", device="pretended", **changes)
        unit = made.preprocessing.unit(images[:24]).to(gpu.device)
        index = torch.arange(24).to(gpu.device)
        with torch.no_grad():
            made._adapt(unit, index, every=False)
            with gpu.recorded():
                made._adapt(unit, index, every=False)
            moving = made._learner.moving
            assert any(
                not torch.equal(v.values, made._learner.state.sources[n].values)
                for n, v in moving.items()
            )
            made._learner.reset.average.fill_(-100.0)
            gpu.replay()
        assert all(
            torch.equal(v.values, made._learner.state.sources[n].values) for n, v in moving.items()
        )


def test_what_cannot_be_meant_is_refused():
    with pytest.raises(InputError, match="threshold"):
        AtLowLoss(-1).check()
