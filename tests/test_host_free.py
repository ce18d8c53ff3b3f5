"""Training, adapting, views and corruptions do not wait for a GPU: on a pretended one, on the CPU.

On a GPU a wait costs more than many operations, and a CUDA graph cannot hold one. What still waits
is in `ALLOWED`, `ON_THE_HOST` and `BY_VALUES`, with the reason.
"""

from types import SimpleNamespace

import pytest
import torch
from fewer import few_steps, few_views
from loose import loose
from pretended import pretended_gpu
from soon import banked, searches, soon

from acclimate.adapt import Adapter
from acclimate.adapt.loop import _reports, _told
from acclimate.adapt.vmapped import can_vmap, vmapped
from acclimate.backbones import duplicate
from acclimate.data.corruptions import CORRUPTIONS, corrupt_numbered
from acclimate.methods import METHODS, RECIPES
from acclimate.objectives import Objective, alignment_loss, contrastive_loss
from acclimate.randomness import MovingKey
from acclimate.source import alignment, fit, joint_alignment, stages
from acclimate.source.images import SourceImages
from acclimate.source.loop import Run, Training
from acclimate.source.presets import SourceSettings
from acclimate.views import (
    SimCLRViews,
    all_rotations,
    augmix_views,
    cutout,
    mild_views,
    rotate,
    shifted_crop,
    simclr_views,
)

ALLOWED = {"adapt/loop.py:adapt", "adapt/loop.py:_answer", "adapt/vmapped.py:logits"}
"""The check that an answer is finite, after all steps: it decides whether to answer anew."""
OF_BANKS = {"adapt/loop.py:_with_bank", "parts/banks.py:offer", "parts/banks.py:context"}
"""What a bank is told of an answer, instead of that check: what it keeps decides shapes. And which
places images take, and their weights, which are small."""
OF_SEARCH = {
    *("parts/search.py:_strategy", "parts/search.py:ask", "parts/search.py:tell"),
    "adapt/search.py:search_step",
}
"""Candidates for prompts are drawn on the host, which is told what each is worth."""
ON_THE_HOST = {"jpeg_compression"}
"""The codec that gives Pillow's pixels is the CPU's; a GPU's gives others."""
BY_VALUES = {("spatter", 1)}
"""How often water's outline grows depends on it, and the most often would be hundreds of times."""


@pytest.fixture
def gpu():
    with pretended_gpu() as made:
        yield made


def there(gpu, *tensors):
    return [tensor.to(gpu.device) for tensor in tensors]


def assert_free(gpu):
    assert gpu.kernels
    assert [wait for wait in gpu.waits if wait[1] not in ALLOWED | OF_BANKS | OF_SEARCH] == []


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: float(x[0, 0]),
        lambda x: bool((x > 0).all()),
        lambda x: x[x > 0],
        lambda x: x.masked_select(x > 0),
        lambda x: (x > 0).nonzero(),
        lambda x: torch.where(x > 0),
        lambda x: x.unique(),
        lambda x: x.cpu(),
        lambda x: x + torch.tensor([1.0, 2.0, 3.0], device=x.device),
        lambda x: x + x.new_tensor([1.0, 2.0, 3.0]),
        lambda x: x[[0, 1]],
        lambda x: x.index_put_((x > 0,), torch.zeros((), device=x.device)),
        lambda x: x.repeat_interleave((x[:, 0] > 0).long(), dim=0),
        lambda x: x.add_(torch.ones(3)),
    ],
)
def test_each_kind_of_wait_is_seen(gpu, wait):
    (x,) = there(gpu, torch.ones(2, 3))
    with gpu.watched():
        wait(x)
    assert gpu.waits


def test_what_does_not_wait_is_not_taken_for_it(gpu):
    layer = torch.nn.Linear(3, 4).to(gpu.device)
    x, labels = there(gpu, torch.ones(2, 3), torch.tensor([1, 3]))
    optimizer = torch.optim.Adam(layer.parameters(), fused=True)
    with gpu.watched():
        torch.nn.functional.cross_entropy(layer(x)[labels % 2], labels).backward()
        optimizer.step()
        x.where(x > 0, 0).masked_fill_(x > 1, 2).repeat_interleave(3, dim=0)
        x.index_copy_(0, labels % 2, torch.full((2, 3), 7.0, device=x.device))
    assert_free(gpu)


def test_what_is_replayed_is_all_but_the_python_code(gpu):
    x, total = there(gpu, torch.ones(3), torch.zeros(3))
    calls = []

    def step():
        calls.append(1)
        total.add_(x * 2)
        return total[:1] + len(calls)

    with gpu.recorded():
        found = step()
    x.fill_(5)
    gpu.replay()
    assert total.values.tolist() == [12, 12, 12]
    assert found.values.tolist() == [13]  # a number in Python stays what it was
    assert len(calls) == 1


@pytest.mark.parametrize("name", METHODS)
def test_an_adapted_batch_waits_for_its_answers_check_alone(gpu, bundle_of, images, name):
    changes = {"precision": "fp32"} | loose(name) | soon(name, 20) | few_views(name)
    changes |= few_steps(name, 2) if METHODS[name].settings.steps else {}
    size = 2 if METHODS[name].settings.one_by_one else 24
    adapter = Adapter(bundle_of(name), name, device="pretended", **changes)
    plain = Adapter(bundle_of(name), name, device="cpu", **changes)
    with torch.no_grad():
        for start in (0, size):
            unit = adapter.preprocessing.unit(images[start : start + size])
            index = torch.arange(start, start + size)
            expected = plain._adapt(unit, index, every=False)[0][-1]
            unit, index = there(gpu, unit, index)
            with gpu.watched():
                logits = adapter._adapt(unit, index, every=False)[0][-1]
    assert_free(gpu)
    assert bool(OF_BANKS & {place for _, place in gpu.waits}) == banked(name)
    torch.testing.assert_close(logits.values, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["ttt", "ttt-mae", "memo"])
def test_images_learned_from_alone_and_together_wait_for_the_check_alone(
    gpu, bundle_of, images, name
):
    adapter = Adapter(bundle_of(name), name, device="pretended", precision="fp32", steps=2)
    assert can_vmap(adapter._learner)
    given = there(gpu, adapter.preprocessing.unit(images[:3]), torch.arange(3))
    with torch.no_grad():
        vmapped(adapter._learner, *given)
        with gpu.watched():
            vmapped(adapter._learner, *given)
    assert_free(gpu)


def test_objectives_say_that_their_steps_can_be_replayed():
    """What a recorded step gives when it is replayed is tested below."""
    kinds = {row.objective for row in RECIPES.values() if row.objective}
    kinds |= {type(row.settings.objective).kind for row in METHODS.values() if row.settings.steps}
    assert all(kind.replayable for kind in kinds)
    assert not Objective.replayable  # one of a user's may hold a number that changes


STEPPING = [name for name, row in METHODS.items() if row.settings.steps]
SEARCHING = [name for name in STEPPING if searches(name)]


@pytest.mark.parametrize("name", SEARCHING)
def test_a_batch_with_a_search_is_not_recorded(bundle_of, name):
    learner = Adapter(bundle_of(name), name, device="cpu", steps=1)._learner
    assert learner.recorder.obstacle == "candidates are drawn on the host"


@pytest.mark.parametrize(
    "name", [name for name in STEPPING if not banked(name) and name not in SEARCHING]
)
def test_a_recorded_batch_is_learned_from_anew(gpu, bundle_of, images, name):
    """What is recorded from one batch, and replayed with others, answers as if it were run."""
    changes = {"precision": "fp32", "reset": "never"} | loose(name) | few_views(name)
    changes |= few_steps(name, 2) | soon(name, 24)
    size = 1 if METHODS[name].settings.one_by_one else 24
    here, there_ = (Adapter(bundle_of(name), name, device="pretended", **changes) for _ in range(2))
    (every,) = there(gpu, here.preprocessing.unit(images))
    numbers = torch.arange(len(images), device=gpu.device)
    batches = [slice(start, start + size) for start in range(0, 4 * size, size)]

    def answer(adapter, unit, index):
        return adapter._adapt(unit, index, every=False)[0][-1]

    with torch.no_grad():
        expected = [answer(here, every[batch], numbers[batch]) for batch in batches]
        answer(there_, every[batches[0]], numbers[batches[0]])
        unit, index = every[batches[1]].clone(), numbers[batches[1]].clone()
        with gpu.recorded():
            logits = answer(there_, unit, index)
        torch.testing.assert_close(logits.values, expected[1].values)
        for number in (2, 3):
            unit.copy_(every[batches[number]])
            index.copy_(numbers[batches[number]])
            gpu.replay()
            torch.testing.assert_close(logits.values, expected[number].values)
            assert not torch.equal(logits.values, expected[number - 1].values)


@pytest.mark.parametrize("name", [name for name in STEPPING if banked(name)])
def test_what_is_recorded_beside_a_bank_is_done_anew(gpu, bundle_of, images, name):
    """Answers, and steps on a bank, of which there are several with the same number of images."""
    changes = {"precision": "fp32", "steps": 2}
    here, there_ = (Adapter(bundle_of(name), name, device="pretended", **changes) for _ in range(2))
    (every,) = there(gpu, here.preprocessing.unit(images))
    numbers = torch.arange(len(images), device=gpu.device)
    weights = torch.rand(len(images), device=gpu.device) + 0.5
    parts = [slice(start, start + 24) for start in range(0, 96, 24)]

    def learned_and_told(adapter, *given):
        reports = _reports(adapter._learner, *given)
        return (*reports, *_told(adapter._learner, given[0]))

    with torch.no_grad():
        given = [(every[part], numbers[part], weights[part]) for part in parts]
        expected = [[*learned_and_told(here, *each)] for each in given]
        learned_and_told(there_, *given[0])
        mine = [tensor.clone() for tensor in given[1]]
        with gpu.recorded():
            found = learned_and_told(there_, *mine)
        for number in (1, 2, 3):
            if number > 1:
                for tensor, value in zip(mine, given[number]):
                    tensor.copy_(value)
                gpu.replay()
            for value, right in zip(found, expected[number], strict=True):
                torch.testing.assert_close(value.values, right.values)
            assert not torch.equal(found[0].values, expected[number - 1][0].values)


@pytest.fixture
def one_step(gpu, monkeypatch):
    """Stages take a few steps instead of training; gives the stages' names and losses.

    The second step is watched, and the third recorded and replayed, on other images and with
    another key.
    """
    losses = {}

    def replayed(module, loss, index, key, others, other_key):
        moving = MovingKey(key, gpu.device)
        loss(module, index, moving)  # all keys are derived once
        with gpu.recorded():
            value = loss(module, index, moving)
            value.backward()
        before = [buffer.clone() for buffer in module.buffers()]
        index.copy_(others)
        moving.change(other_key)
        gpu.replay()
        for buffer, old in zip(module.buffers(), before, strict=True):
            buffer.data.copy_(old)
        return value.detach().values

    def steps(name, module, loss, settings, run, *, count, identity, replayable=True):
        assert replayable
        module.to(gpu.device).train()
        (index,) = there(gpu, torch.arange(count)[:12])
        loss(module, index, 5).backward()
        with gpu.watched():
            value = loss(module, index, 6)
            value.backward()
        losses[name] = value.detach().values
        assert_free(gpu)
        others = 11 - index
        again = replayed(module, loss, index, 6, others, 7)
        expected = loss(module, others, 7).detach().values
        assert not torch.allclose(expected, losses[name], rtol=1e-4)
        torch.testing.assert_close(again, expected, rtol=1e-4, atol=1e-5)

    for module in (fit, alignment, joint_alignment):
        monkeypatch.setattr(module, "train", steps)
    monkeypatch.setattr(SourceImages, "identity", lambda self, **_: [])
    monkeypatch.setattr(stages, "recalibrate", lambda *_: None)
    return losses


def source_of(gpu, bundle, images):
    images, labels = there(gpu, images[:40], torch.arange(40) % len(bundle.classes))
    return SourceImages(images, bundle.preprocessing, labels)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_training_step_does_not_wait(gpu, one_step, bundle_of, images, recipe):
    bundle = bundle_of(next(name for name, row in METHODS.items() if row.recipe == recipe))
    source = source_of(gpu, bundle, images)
    work = stages.Work(
        duplicate(bundle.classifier),
        source,
        SourceSettings(cutout=4),
        Run(precision="fp32"),
        construct=lambda _: duplicate(bundle.objective),
        target=source if recipe == "uda-ss" else None,
    )
    if bundle.objective is None:
        work.construct = None
    if bundle.twin is not None:
        work.twin = duplicate(bundle.twin)
    for stage in RECIPES[recipe].stages:
        if stage == "contrastive":
            fit.fit(
                stage,
                work.twin,
                source,
                work.settings.contrastive,
                work.run,
                moves=("encoder", "objective"),
                objective=work.objective,
            )
        elif stage != "align":
            stages.STAGES[stage](work)
    assert set(RECIPES[recipe].stages) - {"align"} == set(one_step)
    assert all(loss.isfinite() for loss in one_step.values())


@pytest.mark.parametrize("trainable", [False, True])
def test_a_step_of_the_alignment_does_not_wait(
    gpu, one_step, bundle, images, monkeypatch, trainable
):
    monkeypatch.setattr(alignment, "sealed", SimpleNamespace(digest=lambda *_: ""))
    twin, classifier = duplicate(bundle.twin.encoder), duplicate(bundle.classifier)
    twin.requires_grad_()
    train = joint_alignment.train_joint_alignment if trainable else alignment.train_alignment
    train(
        twin,
        classifier.to(gpu.device),
        source_of(gpu, bundle, images),
        Training(),
        Run(precision="fp32"),
        temperature=0.5,
        views=SimCLRViews(),
    )
    assert [loss.isfinite() for loss in one_step.values()] == [True]


@pytest.mark.parametrize("temperature", [0.01, 0.5])
@pytest.mark.parametrize(("loss", "count"), [(contrastive_loss, 2), (alignment_loss, 3)])
def test_contrastive_losses_take_few_kernels_and_are_those_of_a_cpu(gpu, loss, count, temperature):
    generator = torch.Generator().manual_seed(0)
    features = [torch.randn(12, 5, generator=generator) for _ in range(count)]
    given = [f.to(gpu.device).requires_grad_() for f in features]
    loss(*given, temperature=temperature)  # constants are copied once
    with gpu.watched():
        found = loss(*given, temperature=temperature)
    assert gpu.kernels <= 11
    assert_free(gpu)
    with gpu.watched():
        found.backward()
    assert_free(gpu)
    features = [f.requires_grad_() for f in features]
    expected = loss(*features, temperature=temperature)
    expected.backward()
    torch.testing.assert_close(found.values, expected, rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(given, features):
        torch.testing.assert_close(ours.grad.values, theirs.grad, rtol=1e-4, atol=1e-6)


VIEWS = {
    "simclr_views": lambda images, index: simclr_views(
        images, SimCLRViews(), key=3, index=index, count=2
    ),
    "mild_views": lambda images, index: mild_views(images, key=3, index=index, count=2),
    "augmix_views": lambda images, index: augmix_views(images, key=3, index=index, count=2),
    "augmix_views of resized crops": lambda images, index: augmix_views(
        images, key=3, index=index, count=2, smallest_crop=0.1
    ),
    "shifted_crop": lambda images, index: shifted_crop(images, 4, key=3, index=index),
    "cutout": lambda images, index: cutout(images, 5, key=3, index=index),
    "rotate": lambda images, index: rotate(images, index % 4),
    "all_rotations": lambda images, index: all_rotations(images)[0],
}


@pytest.mark.parametrize("name", VIEWS)
def test_views_do_not_wait_and_are_those_of_a_cpu(gpu, images, name):
    unit, index = images[:32].float() / 255, torch.arange(32)
    expected = VIEWS[name](unit, index)
    unit, index = there(gpu, unit, index)
    VIEWS[name](unit, index)  # constants are copied once
    with gpu.watched():
        found = VIEWS[name](unit, index)
    assert_free(gpu)
    most = {"simclr_views": 180, "mild_views": 260, "augmix_views": 560}
    assert gpu.kernels < most.get(name.partition(" ")[0], 60)
    torch.testing.assert_close(found.values, expected, rtol=0, atol=1e-6)
    assert name == "cutout" or found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("size", "severity"),
    [(16, 1), (16, 5), pytest.param(224, 5, marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_does_not_wait_and_is_that_of_a_cpu(gpu, images, name, size, severity):
    images = images[:16] if size == 16 else images[:2].repeat_interleave(14, 2).repeat(1, 1, 1, 14)
    numbers = torch.arange(len(images))
    expected = corrupt_numbered(images, name, severity, numbers)
    given = there(gpu, images, numbers)
    corrupt_numbered(given[0], name, severity, given[1])  # constants are copied once
    with gpu.watched():
        found = corrupt_numbered(given[0], name, severity, given[1])
    assert torch.equal(found.values, expected)
    if name in ON_THE_HOST or (name, severity) in BY_VALUES:
        assert gpu.waits
    else:
        assert_free(gpu)
