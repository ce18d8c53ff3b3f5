import pytest
import torch

from acclimate.errors import InputError
from acclimate.source.stand_ins import STAND_INS, stand_in

EVERY = [(name, severity) for name, made in STAND_INS.items() for severity in made]


@pytest.fixture
def images():
    draw = torch.Generator().manual_seed(0)
    return torch.randint(1, 256, (8, 3, 24, 24), generator=draw, dtype=torch.uint8)


@pytest.mark.parametrize(("name", "severity"), EVERY)
def test_images_stay_images(images, name, severity):
    kept = images.clone()
    for channels in (1, 3):
        shown = images[:, :channels]
        found = stand_in(shown, name, severity)
        assert found.shape == shown.shape and found.dtype == torch.uint8
        assert not torch.equal(found, shown)
        assert torch.equal(found, stand_in(shown, name, severity))
    assert torch.equal(images, kept)
    one = stand_in(images[:1], name, severity)
    assert torch.equal(one, stand_in(images, name, severity)[:1])


@pytest.mark.parametrize("name", ["cover", "cover with noise"])
def test_a_square_of_the_said_share_is_covered(images, name):
    for severity, share in ((2, 0.15), (5, 0.4)):
        large = images.repeat_interleave(4, 2).repeat_interleave(4, 3)
        differ = (stand_in(large, name, severity) != large).any(1)
        assert differ.float().mean((1, 2)) == pytest.approx(torch.full((8,), share), abs=0.03)
        rows, columns = differ.any(2), differ.any(1)
        assert (rows.sum(1) * columns.sum(1) <= differ.sum((1, 2)) * 1.05 + 1).all()  # one square
        assert len(torch.unique(differ.flatten(1), dim=0)) > 4  # not always at the same place


def test_moved_and_smaller_images_have_black_gaps(images):
    moved = stand_in(images, "translate", 5)
    side = round(0.3 * 24)
    assert torch.equal(moved[0, :, side:, side:], images[0, :, :-side, :-side])
    assert (moved[0, :, :side] == 0).all() and (moved[0, :, :, :side] == 0).all()
    assert torch.equal(moved[3, :, :-side, :-side], images[3, :, side:, side:])
    small = stand_in(images, "zoom out", 5)
    assert (small[:, :, :5] == 0).all() and (small[:, :, 8:16, 8:16] > 0).all()


def test_an_unknown_one_is_refused_with_what_was_meant(images):
    with pytest.raises(InputError, match=r"zoom out"):
        stand_in(images, "zoomout", 5)
