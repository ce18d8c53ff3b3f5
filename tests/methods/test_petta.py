"""PeTTA as an adapter: against a plain loop in torch, and how it goes by the divergence."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cosine_similarity, log_softmax, softmax
from toy import carried, golden, toy

from acclimate.adapt import Adapter
from acclimate.adapt.loop import adapt

EXACT = {"device": "cpu", "precision": "fp32"}
RATE, STEP = 0.3, 0.05


class PlainNorm(nn.Module):
    """The release's robust batch norm: in training statistics are updated first, then used."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(golden("toy_norm_weight").double())
        self.bias = nn.Parameter(golden("toy_norm_bias").double())
        self.mean, self.variance = torch.zeros(6).double(), torch.ones(6).double()

    def forward(self, x):
        mean, variance = self.mean, self.variance
        if self.training:
            mean = 0.95 * mean + 0.05 * x.mean(0)
            variance = 0.95 * variance + 0.05 * x.var(0, correction=0)
            self.mean, self.variance = mean.detach(), variance.detach()
        return (x - mean) / torch.sqrt(variance + 1e-5) * self.weight + self.bias


def view_of(x):
    return x + 0.1 * torch.sin(7 * x)


def both_ways(a, b):
    return -0.5 * (softmax(b, 1) * log_softmax(a, 1) + softmax(a, 1) * log_softmax(b, 1)).sum(1)


class Plain:
    """Algorithm 1 with the release's divergence, an image and a class at a time."""

    def __init__(self, head, source):
        self.head, self.source = head, source
        self.student = PlainNorm()
        self.teacher, self.initial = copy.deepcopy(self.student), copy.deepcopy(self.student)
        self.means = source["mean"].clone()
        self.optimizer = torch.optim.Adam(self.student.parameters(), STEP)
        self.start = [p.detach().clone() for p in self.student.parameters()]

    @torch.no_grad()
    def answer(self, x):
        self.teacher.eval()
        self.features = self.teacher(x)
        self.logits = self.head(self.features)
        return self.logits

    def learn(self, kept):
        """One step on what the bank holds."""
        labels = self.logits.argmax(1)
        terms = []
        for label in labels.unique():
            way = (self.means[label] - self.source["mean"][label]) ** 2
            terms.append((way / (self.source["variance"][label] + 1e-6)).mean())
            own = self.features[labels == label].mean(0)
            self.means[label] = 0.95 * self.means[label] + 0.05 * own
        far = 1 - torch.exp(-torch.stack(terms).mean())
        for norm in (self.student, self.teacher, self.initial):
            norm.train()
        with torch.no_grad():
            taught, first = self.head(self.teacher(kept)), self.head(self.initial(kept))
        plain = self.head(self.student(kept))
        of_view = self.head(self.student(view_of(kept)))
        losses = (both_ways(plain, taught) + both_ways(of_view, taught)) / 2
        losses = losses - (softmax(first, 1) * log_softmax(of_view, 1)).sum(1)
        pairs = zip(self.student.parameters(), self.start)
        turn = sum(-cosine_similarity(now, old, dim=0) for now, old in pairs) / 2
        loss = losses.mean() + 10 * far * turn
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            for slow, own in zip(self.teacher.parameters(), self.student.parameters()):
                slow += RATE * (1 - far) * (own - slow)
        return loss.detach(), far


def test_five_updates_are_a_plain_loop_s():
    """Answers, losses, divergences, weights and three sets of statistics."""
    generator = torch.Generator().manual_seed(4)
    source = {
        "mean": torch.randn(10, 6, generator=generator).double(),
        "variance": torch.rand(10, 6, generator=generator).double() + 0.5,
        "images": torch.full((10,), 5.0),
    }
    statistics = {f"classifier.prototypes.{name}": value for name, value in source.items()}
    bundle = toy(nn.BatchNorm1d(6), statistics)
    changes = {"memory": {"every": 16}, "update": {"learning_rate": STEP}}
    changes |= {"aftermath.0.momentum": 1 - RATE}
    learner = Adapter(bundle, "petta", **changes, **EXACT)._learner

    def draw(images, key, index):
        return (torch.cat([images.double(), view_of(images.double())]),)

    learner.objective.draw = draw
    plain, teacher = Plain(bundle.classifier.head, source), learner.teacher
    far = []
    for x in golden("eata_x").double().flatten(0, 1)[:80].split(16):
        answer = plain.answer(x)
        with torch.no_grad():
            (logits,), (step,) = adapt(learner, carried(x), torch.arange(16))
        torch.testing.assert_close(logits.double(), answer, rtol=1e-5, atol=1e-5)
        kept = learner.memory.images[: learner.memory.count].flatten(1)[:, :6].double()
        loss, divergence = plain.learn(kept)
        far.append(float(divergence))
        torch.testing.assert_close(step.loss, loss, rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(teacher.state()["divergence"], divergence)
        torch.testing.assert_close(teacher.means, plain.means, rtol=1e-6, atol=1e-8)
        for found, own in zip(learner.moving.values(), plain.student.parameters()):
            torch.testing.assert_close(found, own, rtol=1e-7, atol=1e-9)
    averages = [t for n, t in teacher.state().items() if n in learner.moving]
    for found, own in zip(averages, plain.teacher.parameters(), strict=True):
        torch.testing.assert_close(found, own, rtol=1e-6, atol=1e-8)
    pairs = [
        (learner.norms.state(), plain.student),
        (teacher.statistics, plain.teacher),
        (learner.source.statistics, plain.initial),
    ]
    for found, norm in pairs:
        for value, own in zip(found.values(), (norm.mean, norm.variance)):
            torch.testing.assert_close(value, own, rtol=1e-6, atol=1e-8)
    assert far[0] == 0 and all(0 < value < 1 for value in far[1:])


@pytest.fixture
def moved(bundle_of, images):
    """How far student and teacher have moved after some updates, with changed settings."""

    def moved(**changes):
        adapter = Adapter(bundle_of("petta"), "petta", memory={"every": 20}, **changes, **EXACT)
        start = {name: p.detach().clone() for name, p in adapter._learner.moving.items()}
        adapter(images[:80])
        state, now = adapter._learner.teacher.state(), adapter._learner.moving
        student = sum(((now[name].detach() - start[name]) ** 2).sum() for name in start)
        teacher = sum(((state[name] - start[name]) ** 2).sum() for name in start)
        return float(student), float(teacher), float(state["divergence"])

    return moved


def test_the_further_features_drift_the_less_the_teacher_moves(moved):
    """Summed over features they have drifted further: the teacher stands nearly still."""
    _, near, few = moved(**{"aftermath.0.momentum": 0.5, "penalty.weight": 0.0})
    _, still, many = moved(
        **{"aftermath.0.momentum": 0.5, "aftermath.0.summed": True, "penalty.weight": 0.0}
    )
    assert few < many and still < near


def test_the_penalty_holds_the_student_at_the_source(moved):
    free, *_ = moved(**{"penalty.weight": 0.0})
    held, *_ = moved(**{"penalty.weight": 1e4})
    assert held < free


def test_a_refused_step_leaves_all_but_what_was_seen(bundle_of, images):
    adapter = Adapter(bundle_of("petta"), "petta", memory={"every": 20}, **EXACT)
    before = adapter.snapshot().tensors
    next(iter(adapter._learner.moving.values())).register_hook(lambda g: g * float("nan"))
    adapter(images[:20])
    assert adapter.refused == 1
    after = adapter.snapshot().tensors
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    seen = {"aftermath.0.sums", "aftermath.0.counts", "counts", "seen"}
    assert {name for name in changed if not name.startswith("memory.")} == seen
    adapter.reset()
    assert all(torch.equal(t, before[n]) for n, t in adapter.snapshot().tensors.items())


def test_a_peek_is_not_remembered(bundle_of, images):
    adapter = Adapter(bundle_of("petta"), "petta", memory={"every": 20}, **EXACT)
    adapter(images[:10])
    before = adapter.snapshot().tensors
    adapter.peek(images[10:40])
    assert all(torch.equal(t, before[n]) for n, t in adapter.snapshot().tensors.items())


def test_a_trace_without_a_bank_sees_each_image_once(bundle_of, images):
    adapter = Adapter(bundle_of("petta"), "petta", memory="batch", steps=2, **EXACT)
    adapter.trace(images[:12])
    assert adapter._learner.teacher.state()["counts"].sum() == 12
