"""Images held out: which they are, and what is measured on them without labels."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from trials import few_trials

from acclimate.backbones import build, split
from acclimate.backbones.batch_norm import Trust
from acclimate.preprocessing import Preprocessing
from acclimate.source import held_out as module
from acclimate.source import stages
from acclimate.source.aligned import align
from acclimate.source.held_out import (
    CLEAN,
    SHIFTS,
    agreement,
    hold_out,
    judged_by_both,
    part_of,
)
from acclimate.source.images import SourceImages
from acclimate.source.presets import PRESETS, with_epochs
from acclimate.source.stages import Work

PREPROCESSING = Preprocessing(16)


def numbered(count, channels=3):
    """Images that carry their number in two pixels, and labels that no stage could take."""
    images = torch.zeros(count, channels, 16, 16, dtype=torch.uint8)
    numbers = torch.arange(count)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = numbers // 256, numbers % 256
    return SourceImages(images, Preprocessing(16), torch.full((count,), 9999))


def numbers_of(source):
    first = torch.cat([*source.images.split(1000)])[:, 0, 0].int()
    return (first[:, 0] * 256 + first[:, 1]).tolist()


def model():
    torch.manual_seed(0)
    found = split(build("acclimate:resnet8-w4", classes=3)).eval().requires_grad_(False)
    for layer in found.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(std=0.2)
            layer.running_var.uniform_(0.5, 1.5)
    return found


def pictures(count=16):
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (count, 3, 16, 16), generator=generator, dtype=torch.uint8)
    return SourceImages(images, PREPROCESSING)


@pytest.mark.parametrize("count", [80, 81, 640, 700, 9_999, 10_000, 20_001])
def test_no_image_is_in_both_parts_and_none_is_lost(count):
    rest, held = map(numbers_of, part_of(numbered(count), chooses=True))
    assert not set(rest) & set(held)
    assert sorted(rest + held) == list(range(count))
    assert len(held) == min(512, count // 5)
    gaps = torch.tensor(held).diff()
    assert gaps.max() - gaps.min() <= 1  # evenly spaced


def test_very_many_images_are_not_copied():
    source = numbered(10_007)
    rest, held = part_of(source, chooses=True)
    assert isinstance(rest.images, module._Rest)
    plain = source.part(torch.tensor(sorted({*range(10_007)} - {*numbers_of(held)})))
    assert rest.identity() == plain.identity() and torch.equal(rest.labels, plain.labels)
    assert rest.images.shape == plain.images.shape
    assert numbers_of(rest.sample(100)) == numbers_of(plain.sample(100))
    for name, count in (("split", 100), ("tensor_split", 7)):
        pairs = zip(*(getattr(each.images, name)(count) for each in (rest, plain)), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("count", [80, 9_999])
def test_fewer_are_held_out_whatever_for(count):
    one, other = (part_of(numbered(count), chooses=chooses) for chooses in (True, False))
    assert list(map(numbers_of, one)) == list(map(numbers_of, other))


@pytest.mark.parametrize(
    ("count", "chooses"), [(2, True), (79, True), (79, False), (10_000, False)]
)
def test_few_images_and_very_many_by_which_nothing_is_chosen_are_in_both_parts(count, chooses):
    source = numbered(count)
    rest, held = part_of(source, chooses=chooses)
    assert rest is source
    assert len(held.images) == min(count, 512)


def test_too_few_images_and_images_that_are_not_rgb_measure_nothing():
    assert hold_out(model(), pictures(15), "fp32") is None
    assert hold_out(model(), numbered(40, channels=1), "fp32") is None


def test_the_agreement_is_the_frozen_probability_of_each_answer():
    frozen, other = model(), model()
    other.head.weight.neg_()
    held = hold_out(frozen, pictures(), "fp32")
    assert held is not None and set(held.images) == {CLEAN, *SHIFTS}
    found = agreement(other, held, None, batch=5)
    with torch.no_grad():
        target = frozen(PREPROCESSING(held.images[CLEAN])).softmax(1)
        for place in range(16):
            scores = {}
            for name, images in held.images.items():
                answer = other(PREPROCESSING(images[place : place + 1])).argmax()
                scores[name] = float(target[place, answer])
            assert float(found.of_clean[place]) == pytest.approx(scores[CLEAN], abs=1e-5)
            shifted = sum(scores[name] for name in SHIFTS) / len(SHIFTS)
            assert float(found.of_shifted[place]) == pytest.approx(shifted, abs=1e-5)
    assert found.clean == pytest.approx(float(found.of_clean.mean()))
    best = agreement(frozen, held, None)
    assert best.clean == pytest.approx(float(target.max(1).values.mean()), abs=1e-6)
    assert best.clean >= found.clean


def test_a_model_is_as_before_when_its_agreement_is_known():
    frozen = model()
    before = {name: value.clone() for name, value in frozen.state_dict().items()}
    kinds = [type(layer) for layer in frozen.modules()]
    held = hold_out(frozen, pictures(), "fp32")
    agreement(frozen, held, Trust(1, 0.5), batch=4)
    assert kinds == [type(layer) for layer in frozen.modules()]
    assert all(torch.equal(before[name], value) for name, value in frozen.state_dict().items())
    none = agreement(frozen, held, Trust(1, 0.0), batch=4)
    assert torch.equal(none.of_shifted, agreement(frozen, held, None).of_shifted)


def test_labels_do_not_reach_what_is_measured():
    source = pictures(20)
    work = [
        Work(model(), SourceImages(source.images, PREPROCESSING, labels), None, stages.Run())
        for labels in (None, torch.zeros(20, dtype=torch.long), torch.arange(20))
    ]
    first, *others = map(stages.measure, work)
    assert first[1].keys() == {
        f"{who}, {kind}" for who in ("frozen", "classifier") for kind in ("clean", "shifted")
    }
    assert all(other == first for other in others)


def test_a_twin_is_not_trained_on_images_held_out(make, data, monkeypatch):
    seen = {}

    def watched(name, function):
        def run(*arguments, **named):
            (images,) = [each for each in arguments if isinstance(each, SourceImages)]
            seen[name] = images.images
            return function(*arguments, **named)

        return run

    for name in ("align_twin", "hold_out", "fit"):
        monkeypatch.setattr(stages, name, watched(name, getattr(stages, name)))
    make("cta", interpolation=None)
    held = {image.numpy().tobytes() for image in seen["hold_out"]}
    assert len(seen["hold_out"]) == len(data.images) // 5 >= module.FEWEST
    for name in ("align_twin", "fit"):
        trained = {image.numpy().tobytes() for image in seen[name]}
        assert not trained & held


@pytest.mark.parametrize("many", [True, False])
@pytest.mark.parametrize("share", [None, 0.5])
def test_what_is_said_to_be_held_out_is(data, monkeypatch, caplog, many, share):
    """Where images are too many to be copied, as well; a test's threshold stands for 10,000."""
    caplog.set_level("INFO", "acclimate")
    monkeypatch.setattr(module, "_MANY", len(data.images) if many else 10_000)
    original, shown = (stages.fit, stages.hold_out), {}

    def fit(name, network, source, *others, **named):
        shown["trained"] = {each.numpy().tobytes() for each in torch.cat([*source.images.split(9)])}
        return original[0](name, network, source, *others, **named)

    def hold(classifier, source, precision):
        shown["held"] = {each.numpy().tobytes() for each in source.images}
        return original[1](classifier, source, precision)

    monkeypatch.setattr(stages, "fit", fit)
    monkeypatch.setattr(stages, "hold_out", hold)
    settings = replace(with_epochs(PRESETS["small"], 1), interpolation=share)
    with few_trials():
        run = stages.Run(device="cpu", precision="fp32")
        align(model(), data.images, settings=settings, run=run)
    disjoint = not shown["trained"] & shown["held"]
    assert disjoint == (share is None or not many)
    assert ("on held-out images" in caplog.text) == disjoint
    assert ("on images that the twin is trained on" in caplog.text) != disjoint


def test_two_judges_have_the_same_weight():
    source, judge = pictures(32), model()
    held = hold_out(judge, source, "fp32")
    assert held is not None
    torch.manual_seed(1)
    other = split(build("acclimate:resnet8-w4", classes=3)).eval()
    shuffled = held.preprocessing(held.images[CLEAN])
    with torch.no_grad():
        expected = (judge(shuffled).softmax(1) + other(shuffled).softmax(1)) / 2
    both = judged_by_both(held, other, None)
    torch.testing.assert_close(both.target_clean, expected)
    assert both.images is held.images and both.target is held.target
    kinds = [type(layer) for layer in other.modules()]
    trusting = judged_by_both(held, other, Trust(0, 1))
    assert not torch.allclose(trusting.target_clean, expected)
    assert kinds == [type(layer) for layer in other.modules()]


def test_with_two_judges_a_changed_answer_is_no_loss_by_itself():
    # A frozen classifier that judges alone gives itself the most that there is.
    held = hold_out(model(), pictures(64), "fp32")
    assert held is not None
    torch.manual_seed(2)
    other = split(build("acclimate:resnet8-w4", classes=3)).eval()
    with torch.no_grad():
        other.head.weight.mul_(100)  # certain of its answers
    alone, both = held, judged_by_both(held, other, None)
    assert agreement(other, alone, None).clean < agreement(model(), alone, None).clean
    assert agreement(other, both, None).clean > agreement(model(), both, None).clean
    assert agreement(other, both, None).shifted == agreement(other, alone, None).shifted


def test_of_large_images_fewer_are_held_out():
    sizes = {(8, 8): 512, (64, 64): 512, (65, 65): 128, (8, 65): 128, (65, 8): 128}
    for (stored, seen), count in sizes.items():
        images = torch.zeros(1, 3, stored, stored, dtype=torch.uint8).expand(5000, -1, -1, -1)
        _, held = part_of(SourceImages(images, Preprocessing(seen)), chooses=True)
        assert len(held.images) == count


def test_the_first_images_are_the_same_under_each_corruption():
    held = hold_out(model(), pictures(40), "fp32")
    assert held is not None
    first = held.first(17)
    assert all(torch.equal(first.images[name], held.images[name][:17]) for name in held.images)
    assert torch.equal(first.target, held.target[:17])
