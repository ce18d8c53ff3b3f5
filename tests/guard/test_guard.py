"""The guard around real adapters: what it answers, keeps, takes back and writes down."""

import copy
import json
from dataclasses import replace

import pytest
import torch

from acclimate.adapt import Adapter
from acclimate.errors import InputError
from acclimate.guard import log
from acclimate.guard.budget import Distance
from acclimate.guard.guard import Guard
from acclimate.guard.rules import Rules

ALWAYS = Rules(frozen_below=0.0, adapted_above=0.0, worse_below=0.0, fewest_classes=0.0)
NEVER = Rules(frozen_below=1.0, adapted_above=1.0, worse_below=0.0, fewest_classes=0.0)
HARMED = Rules(frozen_below=1.0, adapted_above=1.0, worse_below=1.0, fewest_classes=0.0)


def stream(images, batches=3, size=8):
    return [images[n * size : (n + 1) * size] for n in range(batches)]


def test_without_a_guard_answers_are_the_adapter_s(guarded, images, monkeypatch):
    bundle = guarded("tent")
    guard, alone = Guard(Adapter(bundle, "tent"), bundle, "off"), Adapter(bundle, "tent")
    with monkeypatch.context() as patched:
        patched.setattr(guard, "frozen", None)  # no pass of it
        for batch in (images[:8], images[[0, 0]], torch.zeros_like(images[:4])):
            assert torch.equal(guard(batch), alone(batch))
    assert guard.verdict is None and guard.change is None and not guard.decisions


def test_the_mode_may_change_from_batch_to_batch(guarded, images):
    bundle = guarded("tent")
    guard, alone = Guard(Adapter(bundle, "tent"), bundle, rules=ALWAYS), Adapter(bundle, "tent")
    frozen = Adapter(bundle, "source")
    for mode, batch in zip(("off", "shadow", "bounded", "off", "shadow"), stream(images, 5)):
        guard.mode = mode
        expected = alone(batch)
        assert torch.equal(guard(batch), frozen(batch) if mode == "shadow" else expected)
        assert (guard.verdict is None) == (mode == "off") and guard.mode == mode
    assert [line["first"] for line in guard.decisions] == [8, 16, 32]


def test_adaptation_runs_in_the_shadow(guarded, images):
    bundle = guarded("tent")
    guard, alone = Guard(Adapter(bundle, "tent"), bundle, "shadow"), Adapter(bundle, "tent")
    for batch in stream(images):
        guard(batch), alone(batch)
    mine, theirs = guard.adapter.snapshot().tensors, alone.snapshot().tensors
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    assert [line["answer"] for line in guard.decisions] == ["frozen"] * 3


@pytest.mark.parametrize(("rules", "whose"), [(ALWAYS, "adapted"), (NEVER, "frozen")])
def test_answers_are_of_one_model(guarded, images, rules, whose):
    bundle = guarded("tent")
    guard = Guard(Adapter(bundle, "tent"), bundle, rules=rules)
    models = {"adapted": Adapter(bundle, "tent"), "frozen": Adapter(bundle, "source")}
    for batch in stream(images):
        answers = {name: model(batch) for name, model in models.items()}
        assert torch.equal(guard(batch), answers[whose])
    assert guard.verdict.answer == whose


def test_what_does_harm_is_taken_back(guarded, images):
    bundle = guarded("tent")
    guard = Guard(Adapter(bundle, "tent"), bundle, rules=HARMED)
    before = guard.adapter.snapshot().tensors
    guard(images[:8])
    after = guard.adapter.snapshot().tensors
    assert guard.verdict.learning == "roll back"
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_after_the_budget_s_steps_nothing_more_is_learned(guarded, images):
    bundle = guarded("tent")
    guard = Guard(Adapter(bundle, "tent"), bundle, rules=replace(ALWAYS, most_steps=2))
    for batch in stream(images, 2):
        guard(batch)
    before = guard.adapter.snapshot().tensors
    expected = guard.adapter.peek(images[16:24])
    assert torch.equal(guard(images[16:24]), expected)
    after = guard.adapter.snapshot().tensors
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert [line["steps_taken"] for line in guard.decisions] == [1, 1, 0]
    assert [line["learning"] for line in guard.decisions] == ["go on", "hold", "hold"]
    guard.reset()
    guard(images[:8])
    assert guard.verdict.learning == "go on"


def test_weights_that_are_too_far_from_the_source_go_back(guarded, images):
    bundle = guarded("tent")
    for most, learning in ((10.0, "go on"), (0.0, "roll back")):
        rules = replace(ALWAYS, most_distance=most)
        guard = Guard(Adapter(bundle, "tent"), bundle, rules=rules)
        before = guard.adapter.snapshot().tensors
        guard(images[:8])
        after = guard.adapter.snapshot().tensors
        back = all(torch.equal(after[name], before[name]) for name in before)
        assert guard.verdict.learning == learning and back == (learning == "roll back")


def test_the_distance_is_that_of_the_weights_that_move(guarded, images):
    bundle = guarded("tent")
    adapter = Adapter(bundle, "tent", update={"learning_rate": 0.1})
    distance = Distance(adapter, bundle)
    assert distance() == 0
    adapter(images[:8])
    moved = [n for n in adapter.snapshot().tensors if n.startswith("model.encoder.")]
    source = dict(bundle.classifier.named_parameters())
    now = dict(adapter.model.named_parameters())
    names = [name.removeprefix("model.") for name in moved if name.removeprefix("model.") in now]
    first = torch.cat([source[name].detach().flatten() for name in names])
    second = torch.cat([now[name].detach().flatten() for name in names])
    expected = float((second - first).norm() / first.norm())
    assert len(names) > 4 and distance() == pytest.approx(expected, rel=1e-4) and expected > 0
    assert Distance(Adapter(bundle, "ptbn"), bundle)() == 0


def test_images_of_one_colour_are_kept_from_the_adapter(guarded, images):
    bundle = guarded("tent")
    guard = Guard(Adapter(bundle, "tent"), bundle, rules=ALWAYS)
    seen = []
    call = guard.adapter.__class__.__call__

    class Watched(guard.adapter.__class__):
        def __call__(self, images):
            seen.append(len(images))
            return call(self, images)

    guard.adapter.__class__ = Watched
    mixed = images[:8].clone()
    mixed[[1, 5]] = 0
    answers = guard(mixed)
    frozen = Adapter(bundle, "source")(mixed)
    assert seen == [6] and torch.equal(answers[[1, 5]], frozen[[1, 5]])
    guard(torch.zeros_like(mixed))
    assert seen == [6]


def test_equal_images_are_shown_to_the_adapter_once(guarded, images):
    bundle = guarded("acclimate")
    guard, alone = (Adapter(bundle, "acclimate") for _ in range(2))
    guard = Guard(guard, bundle, rules=ALWAYS)
    repeated = images[[0, 1, 0, 2, 1, 3]]
    assert torch.equal(guard(repeated), alone(images[:4])[[0, 1, 0, 2, 1, 3]])


def test_repeated_images_count_as_adapted_answers(guarded, images):
    bundle = guarded("acclimate")
    guard = Guard(Adapter(bundle, "acclimate"), bundle, rules=ALWAYS)
    guard(images[:4].repeat(8, 1, 1, 1))
    assert guard.verdict.use_adapted.all() and guard.decisions[-1]["adapted_answers"] == 32
    estimate = guard.verdict.estimate
    assert abs(estimate.guarded.value - estimate.adapted.value) < 0.02


def test_a_batch_that_is_not_shown_takes_no_steps(guarded, images):
    bundle = guarded("tent")
    guard = Guard(Adapter(bundle, "tent"), bundle, rules=ALWAYS)
    guard(images[:8])
    adapted = guard.verdict.estimate.adapted.value
    guard(torch.zeros_like(images[:8]))
    assert [line["steps_taken"] for line in guard.decisions] == [1, 0]
    assert guard.verdict.estimate.adapted.value == pytest.approx(adapted, abs=1e-6)


@pytest.mark.parametrize("mode", ["bounded", "shadow"])
def test_the_caller_s_contexts_change_nothing(guarded, images, mode):
    bundle = guarded("tent")
    usual = Guard(Adapter(bundle, "tent"), bundle, mode)
    with torch.inference_mode():
        other = Guard(Adapter(bundle, "tent"), bundle, mode)
    for batch in stream(images):
        expected = usual(batch)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(other(batch), expected)


def test_a_guard_can_be_copied(guarded, images, tmp_path):
    bundle = guarded("tent")
    guard = Guard(Adapter(bundle, "tent"), bundle, log=tmp_path / "log")
    guard(images[:8])
    other = copy.deepcopy(guard)
    assert torch.equal(guard(images[8:16]), other(images[8:16]))
    assert len((tmp_path / "log").read_text().splitlines()) == 3


def test_a_log_that_fails_costs_no_answer(guarded, images, tmp_path, caplog):
    bundle = guarded("tent")
    (tmp_path / "logs").mkdir()
    guard = Guard(Adapter(bundle, "tent"), bundle, log=tmp_path / "logs" / "log")
    (tmp_path / "logs" / "log").unlink()
    (tmp_path / "logs").rmdir()
    guard(images[:8]), guard(images[8:16])
    assert len(guard.decisions) == 2 and caplog.text.count("cannot write") == 1


def test_a_large_log_gives_way(tmp_path, monkeypatch):
    monkeypatch.setattr(log, "FILE_BYTES", 200)
    kept = log.DecisionLog(tmp_path / "log")
    for number in range(50):
        kept.add({"number": number})
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["log", "log.1"]
    assert all((tmp_path / name).stat().st_size < 300 for name in files)
    assert len(kept.last) == 50


def test_statistics_of_few_images_are_not_relied_on(guarded, images):
    bundle = guarded("tent")
    guard = Guard(Adapter(bundle, "tent"), bundle, rules=ALWAYS)
    frozen = Adapter(bundle, "source")(images[:3])
    assert torch.equal(guard(images[:3]), frozen) and not guard.adapter.steps
    assert not torch.equal(guard(images[:4]), Adapter(bundle, "source")(images[:4]))


def test_a_change_of_the_stream_is_told(guarded, images):
    bundle = guarded("tent")
    guard = Guard(Adapter(bundle, "tent"), bundle)
    found = []
    for number in range(32):
        batch = images[(torch.arange(16) + 16 * number) % 160]
        batch = batch // 2 if number >= 20 else batch
        guard(batch + torch.arange(16, dtype=torch.uint8)[:, None, None, None] % 2)
        found.append(guard.change.found)
    assert sum(found) == 1 and 20 <= found.index(True) < 32
    assert guard.decisions[found.index(True)]["changed"]


def test_a_reset_is_a_new_beginning(guarded, images):
    bundle = guarded("tent")
    guard, new = (Guard(Adapter(bundle, "tent"), bundle) for _ in range(2))
    guard(images[:8])
    guard.reset()
    assert torch.equal(guard(images[8:16]), new(images[8:16]))


def test_each_decision_is_written_down(guarded, images, tmp_path):
    bundle = guarded("tent")
    guard = Guard(Adapter(bundle, "tent"), bundle, log=tmp_path / "guard.jsonl")
    for batch in stream(images):
        guard(batch)
    lines = [json.loads(line) for line in (tmp_path / "guard.jsonl").read_text().splitlines()]
    assert lines == guard.decisions
    assert [line["first"] for line in lines] == [0, 8, 16]
    assert all(line["reason"].endswith(".") for line in lines)


def test_what_cannot_be_guarded_is_refused(bundle_of, guarded, tmp_path):
    bundle = guarded("tent")
    with pytest.raises(InputError, match="no calibration"):
        Guard(Adapter(bundle_of("tent"), "tent"), bundle_of("tent"))
    with pytest.raises(InputError, match="unknown mode 'shade': did you mean shadow"):
        Guard(Adapter(bundle, "tent"), bundle, "shade")
    with pytest.raises(InputError, match="unknown mode 'on'"):
        Guard(Adapter(bundle, "tent"), bundle).mode = "on"
    with pytest.raises(InputError, match="cannot write"):
        Guard(Adapter(bundle, "tent"), bundle, log=tmp_path / "missing" / "log")


def test_the_frozen_classifier_by_itself_answers_once_a_batch(guarded, images):
    bundle = guarded("source")
    guard = Guard(Adapter(bundle, "source"), bundle)
    assert guard.frozen is guard.adapter
    answers = guard(images[:16])
    assert torch.equal(answers, Adapter(bundle, "source")(images[:16]))
    assert torch.equal(*guard.both)
    bundle = guarded("aligned")  # another model with the same settings
    other = Guard(Adapter(bundle, "aligned"), bundle, "shadow")
    assert other.frozen is not other.adapter
    assert torch.equal(other(images[:16]), Adapter(bundle, "source")(images[:16]))
