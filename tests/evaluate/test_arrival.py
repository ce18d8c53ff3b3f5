import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from acclimate.data import Shift, streams
from acclimate.data.corruptions import AMOUNTS
from acclimate.errors import InputError
from acclimate.evaluate import arrival
from acclimate.evaluate.arrival import arrange, groups

ALONE = ("shuffled", "class-correlated", "label-shifted")
TOGETHER = (
    "continual", "recurring", "mixed", "class-correlated-continual", "class-correlated-mixed",
)  # fmt: skip
SHIFTS = st.lists(
    st.builds(Shift, st.sampled_from(["fog", "contrast", "gaussian_noise"]), st.integers(1, 5))
    | st.just(streams.CLEAN),
    unique=True,
    max_size=8,
)


@given(SHIFTS)
def test_every_shift_is_in_one_stream(shifts):
    for order in ALONE:
        assert groups(order, shifts) == [(shift,) for shift in shifts]
    corrupted = [shift for shift in shifts if shift != streams.CLEAN]
    for order in TOGETHER if corrupted else ():
        found = groups(order, shifts)
        assert sorted(map(str, sum(found, ()))) == sorted(map(str, corrupted))
        assert all(len({shift.severity for shift in group}) == 1 for group in found)
        assert len({group[0].severity for group in found}) == len(found)


@given(SHIFTS)
def test_orders_that_go_through_severities_take_each_corruption_once(shifts):
    names = list(dict.fromkeys(s.corruption for s in shifts if s != streams.CLEAN))
    if names:
        for order in ("gradual", "class-correlated-gradual"):
            assert groups(order, shifts) == [tuple(Shift(name, 5) for name in names)]
    noises = [name for name in names if name in AMOUNTS]
    if noises:
        assert groups("growing-noise", shifts) == [(Shift(noise, 5),) for noise in noises]


@pytest.mark.parametrize("order", [*arrival.AS_IT_GOES, *TOGETHER])
def test_an_order_without_a_usable_corruption_is_refused(order):
    with pytest.raises(InputError, match=f"{order}.* needs a corruption, such as gaussian_noise"):
        groups(order, [streams.CLEAN])


def test_only_noise_grows():
    with pytest.raises(InputError, match="needs a corruption"):
        groups("growing-noise", [Shift("fog", 5)])


def test_every_order_has_its_streams(data):
    shifts = [streams.CLEAN, Shift("gaussian_noise", 5), Shift("contrast", 5)]
    for order in streams.ORDERS:
        for group in groups(order, shifts):
            stream = arrange(order, data, group, batch=10, seed=1)
            came = [shift.corruption for batch in stream for shift in batch.shifts]
            assert set(came) == {shift.corruption for shift in group}
            assert len(came) == stream.length


def test_streams_are_those_of_the_library(data):
    noise, contrast = Shift("gaussian_noise", 5), Shift("contrast", 5)
    named = {"batch": 10, "seed": 3}
    correlated = streams.class_correlated(data.images, data.labels, shift=contrast, **named)
    hills = streams.gradual(data.images, [noise.corruption, "contrast"], **named)
    pairs = [
        ("shuffled", (contrast,), streams.shuffled(data.images, contrast, **named)),
        ("class-correlated", (contrast,), correlated),
        ("gradual", (noise, contrast), hills),
        ("growing-noise", (noise,), streams.growing_noise(data.images, "gaussian_noise", **named)),
        ("mixed", (noise, contrast), streams.mixed(data.images, [noise, contrast], **named)),
    ]  # fmt: skip
    for order, shifts, expected in pairs:
        found = arrange(order, data, shifts, **named)
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one.images, other.images)
            assert torch.equal(one.numbers, other.numbers)
            assert one.shifts == other.shifts


def test_what_cannot_be_arranged_is_refused(data):
    with pytest.raises(InputError, match="has one shift, not 2"):
        arrange("shuffled", data, [streams.CLEAN, Shift("fog", 5)], batch=10, seed=0)
    for make in (
        lambda: groups("shufled", []),
        lambda: arrange("shufled", data, [streams.CLEAN], batch=10, seed=0),
    ):
        with pytest.raises(InputError, match="unknown order 'shufled': did you mean shuffled"):
            make()
    with pytest.raises(InputError, match="batch is 0"):
        arrange("shuffled", data, [streams.CLEAN], batch=0, seed=0)
