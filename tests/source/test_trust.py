"""The trust in a batch's statistics: what it computes, and how it is chosen without labels."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from acclimate.backbones import Classifier
from acclimate.backbones.batch_norm import Control, Trust
from acclimate.errors import InputError
from acclimate.parts.normalisation import BatchStatistics, replace_batch_norms
from acclimate.preprocessing import Preprocessing
from acclimate.source import trust as module
from acclimate.source.held_out import CLEAN, SHIFTS, Agreement, HeldOut, judged_by_both
from acclimate.source.trust import LIMITS, MIDDLE, PRIORS, SMALL, best, measure_trust, useful


def reached(shifted, clean=0.9):
    return Agreement(
        torch.tensor([clean - 0.1, clean + 0.1], dtype=torch.double),
        torch.tensor([shifted, shifted], dtype=torch.double),
    )


def chosen(*shifted, before=0.5, clean=None):
    clean = clean or [0.9] * len(shifted)
    trials = [(float(place), [reached(*each)]) for place, each in enumerate(zip(shifted, clean))]
    return best(iter(trials), reached(before))


def test_the_first_of_equal_values_is_the_best():
    assert chosen(0.6, 0.6, 0.6) == 0


def test_the_highest_agreement_on_corrupted_images_is_the_best():
    assert chosen(0.55, 0.6, 0.7, 0.65) == 2


def test_a_more_trustful_value_that_is_little_worse_is_as_good():
    assert chosen(0.591, 0.6) == 0
    assert chosen(0.589, 0.6) == 1
    assert chosen(0.58, 0.595, 0.6) == 1


def test_no_value_is_good_that_does_not_improve():
    assert chosen(0.5, 0.5) is None
    assert chosen(0.4, 0.3, 0.45) is None
    assert best(iter([]), reached(0.5)) is None


def test_a_value_below_the_frozen_one_is_not_chosen_for_being_near_the_best():
    assert chosen(0.499, 0.505) == 1


def test_a_loss_on_clean_images_excludes_a_value():
    assert chosen(0.8, 0.7, 0.6, clean=[0.87, 0.879, 0.9]) == 2
    assert chosen(0.8, 0.7, clean=[0.881, 0.9]) == 0
    assert chosen(0.8, 0.7, clean=[0.5, 0.6]) is None


def test_useful_values_are_better_and_cost_little():
    reaches = ((0.6, 0.9), (0.7, 0.87), (0.65, 0.881), (0.5, 0.9), (0.64, 0.9), (0.9, 0.9))
    trials = [(place, [reached(*each)]) for place, each in enumerate(reaches)]
    found = useful(iter(trials), reached(0.5))
    assert [value for value, _ in found] == [0, 2, 4]  # two in a row are worse: the search ends
    assert [shifted for _, shifted in found] == pytest.approx([0.6, 0.65, 0.64])


def test_every_batch_size_must_keep_clean_images():
    trial = [reached(0.8), reached(0.8, clean=0.5)]
    assert best(iter([(0.0, trial), (1.0, [reached(0.6)])]), reached(0.5)) == 1


def test_the_search_ends_after_two_worse_values():
    asked = []

    def trials():
        for value, shifted in ((1.0, 0.6), (0.7, 0.58), (0.5, 0.55), (0.3, 0.9)):
            asked.append(value)
            yield value, [reached(shifted)]

    assert best(trials(), reached(0.5)) == 1
    assert asked == [1.0, 0.7, 0.5]


@pytest.mark.parametrize("trust", [Trust(0), Trust(5), Trust(3, 0.7), Trust(2, 0), Trust(0, 0.2)])
@pytest.mark.parametrize("batch", [1, 4])
def test_the_answer_is_that_of_a_plain_loop(trust, batch):
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(3).eval()
    nn.init.uniform_(norm.weight)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    images = torch.randn(batch, 3, 4, 5)
    expected = torch.empty_like(images)
    weight = trust.limit * batch / (batch + trust.prior)
    for channel in range(3):
        values = images[:, channel].flatten().tolist()
        mean = sum(values) / len(values)
        variance = sum((value - mean) ** 2 for value in values) / len(values)
        mean = weight * mean + (1 - weight) * norm.running_mean[channel]
        variance = weight * variance + (1 - weight) * norm.running_var[channel]
        scaled = (images[:, channel] - mean) / (variance + norm.eps) ** 0.5
        expected[:, channel] = scaled * norm.weight[channel] + norm.bias[channel]
    network = nn.Sequential(norm)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    replace_batch_norms(network, Control(), BatchStatistics(trust.prior, trust.limit))
    torch.testing.assert_close(network(images), expected)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


@pytest.mark.parametrize("limit", [-0.1, 1.1, float("nan")])
def test_a_limit_outside_of_0_to_1_is_refused(limit):
    with pytest.raises(InputError, match="limit must lie"):
        BatchStatistics(limit=limit).check()


def held_out(count=64):
    """Images of one colour each; nothing is corrupted."""
    generator = torch.Generator().manual_seed(0)
    colours = torch.randint(0, 120, (count, 3, 1, 1), generator=generator).expand(-1, -1, 4, 4)
    clean = colours.to(torch.uint8)
    images = dict.fromkeys((CLEAN, *SHIFTS), clean)
    unknown = torch.empty(0)
    return HeldOut(images, unknown, unknown, Preprocessing(4, (0, 0, 0), (1, 1, 1)), "fp32")


def classifier(held, norm=True):
    """Its answer is the strongest colour after normalisation by the clean images' statistics."""
    layer = nn.BatchNorm2d(3) if norm else nn.Identity()
    encoder = nn.Sequential(layer, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    head = nn.Linear(3, 3, bias=False)
    with torch.no_grad():
        head.weight.copy_(4 * torch.eye(3))
        pixels = held.images[CLEAN] / 255
        if norm:
            layer.running_mean.copy_(pixels.mean((0, 2, 3)))
            layer.running_var.copy_(pixels.var((0, 2, 3), unbiased=False))
        model = Classifier(encoder, head).eval().requires_grad_(False)
        target = model(pixels).softmax(1)
        return model, replace(held, target=target, target_clean=target)


def test_a_shift_that_batch_statistics_undo_gives_full_trust_and_small_batches_a_prior():
    # Everything darker than the mean is the same to this network: a dark shift loses everything.
    model, held = classifier(held_out())
    darker = {name: images // 4 for name, images in held.images.items() if name != CLEAN}
    held = replace(held, images={CLEAN: held.images[CLEAN]} | darker)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trials = []
    trust = measure_trust(model, held, lambda *told: trials.append(told))
    assert trust is not None and trust.limit == 1
    assert trust.prior > 0  # one image alone has no statistics worth the name
    assert 0 < len(trials) <= len(LIMITS) + len(PRIORS)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(layer.training for layer in model.modules())
    assert type(model.encoder[0]) is nn.BatchNorm2d


def test_without_a_shift_nothing_is_better_than_the_sources_statistics():
    model, held = classifier(held_out())
    assert measure_trust(model, held) == Trust(prior=0, limit=0)


def test_a_model_without_batch_norm_has_no_trust():
    model, held = classifier(held_out(), norm=False)
    assert measure_trust(model, held) is None


def test_both_judge_of_clean_images_and_few_are_tried_in_small_batches(monkeypatch):
    model, held = classifier(held_out(200))
    asked = []

    def scripted(model, held, trust, *, batch=64):
        asked.append((held, trust, batch))
        shifted = 0.5 if trust is None else 0.6 - abs(trust.limit - 0.5)
        each = torch.ones(len(held.target), dtype=torch.double)
        return Agreement(0.9 * each, shifted * each)

    monkeypatch.setattr(module, "agreement", scripted)
    assert measure_trust(model, held) == Trust(0, 0.5)
    judges = judged_by_both(held, model, Trust(0, MIDDLE)).target_clean
    assert not torch.allclose(judges, held.target_clean)
    assert not torch.allclose(judges, judged_by_both(held, model, None).target_clean)
    for given, trust, batch in asked:
        count = len(given.target)
        assert trust is None or count == (128 if batch in SMALL else 200)
        assert len(given.images[CLEAN]) == count
        torch.testing.assert_close(given.target, held.target[:count])
        torch.testing.assert_close(given.target_clean, judges[:count])
    assert {batch for _, _, batch in asked} == {64, *SMALL}
    # What is reached without any trust is measured on the same images.
    assert sorted(len(given.target) for given, trust, _ in asked if trust is None) == [128, 200]
