from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from acclimate.views import all_rotations, rotate

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "losses.npz")


def draw(seed, batch, side, dtype=torch.uint8):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (batch, 3, side, side), generator=generator).to(dtype)
    return images, torch.randint(0, 4, (batch,), generator=generator)


def test_all_rotations_have_the_golden_values_in_the_golden_order():
    views, turns = all_rotations(torch.from_numpy(GOLDEN["rotation_images"]))
    np.testing.assert_array_equal(views, GOLDEN["rotation_expanded"])
    np.testing.assert_array_equal(turns, GOLDEN["rotation_labels"])
    assert views.is_contiguous(memory_format=torch.channels_last)


drawn = {"seed": st.integers(0, 2**31), "batch": st.integers(0, 9), "side": st.integers(1, 6)}


@settings(deadline=None, max_examples=30)
@given(**drawn, dtype=st.sampled_from([torch.uint8, torch.float32]))
def test_each_image_is_turned_counter_clockwise(seed, batch, side, dtype):
    images, turns = draw(seed, batch, side, dtype)
    found = rotate(images, turns)
    assert found.dtype == dtype and found.shape == images.shape
    for image, turn, ours in zip(images.numpy(), turns.tolist(), found):
        np.testing.assert_array_equal(ours, np.rot90(image, turn, (1, 2)))


@settings(deadline=None, max_examples=30)
@given(**drawn)
def test_turns_add_up_and_four_are_the_identity(seed, batch, side):
    images, turns = draw(seed, batch, side)
    once = rotate(images, torch.ones_like(turns))
    assert torch.equal(rotate(once, turns), rotate(images, (turns + 1) % 4))
    assert torch.equal(rotate(rotate(images, turns), (4 - turns) % 4), images)
    for _ in range(3):
        once = rotate(once, torch.ones_like(turns))
    assert torch.equal(once, images)


@settings(deadline=None, max_examples=30)
@given(**drawn)
def test_all_rotations_are_the_four_turns(seed, batch, side):
    images, _ = draw(seed, batch, side)
    views, turns = all_rotations(images)
    assert torch.equal(views, rotate(images.repeat(4, 1, 1, 1), turns))
    assert turns.tolist() == [quarter for quarter in range(4) for _ in range(batch)]


def test_images_that_are_not_square_are_refused():
    images = torch.zeros(2, 3, 4, 5)
    with pytest.raises(ValueError, match="square"):
        rotate(images, torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="square"):
        all_rotations(images)
