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
    first, second = torch.zeros(CHANNELS).double(), torch.zeros(CHANNELS).double()
    for k in range(classes):
        n = sum(weight for weight, *_ in kept[k])
        share = policy.limit * n / (n + policy.prior / classes) if n else 0.0
        for weight, mean, square in kept[k]:
            first += share * weight / n * mean / classes
            second += share * weight / n * square / classes
        first += (1 - share) * source.running_mean / classes
        second += (1 - share) * (source.running_var + source.running_mean**2) / classes
    return first, second - first**2


@given(
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=4),
    classes=st.integers(2, 5),
    prior=st.sampled_from([0.5, 4.0, 16.0]),
    limit=st.sampled_from([0.0, 0.7, 1.0]),
    horizon=st.sampled_from([1, 8, 100]),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_it_is_the_mixture_of_all_classes(sizes, classes, prior, limit, horizon, seed):
    policy = ClassBalanced(prior, limit, horizon=horizon)
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
    x = batch(6)
    model, norms = adaptive(ClassBalanced(limit=0.0), 3)
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


def test_a_stream_of_one_class_moves_only_that_class_s_share():
    """However many images of one class come, the others' statistics are the source's."""
    model, norms = adaptive(ClassBalanced(limit=1.0), 10)
    far = batch(32) + 100
    for _ in range(50):
        with norms.entering(torch.zeros(32, dtype=torch.int64)):
            model(far)
    (kept,) = norms.kept.values()
    source = network()[0]
    moved = (kept.mean - source.running_mean) / (far.mean((0, 2, 3)) - source.running_mean)
    assert (moved < 0.1 + 1e-9).all()


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
    "options", [{"horizon": 0}, {"groups": 0}, {"own": -1}, {"prior": -1.0}, {"limit": 1.5}]
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


def logits_of(*classes, certainty):
    return certainty * torch.nn.functional.one_hot(torch.tensor(classes), 3).float()


@pytest.mark.parametrize(
    ("own", "certainty", "expected"),
    [
        (3, 5.0, [1, 2, 0]),
        (1, 5.0, [1, 2, 0]),
        (3, 0.5, [0, 0, 0]),
        (4, 5.0, [0, 0, 0]),
        (0, 5.0, [0, 0, 0]),
    ],
)
def test_the_more_certain_answer_names_the_classes(own, certainty, expected):
    """The batch's own statistics are asked from so many images on, and normalise then."""
    model, norms = adaptive(ClassBalanced(limit=1.0, own=own), 3)
    x, asked = batch(3), []

    def answer():
        asked.append(model(x))
        return logits_of(1, 2, 0, certainty=certainty)

    assert norms.classes(logits_of(0, 0, 0, certainty=1.0), answer).tolist() == expected
    assert len(asked) == (own in (1, 3))
    for found in asked:  # normalised by the batch's own mean: what is left of it is the shift
        torch.testing.assert_close(found.mean((0, 2, 3)), model[0].bias)
    assert not any(each.counts.any() for each in norms.kept.values()), "nothing has entered"
