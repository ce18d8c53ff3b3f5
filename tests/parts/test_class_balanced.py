"""Batch norm by statistics of each predicted class, against plain loops."""

from collections import defaultdict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from acclimate.errors import InputError
from acclimate.parts.class_balanced import ClassBalanced, ClassNorms, moments_of
from acclimate.parts.normalisation import AdaptiveBatchNorm, BatchNorms, BatchStatistics

CHANNELS = 3


def network(seed=0, kind=nn.BatchNorm2d):
    generator = torch.Generator().manual_seed(seed)
    norm = kind(CHANNELS).double().eval()
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean):
            tensor.copy_(torch.randn(CHANNELS, generator=generator, dtype=torch.float64))
        norm.running_var.copy_(torch.rand(CHANNELS, generator=generator, dtype=torch.float64) + 0.5)
    return nn.Sequential(norm)


def adaptive(policy, classes, **options):
    model = network(**options)
    norms = ClassNorms(policy, {"model": model}, classes)
    return model, norms


def batch(count, seed=0, shape=(4, 5)):
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(count, CHANNELS, *shape, generator=generator, dtype=torch.float64) + 1


def by_hand(policy, source, history, classes):
    """The mean and variance of a mixture with equal shares of all classes, image by image.

    Args:
        history: Batches of (image, class). With each batch, what was kept of a class shrinks in
            equal parts to the room that the batch's images of it leave.
    """
    room = policy.horizon / classes
    kept = defaultdict(list)  # of each class: [weight, mean, mean square]
    for images in history:
        for k in range(classes):
            new = sum(label == k for _, label in images)
            old = sum(weight for weight, *_ in kept[k])
            factor = min(1, max(0, room - new) / old) if old else 1
            kept[k] = [(factor * weight, *rest) for weight, *rest in kept[k]]
        for x, label in images:
            flat = x.reshape(CHANNELS, -1)
            kept[label].append((1.0, flat.mean(1), (flat**2).mean(1)))
    assumed = assumed_by_hand(policy, source, kept, classes)
    first, second = torch.zeros(CHANNELS).double(), torch.zeros(CHANNELS).double()
    for k in range(classes):
        n = sum(weight for weight, *_ in kept[k])
        share = policy.limit * n / (n + policy.prior / classes) if n else 0.0
        for weight, mean, square in kept[k]:
            first += share * weight / n * mean / classes
            second += share * weight / n * square / classes
        first += (1 - share) * assumed[0] / classes
        second += (1 - share) * assumed[1] / classes
    return first, second - first**2


def assumed_by_hand(policy, source, kept, classes):
    """Mean and mean square of a class of which nothing came, image by image."""
    every = []  # (share, mean, mean square) of each image; a class counts by its trust
    for images in kept.values():
        n = sum(weight for weight, *_ in images)
        if n:
            trust = n / (n + policy.prior / classes)
            every += [(trust * weight / n, *rest) for weight, *rest in images]
    total = sum(share for share, *_ in every)
    mean = sum(share / total * m for share, m, _ in every)
    square = sum(share / total * s for share, _, s in every)
    spread = distance = 0.0
    for c in range(CHANNELS):
        unit = source.running_var[c] + source.eps
        spread += sum(share / total * (m[c] - mean[c]) ** 2 for share, m, _ in every) / unit
        distance += (mean[c] - source.running_mean[c]) ** 2 / unit
    n = sum(weight for images in kept.values() for weight, *_ in images)
    moved = max(0.0, 1 - policy.leeway * spread / distance) * n / (n + policy.prior)
    before = source.running_mean, source.running_var + source.running_mean**2
    return before[0] + moved * (mean - before[0]), before[1] + moved * (square - before[1])


@given(
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=4),
    classes=st.integers(2, 5),
    prior=st.sampled_from([0.5, 4.0, 16.0]),
    limit=st.sampled_from([0.0, 0.7, 1.0]),
    horizon=st.sampled_from([1, 8, 100]),
    leeway=st.sampled_from([0.0, 0.1, 2.0, 1e9]),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_it_is_the_mixture_of_all_classes(sizes, classes, prior, limit, horizon, leeway, seed):
    policy = ClassBalanced(prior, limit, horizon=horizon, leeway=leeway)
    model, norms = adaptive(policy, classes)
    source = network()[0]
    history = []
    for number, size in enumerate(sizes):
        x = batch(size, seed + number)
        labels = torch.randint(classes, (size,), generator=torch.Generator().manual_seed(seed))
        history.append(list(zip(x, labels.tolist())))
        with norms.entering(labels):
            found = model(x)
        mean, variance = by_hand(policy, source, history, classes)
        expected = (x - mean[:, None, None]) / (variance[:, None, None] + source.eps).sqrt()
        expected = expected * source.weight[:, None, None] + source.bias[:, None, None]
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(model(x), expected, rtol=1e-9, atol=1e-9)  # nothing enters


def test_without_images_and_with_limit_0_it_is_the_source():
    """Where images differ no more than classes explain."""
    x = batch(6)
    model, norms = adaptive(ClassBalanced(limit=0.0, leeway=1e9), 3)
    torch.testing.assert_close(model(x), network()(x))
    with norms.entering(torch.arange(6) % 3):
        torch.testing.assert_close(model(x), network()(x))


def test_a_balanced_batch_is_normalised_as_by_its_own_statistics():
    """Without a prior, and as many images of each class: batch norm of the batch."""
    x = batch(12)
    model, norms = adaptive(ClassBalanced(prior=0.0, limit=1.0), 3)
    plain = network()
    BatchNorms(BatchStatistics(), {"model": plain})
    with norms.entering(torch.arange(12) % 3):
        torch.testing.assert_close(model(x), plain(x))


def images_of(mean, spread, count=32):
    """Flat images whose means lie around one, by as much in each channel."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(count, CHANNELS, 1, 1, generator=generator, dtype=torch.float64)
    noise = (noise - noise.mean(0)) / noise.std(0, correction=0)
    return (mean.view(1, -1, 1, 1) + spread.view(1, -1, 1, 1) * noise).expand(-1, -1, 4, 4)


def share_moved(x, classes=10, times=50, **options):
    """How far the mean moves towards that of images of one class."""
    model, norms = adaptive(ClassBalanced(limit=1.0, **options), classes)
    for _ in range(times):
        with norms.entering(torch.zeros(len(x), dtype=torch.int64)):
            model(x)
    (kept,) = norms.kept.values()
    source = network()[0]
    return (kept.mean - source.running_mean) / (x.mean((0, 2, 3)) - source.running_mean)


def test_a_stream_of_one_class_moves_only_that_class_s_share():
    """Its images lie as far from the source's as from each other: the others stay the source's."""
    source = network()[0]
    deviation = (source.running_var + source.eps).sqrt()
    moved = share_moved(images_of(source.running_mean + deviation, deviation))
    assert (moved < 0.1 + 1e-9).all()


def test_images_that_are_all_alike_and_far_away_move_every_class():
    """What a blind network takes for one class; before, it moved by a tenth."""
    source = network()[0]
    deviation = (source.running_var + source.eps).sqrt()
    far = images_of(source.running_mean + 2 * deviation, 0.1 * deviation)
    moved = share_moved(far)
    # d² = 4, V = 0.01: 1 - 2 * 0.01 / 4 of what 32 images are trusted, and the class's own share
    expected = 0.9 * (1 - 0.005) * 32 / 48 + 0.1 * (0.995 * 32 / 48 * 1.6 + 32) / 33.6
    torch.testing.assert_close(moved, torch.full_like(moved, expected))
    assert (share_moved(far, leeway=1e9) < 0.1 + 1e-9).all()


@given(leeway=st.floats(0, 5), distance=st.floats(0.1, 5), scale=st.floats(0.1, 10))
@settings(max_examples=30, deadline=None)
def test_the_move_grows_with_the_distance_and_knows_no_unit(leeway, distance, scale):
    source = network()[0]
    deviation = (source.running_var + source.eps).sqrt()
    options = {"leeway": leeway, "times": 1}
    near, far = (
        share_moved(images_of(source.running_mean + d * deviation, 0.3 * deviation), **options)
        for d in (distance, 2 * distance)
    )
    assert (far > near - 1e-9).all()
    near, wide = (
        share_moved(
            images_of(source.running_mean + s * distance * deviation, s * deviation), **options
        )
        for s in (1.0, scale)
    )
    torch.testing.assert_close(wide, near)


def test_single_images_and_batches_keep_the_same():
    """Of one batch norm: the classes are given, and nothing before it depends on the statistics."""
    x, labels = batch(20), torch.arange(20) % 4
    found = []
    for size in (1, 7, 20):
        model, norms = adaptive(ClassBalanced(limit=1.0), 4)
        for part, of in zip(x.split(size), labels.split(size)):
            with norms.entering(of):
                model(part)
        found.append(torch.cat([t.flatten() for t in norms.state().values()]))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0])


def test_the_order_of_a_batch_does_not_matter():
    x, labels = batch(9), torch.tensor([0, 0, 1, 2, 2, 2, 0, 1, 1])
    mixed = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    states = []
    for order in (torch.arange(9), mixed):
        model, norms = adaptive(ClassBalanced(limit=1.0), 3)
        with norms.entering(labels[order]):
            model(x[order])
        states.append(norms.state())
    for name, tensor in states[0].items():
        torch.testing.assert_close(states[1][name], tensor)


def test_many_classes_share_groups():
    model, norms = adaptive(ClassBalanced(limit=1.0, groups=4), 1000)
    with norms.entering(torch.tensor([0, 4, 999, 3])):
        model(batch(4))
    (kept,) = norms.kept.values()
    assert kept.counts.flatten().tolist() == [2, 0, 0, 2]


def test_steps_normalise_by_their_own_images_and_leave_what_is_kept():
    model, norms = adaptive(ClassBalanced(limit=1.0), 3)
    plain = network()
    own = BatchNorms(BatchStatistics(), {"model": plain})
    x = batch(8).requires_grad_()
    before = {name: tensor.clone() for name, tensor in norms.state().items()}
    with norms.learning():
        found = model(x)
    (gradient,) = torch.autograd.grad(found.pow(3).sum(), x)
    with own.learning():
        expected = plain(x)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.pow(3).sum(), x)[0])
    for name, tensor in norms.state().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d])
def test_inputs_of_any_number_of_dimensions(kind):
    shape = {nn.BatchNorm1d: (), nn.BatchNorm2d: (4, 5), nn.BatchNorm3d: (2, 3, 4)}[kind]
    x = batch(6, shape=shape)
    model, norms = adaptive(ClassBalanced(prior=0.0, limit=1.0), 2, kind=kind)
    with norms.entering(torch.arange(6) % 2):
        y = model(x)
    source = network(kind=kind)[0]
    around = y - source.bias.view(1, -1, *[1] * len(shape))
    assert around.transpose(0, 1).flatten(1).mean(1).abs().max() < 1e-9


def test_half_precision_gives_statistics_in_float32():
    model = nn.Sequential(nn.BatchNorm2d(CHANNELS).eval())
    norms = ClassNorms(ClassBalanced(limit=1.0), {"model": model}, 2)
    with norms.entering(torch.tensor([0, 1])):
        y = model((batch(2) + 50).bfloat16())
    assert y.dtype == torch.bfloat16
    assert isinstance(model[0], AdaptiveBatchNorm)
    assert {tensor.dtype for tensor in norms.state().values()} == {torch.float32}


@pytest.mark.parametrize(
    "options",
    [
        {"horizon": 0},
        {"groups": 0},
        {"again": -1},
        {"prior": -1.0},
        {"limit": 1.5},
        {"leeway": -1.0},
    ],
)
def test_impossible_settings_are_refused(options):
    with pytest.raises(InputError, match=next(iter(options))):
        ClassBalanced(**options).check()


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_moments_take_any_layout(kind):
    x = batch(4, shape=(6, 7)).to(kind)
    layouts = [
        x,
        x.to(memory_format=torch.channels_last),
        x[:, :, :-1, 1:],
        x[:1].expand(4, -1, -1, -1),
    ]
    for values in layouts:
        mean, square = moments_of(values).chunk(2, 1)
        torch.testing.assert_close(mean, values.mean((2, 3)))
        torch.testing.assert_close(square, values.square().mean((2, 3)))


@pytest.mark.parametrize(
    ("again", "count", "expected"),
    [(8, 7, (True,)), (8, 8, (False, True)), (1, 1, (False, True)), (0, 200, (True,))],
)
def test_a_batch_is_named_twice_from_so_many_images_on(again, count, expected):
    _, norms = adaptive(ClassBalanced(limit=1.0, again=again), 3)
    assert norms.namings(count) == expected


def test_images_that_enter_for_trial_count_in_that_pass_alone():
    x, labels = batch(6), torch.arange(6) % 3
    model, norms = adaptive(ClassBalanced(limit=1.0), 3)
    plain, others = adaptive(ClassBalanced(limit=1.0), 3)
    with norms.entering(torch.zeros_like(labels)):
        model(batch(4, seed=5)[[0] * 6])
    with others.entering(torch.zeros_like(labels)):
        plain(batch(4, seed=5)[[0] * 6])
    with others.entering(labels):
        expected = plain(x)
    with norms.entering(labels, keep=False):
        torch.testing.assert_close(model(x), expected)
    with norms.entering(labels):
        torch.testing.assert_close(model(x), expected)
    for name, tensor in others.state().items():
        torch.testing.assert_close(norms.state()[name], tensor)
