import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from acclimate.backbones import preact_resnet, resnet
from acclimate.errors import InputError
from acclimate.objectives.rotation import Rotation
from acclimate.preprocessing import Preprocessing
from acclimate.views import rotate, shifted_crop

SIZE = 16
PREPROCESSING = Preprocessing(SIZE, (0.5, 0.4, 0.3), (0.3, 0.2, 0.25))


@pytest.fixture(scope="module")
def small():
    """Eight copies, on a network without weights worth looking at."""
    return Rotation(preact_resnet(8, classes=2, width=8), PREPROCESSING, copies=8, padding=2)


@pytest.fixture(params=["bundle", "group_norm_bundle"])
def any_bundle(request):
    return request.getfixturevalue(request.param)


def some(images, count=6):
    return PREPROCESSING.unit(images[:count])


def possible_views(image, padding):
    """Every shift, mirrored or not, of one image, in every rotation: [4, shifts, 3, h, w]."""
    size = image.shape[-1]
    padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding)))
    shifts = range(2 * padding + 1)
    crops = [padded[:, y : y + size, x : x + size] for y in shifts for x in shifts]
    crops += [crop[..., ::-1] for crop in crops]
    return np.stack([np.rot90(crops, turn, (2, 3)) for turn in range(4)])


def test_each_copy_is_a_shifted_flipped_view_of_its_image_turned_as_labelled(small, images):
    unit = some(images, 3)
    views, turns = small.draw(unit, 5, torch.arange(3))
    assert views.shape == (24, 3, SIZE, SIZE) and turns.shape == (24,)
    for view, turn, image in zip(views.numpy(), turns, unit.repeat_interleave(8, 0).numpy()):
        matches = (possible_views(image, 2) == view).all((2, 3, 4))  # [4, shifts]
        assert matches.sum() == 1 and matches[turn].any()


def test_copies_of_an_image_and_of_its_neighbours_have_numbers_of_their_own(images):
    objective = Rotation(preact_resnet(8, classes=2, width=8), PREPROCESSING, copies=200)
    unit = some(images, 1).expand(3, -1, -1, -1)
    views, turns = objective.draw(unit, 1, torch.arange(3))
    assert all(len(mine.unique(dim=0)) > 100 for mine in views.split(200))  # of 648
    same = (turns[1:] == turns[:-1]).float().mean()
    assert abs(same - 0.25) < 0.09  # 5 standard deviations
    for later in range(195, 205):
        assert (views[later:] == views[:-later]).flatten(1).all(1).float().mean() < 0.05


def test_turns_are_even_and_not_told_by_the_crop():
    objective = Rotation(preact_resnet(8, classes=2, width=8), PREPROCESSING, copies=500, padding=1)
    # Only the top row's left half is grey: shift and flip show in it.
    image = torch.ones(1, 3, SIZE, SIZE)
    image[:, :, 0, : SIZE // 2] = 0.5
    views, turns = objective.draw(image, 2, torch.arange(1))
    upright = rotate(views, (4 - turns) % 4)[:, 0, :2]  # [copies, 2, w]
    shift = (upright == 0).all(2).sum(1) + 2 * (upright[:, 0] == 1).all(1)  # down, none, up
    flip = (upright == 0.5).any(1).float().argmax(1) > SIZE // 4
    for drawn in (shift, flip):
        counts = torch.bincount(4 * drawn + turns, minlength=4).view(-1, 4).numpy()
        counts = counts[counts.sum(1) > 0]
        assert len(counts) > 1 and stats.chi2_contingency(counts).pvalue > 1e-3
    assert stats.chisquare(torch.bincount(turns, minlength=4).numpy()).pvalue > 1e-3


@settings(deadline=None, max_examples=20)
@given(key=st.integers(-(2**63), 2**63 - 1), seed=st.integers(0, 2**31))
def test_views_depend_on_key_and_number_alone(key, seed):
    objective = Rotation(preact_resnet(8, classes=2, width=8), PREPROCESSING, tap=None, copies=3)
    generator = torch.Generator().manual_seed(seed)
    unit = torch.rand(5, 3, 8, 8, generator=generator)
    index = torch.randperm(10**6, generator=generator)[:5]
    for draw in (objective.draw, objective.source_draw):
        views, turns = draw(unit, key, index)
        # Copies of an image are neighbours, its source views are a batch apart.
        shape = (5, 3) if draw == objective.draw else (4, 5)
        image = 0 if draw == objective.draw else 1
        for i in range(5):
            mine, mine_turns = draw(unit[i : i + 1], key, index[i : i + 1])
            assert torch.equal(views.unflatten(0, shape).select(image, i), mine)
            assert torch.equal(turns.view(shape).select(image, i), mine_turns)


def test_other_keys_give_other_views(small, images):
    unit, index = some(images), torch.arange(6)
    (first, turns), (second, others) = (small.draw(unit, key, index) for key in (1, 2))
    assert not torch.equal(first, second) and not torch.equal(turns, others)


def test_source_views_are_one_crop_of_each_image_in_all_rotations(small, images):
    unit, index = some(images), torch.arange(40, 46)
    views, turns = small.source_draw(unit, 9, index)
    crops = shifted_crop(unit, 2, key=9, index=index).numpy()
    expected = np.concatenate([np.rot90(crops, turn, (2, 3)) for turn in range(4)])
    np.testing.assert_array_equal(views, expected)
    assert turns.tolist() == [0] * 6 + [1] * 6 + [2] * 6 + [3] * 6


@pytest.mark.parametrize("tap", [1, 2, "stages.1", 3, None])
def test_loss_is_the_cross_entropy_of_the_branch(any_bundle, images, tap):
    model = any_bundle.classifier
    objective = Rotation(model, PREPROCESSING, tap=tap, copies=2).eval()
    views, turns = objective.draw(some(images), 0, torch.arange(6))
    views = PREPROCESSING.normalize(views)
    # The branch starts as the encoder's copy, so the way to its last layer is the encoder itself.
    logits = objective.branch[-1](model.encoder(views)).double()
    expected = 0.0
    for row, turn in zip(logits, turns):
        expected -= torch.log(torch.exp(row[turn]) / torch.exp(row).sum()) / len(turns)
    found = objective(model, views, turns)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(objective.source_loss(model, views, turns), found)


def test_branch_is_a_copy_that_learns_though_the_encoder_is_frozen(any_bundle, images):
    model = any_bundle.classifier
    before = copy.deepcopy(model.state_dict())
    objective = Rotation(model, PREPROCESSING, tap=2)
    assert all(p.requires_grad for p in objective.parameters())
    assert not any(p.requires_grad for p in model.parameters())
    with torch.no_grad():
        for parameter in objective.parameters():
            parameter.zero_()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_rebuilt_from_options_and_state(any_bundle, images):
    options = {"tap": 2, "copies": 4, "padding": 3}
    model = any_bundle.classifier
    objective = Rotation(model, PREPROCESSING, **options).eval()
    with torch.no_grad():
        for parameter in objective.parameters():
            parameter.normal_(std=0.1)
    again = Rotation(model, PREPROCESSING, **options).eval()
    again.load_state_dict(objective.state_dict())
    drawn = objective.draw(some(images), 0, torch.arange(6))
    assert torch.equal(again(model, *drawn), objective(model, *drawn))


@pytest.mark.parametrize("tap", [2, None])
def test_encoder_alone_can_lower_the_loss(any_bundle, images, tap, descend):
    torch.manual_seed(2)  # the last layer's first weights
    model = copy.deepcopy(any_bundle.classifier)
    objective = Rotation(model, PREPROCESSING, tap=tap, copies=16)
    moving = [p.requires_grad_() for p in model.encoder.parameters()]
    views, turns = objective.draw(some(images, 4), 3, torch.arange(4))
    views = PREPROCESSING.normalize(views)
    losses = descend(moving, lambda step: objective(model, views, turns), steps=10, rate=3e-3)
    assert losses[-1] < losses[0] - 0.05


def test_loss_is_float32_under_autocast(any_bundle, images):
    model = any_bundle.classifier
    objective = Rotation(model, PREPROCESSING).eval()
    views, turns = objective.draw(some(images, 2), 0, torch.arange(2))
    views = PREPROCESSING.normalize(views)
    with torch.autocast("cpu", torch.bfloat16):
        found = objective(model, views, turns)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, objective(model, views, turns), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("network", [resnet, preact_resnet])
def test_training_learns_which_way_is_up(network, descend):
    torch.manual_seed(0)
    model = network(8, classes=2, width=8)
    objective = Rotation(model, PREPROCESSING)
    generator = torch.Generator().manual_seed(3)
    # Sky above, in a colour and behind a noise of each image's own.
    light = torch.linspace(1, 0, SIZE)[:, None] * torch.rand(192, 3, 1, 1, generator=generator)
    unit = (light + 0.5 * torch.rand(192, 3, SIZE, SIZE, generator=generator)).clamp(0, 1)

    def loss(step):
        index = torch.arange(32) + 32 * (step % 4)
        views, turns = objective.source_draw(unit[index], step, index)
        return objective.source_loss(model, PREPROCESSING.normalize(views), turns)

    parameters = [*model.encoder.parameters(), *objective.parameters()]
    descend(parameters, loss, steps=60, rate=3e-3)
    views, turns = objective.draw(unit[128:], 99, torch.arange(128, 192))
    model.eval(), objective.eval()
    with torch.no_grad():
        logits = objective.logits(model, PREPROCESSING.normalize(views))
    assert (logits.argmax(1) == turns).float().mean() > 0.8  # by chance 0.25


@pytest.mark.parametrize("options", [{"copies": 0}, {"copies": -1}, {"padding": -1}])
def test_what_is_refused(options):
    with pytest.raises(InputError, match="copies of 1 or more and padding of 0 or more"):
        Rotation(preact_resnet(8, classes=2, width=8), PREPROCESSING, **options)
