"""Parts that no row uses yet, in the loop; what steps report; and that none waits for a device."""

import pytest
import torch
from dotted import dotted
from fewer import few_steps
from hypothesis import given
from hypothesis import strategies as st
from loose import loose
from rated import rated
from soon import banked, searches, soon
from torch.utils._python_dispatch import TorchDispatchMode

from acclimate.adapt import Adapter
from acclimate.errors import InputError
from acclimate.methods import METHODS
from acclimate.parts.aftermath import PullToSource, Teacher
from acclimate.parts.answer import After, Before, FromTeacher
from acclimate.parts.diverse import CertainAndDiverse
from acclimate.parts.memory import CurrentBatch, Gathered, Recent
from acclimate.parts.selection import weighted_mean
from acclimate.parts.update import SAM

STEPPING = [name for name, row in METHODS.items() if row.settings.steps]


def adapter_of(bundle, name, **changes):
    common = {"precision": "fp32", "device": "cpu"} | rated(name, 3e-3) | few_steps(name, 2)
    return Adapter(bundle, name, **loose(name) | common | dotted(**changes))


class Waits(TorchDispatchMode):
    """Counts the operations that would make the host wait for a device."""

    KINDS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "index")

    def __init__(self):
        super().__init__()
        self.found = []

    def out(self, function, given):
        """Call a function whose waits do not count."""
        before = list(self.found)
        result = function(*given)
        self.found = before
        return result

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__.split(".")[0]
        counter = name == "_local_scalar_dense" and args[0].dtype == torch.int64  # lies on the CPU
        mask = name != "index" or any(i is not None and i.dtype == torch.bool for i in args[1])
        if name in self.KINDS and mask and not counter:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", METHODS)
def test_a_batch_waits_for_its_device_once(bundle_of, images, name):
    """However many steps it takes: for the check that its answer is finite. Views are not counted.

    With images alone there is an answer for each. A search waits for what its candidates are worth
    in each step. What a bank is told is a copy on the host, which is not seen here;
    `test_host_free.py` sees it.
    """
    settings, counts = METHODS[name].settings, set()
    for steps in (1, 3) if settings.steps else (0,):
        changes = few_steps(name, steps) | {"precision": "fp32"} | soon(name, 20)
        adapter = Adapter(bundle_of(name), name, device="cpu", **changes)
        unit = adapter.preprocessing.unit(images[:1] if settings.one_by_one else images[:20])
        waits = Waits()
        if adapter.objective is not None:
            draw = adapter.objective.draw
            adapter.objective.draw = lambda *given, draw=draw, waits=waits: waits.out(draw, given)
        with torch.no_grad(), waits:
            adapter._adapt(unit, torch.arange(len(unit)))
        counts.add(tuple(waits.found))
    if searches(name):
        assert len(counts) == 2  # the more steps, the more waits
        return
    assert counts == {() if banked(name) else ("_local_scalar_dense",)}


def test_before_answers_as_the_model_was(bundle_of, images):
    """TENT's logits of the step itself: there is no second pass; the next batch sees the step."""
    bundle = bundle_of("tent")
    before = adapter_of(bundle, "tent", steps=1, answer="before")
    passes = []
    before.model.encoder.register_forward_hook(lambda *_: passes.append(1))
    plain = Adapter(bundle, "ptbn", precision="fp32", device="cpu")
    torch.testing.assert_close(before(images[:20]), plain(images[:20]), atol=1e-4, rtol=1e-4)
    assert len(passes) == 1
    after = adapter_of(bundle, "tent", steps=1)
    after(images[:20])
    still = adapter_of(bundle, "tent", steps=1, learning_rate=0.0)
    still(images[:20])
    assert (after(images[20:40]) - still(images[20:40])).abs().max() > 1e-3
    rows = before.snapshot()
    trace = before.trace(images[20:40])
    assert all(torch.equal(row, trace[-1]) for row in trace)
    before.restore(rows)
    second = before(images[20:40])
    assert torch.equal(second, trace[-1])
    after.reset()
    after(images[:20])
    moved = after.trace(images[20:40])[0]
    torch.testing.assert_close(second, moved, atol=1e-4, rtol=1e-4)


def test_before_computes_an_answer_where_the_objective_gives_none(bundle, images):
    before = adapter_of(bundle, "cta", answer=Before())
    frozen = Adapter(bundle, "aligned-bn", precision="fp32", device="cpu")
    assert torch.equal(before(images[:20]), frozen(images[:20]))
    assert all(step.taken for step in before.steps)
    trace = before.trace(images[:20])
    assert trace.shape[0] == 3 and torch.equal(trace[0], trace[2])


def test_flipped_logits_are_the_mean_of_both(bundle, images):
    plain, flipped = (adapter_of(bundle, "cta", answer=After(flip=flip)) for flip in (False, True))
    one = plain(images[:20])
    with torch.no_grad():
        mirrored = plain.preprocessing(images[:20]).flip(-1)
        other = plain.model(mirrored)
    torch.testing.assert_close(flipped(images[:20]), (one + other) / 2, atol=1e-5, rtol=1e-5)
    assert flipped.cost(20).forward_equivalents == pytest.approx(
        plain.cost(20).forward_equivalents + 1
    )


def test_the_teacher_is_the_average_of_the_students(bundle, images):
    """Against averages kept by hand, step by step."""
    changes = {"reset": "never", "steps": 1, "aftermath": (Teacher(0.9),)}
    student = adapter_of(bundle, "cta", **changes)
    teacher = adapter_of(bundle, "cta", **changes | {"answer": FromTeacher()})
    averages = {n: p.detach().clone() for n, p in student.model.named_parameters()}
    for batch in images[:60].split(20):
        answers, own = teacher(batch), student(batch)
        for name, parameter in student.model.named_parameters():
            averages[name] = 0.9 * averages[name] + 0.1 * parameter.detach()
        with torch.no_grad():
            unit = student.preprocessing(batch)
            expected = torch.func.functional_call(student.model, averages, (unit,))
        torch.testing.assert_close(answers, expected, atol=1e-4, rtol=1e-4)
        assert (answers - own).abs().max() > 1e-3
    names = [name for name in teacher.snapshot().tensors if name.startswith("aftermath.0.")]
    assert len(names) == len(teacher._learner.moving)


def test_an_answer_of_no_teacher_is_refused(bundle):
    with pytest.raises(InputError, match="add Teacher to aftermath, and take steps"):
        adapter_of(bundle, "cta", answer="teacher")


def test_a_pull_all_the_way_is_the_source(bundle, images):
    pulled = adapter_of(bundle, "cta", reset="never", aftermath=(PullToSource(1.0),))
    frozen = Adapter(bundle, "aligned-bn", precision="fp32", device="cpu")
    free = adapter_of(bundle, "cta", reset="never")
    for batch in images[:40].split(20):
        torch.testing.assert_close(pulled(batch), frozen(batch), atol=1e-5, rtol=1e-5)
        assert (free(batch) - frozen(batch)).abs().max() > 1e-3
    assert all(step.taken for step in pulled.steps)
    moving = sum(tensor.nbytes for tensor in pulled._learner.moving.values())
    assert pulled.cost(8).held_bytes == free.cost(8).held_bytes + moving


@pytest.mark.parametrize("reset", ["batch", "never"])
def test_sam_without_a_radius_is_sgd(bundle, images, reset):
    sam = adapter_of(bundle, "cta", update=SAM(3e-3, momentum=0.9, radius=0.0), reset=reset)
    sgd = adapter_of(bundle, "cta", update="sgd", momentum=0.9, reset=reset)
    far = adapter_of(bundle, "cta", update=SAM(3e-3, momentum=0.9, radius=2.0), reset=reset)
    for batch in images[:40].split(20):
        expected = sgd(batch)
        torch.testing.assert_close(sam(batch), expected, atol=1e-4, rtol=1e-4)
        assert not torch.allclose(far(batch), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", STEPPING)
def test_steps_report_what_they_did(bundle_of, images, name):
    adapter = adapter_of(bundle_of(name), name, **soon(name, 20))
    alone = adapter.settings.one_by_one
    adapter(images[:3] if alone else images[:20])
    assert len(adapter.steps) == 2
    for step in adapter.steps:
        assert step.taken.all() and not step.skipped.any() and not step.refused.any()
        assert step.loss.shape == step.images.shape == ((3,) if alone else ())
        if isinstance(adapter.settings.selection, CertainAndDiverse):  # leaves some out
            assert 1 <= step.images < 20
        else:
            held = adapter._learner.memory.count if banked(name) else 20
            assert (step.images == (1 if alone else held)).all()
        assert (step.gradient_norm > 0).all() or searches(name)
        assert step.loss.isfinite().all() and step.reason == ""
    assert adapter._learner.counts.tolist() == [6 if alone else 2, 0, 0]


def test_a_step_on_too_few_images_is_skipped_with_its_reason(bundle, images):
    adapter = adapter_of(bundle, "cta", memory=CurrentBatch())
    adapter(images[:1])
    assert [step.reason for step in adapter.steps] == ["too few images for a step"] * 2
    assert adapter._learner.counts.tolist() == [0, 2, 0] and adapter.refused == 0


@pytest.mark.parametrize(
    ("where", "reason"), [("loss", "the loss was not"), ("gradient", "the gradient was not")]
)
def test_a_refused_step_says_why(bundle, images, where, reason):
    adapter = adapter_of(bundle, "cta", steps=1)
    weight = adapter.model.encoder.get_parameter("projector.weight")
    if where == "gradient":
        weight.register_hook(lambda gradient: gradient * float("nan"))
    else:
        spoil = lambda _, __, x: x * torch.nan if torch.is_grad_enabled() else x  # noqa: E731
        adapter.model.encoder.register_forward_hook(spoil)
    adapter(images[:20])
    [step] = adapter.steps
    assert step.refused and step.reason == f"{reason} finite"
    assert adapter.refused == 1


@pytest.mark.parametrize("capacity", [1, 4, 8])
def test_recent_images_are_the_last_of_the_stream(images, capacity):
    memory = Recent(capacity).build((16, 16, 3), torch.device("cpu"), 4)
    stream, seen = images.float(), 0
    for count in (1, 2, 1, 3, 9, 1, 8, 2):
        batch, index = stream[seen : seen + count], torch.arange(seen, seen + count)
        seen += count
        first = max(0, seen - max(capacity, count))
        context, found = memory.remember(batch, index)
        assert torch.equal(context, stream[first:seen])
        assert found.tolist() == list(range(first, seen))


@pytest.mark.parametrize("memory", [Recent, Gathered])
def test_a_memory_of_no_image_is_refused(memory):
    with pytest.raises(InputError, match="images must be 1 to 10000"):
        memory(0).check()


@given(least=st.integers(1, 9), sizes=st.lists(st.integers(1, 12), min_size=1, max_size=12))
def test_gathered_images_are_each_learned_from_once(least, sizes):
    memory = Gathered(least).build((2, 2, 3), torch.device("cpu"), 4)
    seen, learned = 0, []
    for count in sizes:
        index = torch.arange(seen, seen + count)
        images = index.float().view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
        seen += count
        context, found = memory.remember(images, index)
        assert torch.equal(context[:, 0, 0, 0], found.float())
        assert found[-count:].tolist() == index.tolist()
        if len(context) >= memory.least:
            learned += found.tolist()
        else:  # too few for a step: the batch alone
            assert len(context) == count
    assert learned == list(range(len(learned)))
    assert seen - len(learned) == int(memory.count) < least


def test_small_batches_take_the_steps_of_a_large_one(bundle, images):
    """Without a reset, the weights after them are those of one batch."""
    changes = {"memory": Gathered(12), "reset": "never", "steps": 1, "learning_rate": 1e-2}
    weights = []
    for size in (1, 5, 12):
        adapter = adapter_of(bundle, "acclimate", **changes)
        taken = 0
        for batch in images[:12].split(size):
            adapter(batch)
            taken += int(adapter.steps[-1].taken)
        assert taken == 1
        weights.append(torch.cat([p.flatten() for p in adapter._learner.moving.values()]))
    torch.testing.assert_close(weights[0], weights[2])
    torch.testing.assert_close(weights[1], weights[2])


def test_a_step_that_waits_for_images_says_so(bundle, images):
    adapter = adapter_of(bundle, "acclimate")
    adapter(images[:8])
    assert all("too few" in step.reason for step in adapter.steps)


@pytest.mark.parametrize("steps", [1, 2])
def test_images_alone_with_a_memory_have_one_learner(bundle_of, images, steps):
    """A memory that each thread filled by itself would depend on their order."""
    changes = {"one_by_one": True, "reset": "batch", "memory": Recent(4), "steps": steps}
    first, second = (adapter_of(bundle_of("tent"), "tent", **changes) for _ in range(2))
    assert len(first._learners) == 1
    assert torch.equal(first(images[:6]), second(images[:6]))
    state = first.snapshot()
    again = first(images[6:12])
    first.restore(state)
    assert torch.equal(first(images[6:12]), again)


def test_sam_moves_running_statistics_once_a_step(bundle, images):
    still = {"learning_rate": 0.0, "normalisation": "running", "reset": "never", "steps": 1}
    sam = adapter_of(bundle, "cta", **still | {"update": SAM(0.0, radius=0.5)})
    sgd = adapter_of(bundle, "cta", **still | {"update": "sgd"})
    sam(images[:20])
    sgd(images[:20])
    one, other = sam.snapshot().tensors, sgd.snapshot().tensors
    names = [name for name in one if name.endswith(("running_mean", "running_var"))]
    assert names
    for name in names:
        torch.testing.assert_close(one[name], other[name])


@pytest.mark.parametrize("failing", [1, 2])
def test_an_error_within_a_step_leaves_nothing_of_it(bundle, images, failing):
    changes = {"update": SAM(3e-3, radius=0.5), "normalisation": "running", "reset": "never"}
    adapter = adapter_of(bundle, "cta", **changes | {"steps": 1})
    adapter(images[:20])
    before, calls = adapter.snapshot().tensors, []

    def fail(module, inputs):
        if torch.is_grad_enabled():
            calls.append(1)
            if len(calls) == failing:
                raise torch.OutOfMemoryError

    handle = adapter.model.encoder.get_submodule("projector").register_forward_pre_hook(fail)
    with pytest.raises(torch.OutOfMemoryError):
        adapter(images[20:40])
    handle.remove()
    after = adapter.snapshot().tensors
    changed = [n for n, tensor in before.items() if not torch.equal(after[n], tensor)]
    assert {name for name in changed if not name.startswith("memory.")} == set()


def test_an_image_that_is_left_out_may_have_any_loss():
    losses = torch.tensor([1.0, float("nan"), 3.0])
    assert weighted_mean(losses, torch.tensor([1.0, 0.0, 2.0])) == 3.5
    assert weighted_mean(losses, torch.zeros(3)) == 0


def test_an_objective_that_must_be_trained_is_not_made_on_the_spot(bundle_of, images):
    state = torch.get_rng_state()
    with pytest.raises(InputError, match="Rotation must be trained with the bundle"):
        adapter_of(bundle_of("tent"), "tent", objective="rotation")
    assert torch.equal(torch.get_rng_state(), state)
