"""CoTTA, RoTTA, PeTTA and NOTE as adapters: against CoTTA's release, and what papers claim."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from acclimate.adapt import Adapter, as_network
from acclimate.adapt.loop import adapt
from acclimate.backbones import Classifier
from acclimate.bundle import Bundle
from acclimate.errors import InputError
from acclimate.methods import METHODS
from acclimate.parts.aftermath import Restore
from acclimate.preprocessing import Preprocessing

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "online.npz")
NAMES = ("norm_weight", "norm_bias", "head_weight", "head_bias")
EXACT = {"device": "cpu", "precision": "fp32"}


def golden(name):
    return torch.from_numpy(np.asarray(GOLDEN[name])).double()


def close(found, name, rtol=1e-9):
    torch.testing.assert_close(found.detach().double(), golden(name), rtol=rtol, atol=1e-10)


class FirstSix(nn.Module):
    def forward(self, images):
        return images.flatten(1)[:, :6].double()


def toy():
    """The toy classifier of the golden file, in float64, on images that carry six numbers."""
    encoder, head = nn.Sequential(FirstSix(), nn.LayerNorm(6)), nn.Linear(6, 10)
    for module, name in ((encoder[1], "norm"), (head, "head")):
        module.weight.data = golden(f"toy_{name}_weight")
        module.bias.data = golden(f"toy_{name}_bias")
    preprocessing = Preprocessing(2, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    classifier = Classifier(encoder, head).double().eval()
    return Bundle(classifier, None, preprocessing, tuple("abcdefghij"), method="source")


def carried(x):
    """Numbers as images of 2 x 2 pixels."""
    return torch.cat([x, torch.zeros(len(x), 6)], dim=1).double().view(-1, 3, 2, 2)


def test_cotta_is_the_release():
    threshold, _, probability, rate = (float(x) for x in GOLDEN["cotta_settings"])
    adapter = Adapter(
        toy(),
        "cotta",
        objective={"released": True, "threshold": threshold},
        aftermath=(METHODS["cotta"].settings.aftermath[0], Restore(probability)),
        update={"learning_rate": rate},
        **EXACT,
    )
    learner = adapter._learner
    assert [name.split(".", 1)[1] for name in learner.moving] == [
        "encoder.1.weight",
        "encoder.1.bias",
        "head.weight",
        "head.bias",
    ]
    teacher, restore = learner.aftermath
    before = []

    def numbers(number):
        before.append(list(learner.moving.values())[number].clone())
        return golden(f"cotta_restore_uniform_{NAMES[number]}_{t}")

    def draw(images, key, index):
        x = golden("cotta_x")[t - 1]
        noise = golden("cotta_augmentation_noise")[t - 1]
        return (carried(torch.cat([x, *(x + noise)])),)

    restore.numbers, learner.objective.draw = numbers, draw
    for t in (1, 2):
        before.clear()
        with torch.no_grad():
            x = carried(golden("cotta_x")[t - 1])
            (logits,), (step,) = adapt(learner, x, torch.arange(8))
        close(logits, f"cotta_target_logits_{t}_as_released", rtol=1e-6)  # answers are float32
        close(step.loss, f"cotta_loss_{t}_as_released")
        averages = teacher.state().values()
        for name, own, old, average in zip(NAMES, learner.moving.values(), before, averages):
            close(old, f"cotta_student_before_restore_{name}_{t}")
            close(average, f"cotta_teacher_{name}_{t}")
            close(own, f"cotta_student_{name}_{t}")
    t = 1
    learner.objective.threshold = 0.5  # what the gate is when it is open
    views = draw(None, None, None)[0]
    with torch.no_grad():
        outcome = learner.objective(learner.model, views)
    close(outcome.logits, "cotta_gate_open_target_logits")
    close(outcome.losses.mean(), "cotta_gate_open_loss")


@pytest.mark.parametrize("name", ["rotta", "petta", "note"])
@pytest.mark.parametrize("norm", ["", "-gn"])
def test_methods_with_a_bank_do_not_depend_on_the_batch_size(
    bundle, group_norm_bundle, images, name, norm
):
    """Not even on where an update falls; NOTE's paper and RoTTA's claim single images."""
    given = group_norm_bundle if norm else bundle
    changes = {"memory": {"images": 16, "every": 16}, "update": {"learning_rate": 1e-2}}
    answers = []
    for size in (1, 13, 80):
        adapter = Adapter(given, name, **changes, **EXACT)
        answers.append(torch.cat([adapter(batch) for batch in images[:80].split(size)]))
        assert adapter._learner.counts.tolist() == [5, 0, 0]
    torch.testing.assert_close(answers[0], answers[2], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(answers[1], answers[2], atol=1e-4, rtol=1e-4)
    still = Adapter(given, name, **changes | {"update": {"learning_rate": 0.0}}, **EXACT)
    assert not torch.allclose(still(images[:80]), answers[2], atol=1e-4)


def test_rotta_s_teacher_has_statistics_of_its_own(bundle, images):
    """Those of the plain images; the student's are of the views."""
    adapter = Adapter(bundle, "rotta", memory={"every": 20}, **EXACT)
    teacher, norms = adapter._learner.teacher, adapter._learner.norms
    source = {name: tensor.clone() for name, tensor in norms.state().items()}
    assert teacher.statistics.keys() == source.keys() and source
    adapter(images[:20])
    for name, before in source.items():
        own, students = teacher.statistics[name], norms.state()[name]
        assert not torch.equal(own, before) and not torch.equal(students, before)
        assert not torch.equal(own, students)
    adapter.reset()
    assert all(torch.equal(teacher.statistics[name], before) for name, before in source.items())


def test_a_step_that_is_refused_leaves_the_teacher_s_statistics(bundle, images):
    adapter = Adapter(bundle, "rotta", memory={"every": 20}, **EXACT)
    before = adapter.snapshot().tensors
    next(iter(adapter._learner.moving.values())).register_hook(lambda g: g * float("nan"))
    adapter(images[:20])
    assert adapter.refused == 1
    after = adapter.snapshot().tensors
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert all(name == "counts" or name.startswith("memory.") or name == "seen" for name in changed)


def test_the_answer_of_a_teacher_is_exported(bundle, images):
    adapter = Adapter(bundle, "rotta", memory={"every": 40}, update={"learning_rate": 0.1}, **EXACT)
    adapter(images[:40])
    network = as_network(adapter)
    logits = adapter(images[40:60])  # no update falls in it
    with torch.no_grad():
        found = network(adapter.preprocessing.unit(images[40:60]))
    torch.testing.assert_close(found, logits, atol=1e-5, rtol=1e-5)
    assert not adapter.steps


def test_an_answer_that_is_not_finite_is_given_by_the_source(bundle, images):
    adapter = Adapter(bundle, "note", **EXACT)
    source = adapter(images[:20])
    adapter.reset()
    with torch.no_grad():
        next(iter(adapter._learner.moving.values())).fill_(torch.inf)
    assert torch.equal(adapter(images[:20]), source) and adapter.refused == 1


@pytest.mark.parametrize("name", ["rotta", "petta", "note"])
def test_a_bank_needs_the_answers_first(bundle, name):
    with pytest.raises(InputError, match="choose answer before or answer teacher"):
        Adapter(bundle, name, answer="after", **EXACT)


def test_a_trace_of_a_method_with_a_bank_is_its_answer(bundle, images):
    one, other = (Adapter(bundle, "rotta", memory={"every": 8}, **EXACT) for _ in range(2))
    traced = one.trace(images[:20])
    assert traced.shape[0] == 2 and torch.equal(traced[0], traced[1])
    assert torch.equal(traced[0], other(images[:20]))


@pytest.mark.parametrize("name", ["rotta", "petta", "note"])
def test_what_a_batch_costs_with_a_bank_is_its_share_of_the_steps(bundle, name):
    adapter = Adapter(bundle, name, memory={"images": 8, "every": 16}, **EXACT)
    few, many = adapter.cost(4), adapter.cost(32)
    assert few.forward_equivalents == pytest.approx(many.forward_equivalents, rel=1e-3)
    often = Adapter(bundle, name, memory={"images": 8, "every": 8}, **EXACT).cost(4)
    step = often.forward_equivalents - few.forward_equivalents
    assert few.forward_equivalents == pytest.approx(1 + step, rel=0.01)


def test_note_runs_with_the_norm_that_it_was_trained_with(bundle, images):
    changes = {"memory": {"every": 20}, "normalisation": "instance-aware"}
    adapter = Adapter(bundle, "note", **changes, **EXACT)
    assert adapter.settings.normalisation.momentum == 0.01
    together = adapter(images[:19])
    adapter.reset()
    alone = torch.cat([adapter(image[None]) for image in images[:19]])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["cotta", "rotta", "petta", "note"])
def test_they_learn_on_a_network_with_layer_norm(bundle_of, images, name):
    changes = {"objective": {"views": 4}} if name == "cotta" else {"memory": {"every": 20}}
    adapter = Adapter(bundle_of("ttt-mae"), name, **changes, **EXACT)
    before = adapter.snapshot().tensors
    assert adapter(images[:20]).isfinite().all()
    assert [bool(step.taken) for step in adapter.steps] == [True]
    after = adapter.snapshot().tensors
    moved = [key for key in adapter._learner.moving if not torch.equal(before[key], after[key])]
    assert moved and any("norm" in key for key in moved)
