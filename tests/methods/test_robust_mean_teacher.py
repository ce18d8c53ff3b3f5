"""RMT as an adapter: against a plain loop in torch, and on networks of all norms."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cosine_similarity, log_softmax, normalize, softmax
from toy import carried, golden, toy

from acclimate.adapt import Adapter
from acclimate.adapt.loop import adapt

EXACT = {"device": "cpu", "precision": "fp32"}


def half_symmetric(a, b):
    return -0.5 * (softmax(b, 1) * log_softmax(a, 1) + softmax(a, 1) * log_softmax(b, 1)).sum(1)


def plain_loss(encoder, head, teacher, projector, means, x, view):
    """The release's target terms, an anchor at a time."""
    features, others = encoder(x), encoder(view)
    with torch.no_grad():
        target = teacher(x)
    logits = head(features)
    losses = (half_symmetric(logits, target) + half_symmetric(head(others), target)) / 2
    nearest = [cosine_similarity(means, f[None]).argmax() for f in features.detach()]
    vectors = torch.cat([means[nearest], features, others])
    vectors = normalize(projector(vectors), dim=1)
    contrast = 0
    for a, anchor in enumerate(vectors):
        similarity = vectors @ anchor / 0.1
        rest = torch.cat([similarity[:a], similarity[a + 1 :]]).logsumexp(0)
        positives = [p for p in range(len(vectors)) if p % len(x) == a % len(x) and p != a]
        contrast = contrast - sum(similarity[p] - rest for p in positives) / 2
    return losses.mean() + contrast / len(vectors), (logits + target).detach()


def test_three_batches_are_a_plain_loop_s():
    """Answers, losses, weights and the teacher, with batch norm by the batch."""
    means = torch.randn(10, 6, generator=torch.Generator().manual_seed(2)).double()
    known = {"mean": means, "variance": means**2, "images": torch.ones(10)}
    statistics = {f"classifier.prototypes.{name}": value for name, value in known.items()}
    bundle = toy(nn.BatchNorm1d(6), statistics)
    changes = {"update": {"learning_rate": 0.05}, "aftermath.0.momentum": 0.9}
    adapter = Adapter(bundle, "rmt", **changes, **EXACT)
    learner = adapter._learner
    given = bundle.classifier
    encoder, head = (copy.deepcopy(m).train() for m in (given.encoder, given.head))
    student = nn.Sequential(encoder, head).requires_grad_(True)
    teacher = copy.deepcopy(student).requires_grad_(False)
    projector = copy.deepcopy(learner.objective.projector).requires_grad_(True)
    moving = [*student.parameters(), *projector.parameters()]
    optimizer = torch.optim.Adam(moving, 0.05)
    for x in golden("eata_x").double():
        images, views = carried(x), carried(x + 0.1 * torch.sin(7 * x))
        learner.objective.draw = lambda *_, pair=(images, views): (torch.cat(pair),)
        with torch.no_grad():
            (logits,), (step,) = adapt(learner, images, torch.arange(len(x)))
        loss, answer = plain_loss(encoder, head, teacher, projector, means, images, views)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for slow, own in zip(teacher.parameters(), student.parameters()):
                slow.copy_(0.9 * slow + 0.1 * own)
        torch.testing.assert_close(step.loss, loss.detach(), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(logits.double(), answer, rtol=1e-6, atol=1e-6)
        for found, own in zip(learner.moving.values(), moving, strict=True):
            torch.testing.assert_close(found, own, rtol=1e-8, atol=1e-10)
    averages = [t for n, t in learner.teacher.state().items() if n.startswith("model.")]
    for found, own in zip(averages, teacher.parameters(), strict=True):
        torch.testing.assert_close(found, own, rtol=1e-6, atol=1e-8)  # its rate is float32


@pytest.mark.parametrize("norm", ["batch", "group", "layer"])
def test_it_learns_on_networks_of_all_norms(bundle_of, group_norm_bundle, images, norm):
    given = {"batch": bundle_of("rmt"), "group": group_norm_bundle, "layer": bundle_of("ttt-mae")}
    adapter = Adapter(given[norm], "rmt", **EXACT)
    frozen = Adapter(given[norm], "source", **EXACT)(images[:24])
    before = adapter.snapshot().tensors
    first = adapter(images[:24])
    if norm != "batch":  # student and teacher are the source in the beginning
        torch.testing.assert_close(first, 2 * frozen, rtol=1e-4, atol=1e-4)
    adapter(images[24:48])
    assert [bool(step.taken) for step in adapter.steps] == [True]
    after = adapter.snapshot().tensors
    moved = {name for name in adapter._learner.moving if not torch.equal(before[name], after[name])}
    assert moved == adapter._learner.moving.keys()


def test_a_single_image_is_answered_for_and_learned_from_where_there_is_no_batch_norm(
    bundle_of, images
):
    """Its own vectors are then each other's negatives."""
    adapter = Adapter(bundle_of("ttt-mae"), "rmt", **EXACT)
    assert adapter(images[:1]).isfinite().all() and bool(adapter.steps[0].taken)


def test_features_come_nearer_to_the_class_means(bundle_of, images):
    """What the contrastive loss is for: the similarity to the nearest mean grows."""
    bundle = bundle_of("rmt")
    means = bundle.statistics["classifier.prototypes.mean"]

    def similarity(contrast):
        changes = {"contrast": contrast, "projection": 0}
        adapter = Adapter(bundle, "rmt", objective=changes, steps=20, **EXACT)
        adapter(images[:24])
        learner = adapter._learner
        with torch.no_grad(), learner.norms.learning():
            unit = adapter.preprocessing.normalize(adapter.preprocessing.unit(images[:24]))
            features = learner.model.encoder(unit)
        nearest = means[learner.objective.nearest(features)]
        return cosine_similarity(features, nearest).mean()

    assert similarity(1.0) > similarity(0.0) + 0.01
