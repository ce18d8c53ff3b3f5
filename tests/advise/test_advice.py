import time
from dataclasses import replace
from inspect import signature

import pytest
import torch

from acclimate.advise import advice as module
from acclimate.advise import advise, plan
from acclimate.advise.choose import Choice, Gain
from acclimate.advise.labelled import by_labels
from acclimate.advise.page import page_of
from acclimate.advise.plan import duration, evenly
from acclimate.advise.streams import CONDITIONS
from acclimate.advise.words import remarks_of, rows, settings_of, verdict_of
from acclimate.errors import InputError
from acclimate.guard import measure_guard
from acclimate.source.loop import Run

pytestmark = pytest.mark.usefixtures("less")
RUN = Run(device="cpu", precision="fp32")
METHODS = ("bn-adapt", "tent", "acclimate")


@pytest.fixture
def made(bundle, images):
    return advise(bundle, images[:70], images[70:], batches=(16,), methods=METHODS, run=RUN)


def same(first, second):
    assert first.choice == second.choice
    for one, other in zip(first.trials, second.trials, strict=True):
        assert torch.equal(one.scores, other.scores)
        assert torch.equal(one.target.logits, other.target.logits)
        assert one.target.estimate == other.target.estimate


def test_it_is_the_same_again_and_whole(made, bundle, images):
    again = advise(bundle, images[:70], images[70:], batches=(16,), methods=METHODS, run=RUN)
    same(made, again)
    assert [str(trial.candidate.variant) for trial in made.trials] == list(METHODS)
    for trial in made.trials:
        assert trial.scores.shape == made.frozen.shape and trial.scores.isfinite().all()
        assert trial.milliseconds > 0 and trial.cost.forward_equivalents >= 0.9
        assert len(trial.target.logits) == len(made.target.images) == 40
    assert float(made.weights.sum()) == pytest.approx(1)
    assert 0 <= made.target.estimated <= 1


@pytest.mark.parametrize(("order", "count"), [("shuffled", 32), ("arrival", 64)])
def test_several_batches_are_tried_on_however_short_the_time_is(
    bundle, images, monkeypatch, order, count
):
    monkeypatch.setattr(plan, "FEWEST", 8)
    given = {"batches": (4, 16), "methods": ("bn-adapt",), "minutes": 1e-6, "run": RUN}
    assert advise(bundle, images[:70], order=order, **given).frozen.shape[1] == count


def test_labels_are_read_after_the_advice_and_do_not_change_it(made, images):
    """The advice is made from images alone; scrambled labels change what is said beside it."""
    assert not [name for name in signature(advise).parameters if "label" in name]
    labels = torch.arange(len(images) - 70) % 4
    first, second = by_labels(made, labels), by_labels(made, labels.flip(0))
    assert first.gains.keys() == second.gains.keys() and first != second
    seen = labels[made.target.rows]
    assert torch.equal(made.target.images, images[70:][made.target.rows])
    right = (made.trials[0].target.logits.argmax(1) == seen).double().mean()
    frozen = (made.target.frozen.argmax(1) == seen).double().mean()
    found = first.gains[made.trials[0].candidate]
    assert found.value == pytest.approx(float(right - frozen), abs=1e-9)
    assert first.frozen == float(frozen)
    assert verdict_of(made) == verdict_of(made)
    assert first.best is None or first.gains[first.best].value > 0


def test_the_words_say_what_was_measured(made):
    labelled = by_labels(made, torch.zeros(90, dtype=torch.int64))
    assert len(rows(made)) == len(METHODS) + 1
    assert {len(row) for row in rows(made, labelled)} == {8}
    page = page_of(made, "<b>", labelled)
    assert "<b>" not in page.split("<body>")[1] and "&lt;b&gt;" in page
    assert "measured with labels" in page and "measured with labels" not in page_of(made, "b")
    settings = settings_of(made, "sum", 16)
    assert settings.guard == "off" and settings.batch == 16
    chosen = made.choice.chosen
    assert settings.variant.method == ("source" if chosen is None else chosen.variant.method)
    assert remarks_of(made)["target_images"] == 40
    assert verdict_of(made).headline.startswith("Do not adapt" if chosen is None else "Adapt with")


def test_the_words_say_in_which_order_source_images_came(made):
    """Shuffled too where target images come in an order that is not by class."""
    for order, target, by_class, said in (
        ("shuffled", None, False, "shuffled"),
        ("arrival", None, False, "as they are listed"),
        ("arrival", made.target, False, "shuffled"),
        ("arrival", made.target, True, "by class"),
    ):
        reasons = verdict_of(replace(made, order=order, target=target, by_class=by_class)).reasons
        assert f"which came {said}, in " in " ".join(reasons)


def test_words_of_no_advice(made):
    """The reason is the one that holds: a refusal, a sure loss, or no sure gain."""
    trial = made.trials[1]
    name = trial.candidate

    def said(gain, refused=()):
        choice = Choice(None, {name: gain}, name)
        advice = replace(made, choice=choice, trials=(trial,), refused=dict(refused))
        return verdict_of(advice)

    assert (
        "the guard says no" in said(Gain(0.1, 0.05, 0.15), [(name, "the guard says no")]).headline
    )
    assert "every method that was tried loses" in said(Gain(-0.1, -0.15, -0.05)).headline
    unsure = said(Gain(0.01, -0.02, 0.04))
    assert "no gain is sure" in unsure.headline and "+1.0 [-2.0, +4.0]" in unsure.headline
    assert "shadow" in unsure.reasons[0]


def test_words_of_a_choice(made):
    trial = next(trial for trial in made.trials if trial.candidate.variant.method == "acclimate")
    gain = Gain(0.03, 0.01, 0.05)
    choice = Choice(trial.candidate, {each.candidate: gain for each in made.trials}, None)
    said = verdict_of(replace(made, choice=choice))
    assert (
        said.headline
        == "Adapt with acclimate, in batches of 16: it gains +3.0 [+1.0, +5.0] points."
    )
    text = " ".join(said.reasons)
    assert "forgotten never" not in text and "It keeps what it learns." in text
    assert "speckle noise" in text and "forward passes in place of 1" in text


def test_a_guard_is_advised_where_the_bundle_has_one(bundle, images, monkeypatch):
    """Scores are made up, so that a method is surely good."""
    monkeypatch.setattr(module, "on_source", _all_right)
    common = {"batches": (16,), "methods": METHODS, "run": RUN}
    without = advise(bundle, images[:70], **common)
    assert str(without.choice.chosen.variant) == "bn-adapt" and without.guard == "off"
    assert "no calibration" in " ".join(verdict_of(without).reasons)
    guarded = measure_guard(bundle, images[:70])
    assert advise(guarded, images[:70], **common).guard == "bounded"
    kept = {n: each for n, each in guarded.statistics.items() if ".places." not in n}
    older = replace(guarded, statistics=kept)  # as of a version without changes by sight
    assert advise(older, images[:70], **common).guard == "off"


def _all_right(adapters, frozen, stream, watch, tell):
    for candidate, adapter in adapters.items():
        watch.answers(candidate, adapter, stream.images[:16], tell)
    shape = len(CONDITIONS), len(stream.images)
    return {candidate: torch.ones(shape) for candidate in adapters}, torch.zeros(shape)


def test_it_says_beforehand_how_long_it_takes(bundle, images):
    said = []
    started = time.perf_counter()
    advise(bundle, images[:70], batches=(16,), methods=("bn-adapt",), run=RUN, say=said.append)
    assert time.perf_counter() - started < 60
    assert len(said) == 1 and said[0].startswith("this takes about ")
    assert "64 source images" in said[0]
    assert (duration(0.2), duration(180), duration(7200)) == ("1 seconds", "3 minutes", "2.0 hours")


def test_images_by_class_come_by_class_on_the_source_too(bundle, images):
    target = images[70:].clone()
    target[:] = target[torch.arange(90) // 45 * 45]  # two different images, each many times
    found = advise(
        bundle, images[:70], target, batches=(16,), order="arrival", methods=("tent",), run=RUN
    )
    assert found.by_class == found.target.by_class
    assert torch.equal(found.target.rows, evenly(90, 40))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"order": "sorted"}, "unknown order 'sorted'"),
        ({"count": 63}, "at least 64 grey or RGB source images, not 63"),
        ({"methods": ("source:seed=1",)}, "changes the seed"),
        ({"batches": (1,), "methods": ("tent",)}, "there is nothing to choose among"),
    ],
)
def test_what_cannot_be_meant_is_refused(bundle, images, change, said):
    given = {"count": 64, **change}
    with pytest.raises(InputError, match=said):
        advise(bundle, images[: given.pop("count")], run=RUN, **given)
