"""Corrections in the loop: what they are given, and what they remember."""

import pytest
import torch
from dotted import dotted

from acclimate.adapt import Adapter
from acclimate.methods import METHODS
from acclimate.parts.aftermath import Teacher
from acclimate.parts.answer import Before, FromTeacher
from acclimate.parts.laplacian import Laplacian, affinities, assigned
from acclimate.parts.memory import Recent
from acclimate.parts.supports import Supports, SupportSet

CPU = {"device": "cpu", "precision": "fp32"}


def adapter_of(bundle, name, **changes):
    return Adapter(bundle, name, **CPU, **dotted(**changes))


def features_of(bundle, images):
    x = bundle.preprocessing.normalize(images.float() / 255)
    with torch.no_grad():
        features = bundle.classifier.encoder(x)
        return features, bundle.classifier.head(features)


def test_the_published_settings():
    t3a, lame = METHODS["t3a"].settings, METHODS["lame"].settings
    assert (t3a.steps, t3a.correction, t3a.reset.always) == (0, Supports(20), False)
    assert (lame.steps, lame.correction) == (0, Laplacian("rbf", 5, False, 100))


@pytest.mark.parametrize("made", ["batch", "group", "layer"])
def test_they_are_the_classifier_s_answers_corrected(
    bundle, group_norm_bundle, bundle_of, images, made
):
    """Of a network with batch norm, group norm, and a transformer with layer norm."""
    given = {"batch": bundle, "group": group_norm_bundle}.get(made) or bundle_of("ttt-mae")
    t3a, lame = adapter_of(given, "t3a"), adapter_of(given, "lame")
    supports = SupportSet(given.classifier.head, 20)
    for batch in images[:48].split(16):
        features, logits = features_of(given, batch)
        expected = assigned(logits, affinities(features, Laplacian()), iterations=100)
        torch.testing.assert_close(
            lame(batch).softmax(1), expected.softmax(1), rtol=1e-3, atol=1e-4
        )
        supports._join(logits, features)
        unit = supports.features / supports.features.norm(dim=2, keepdim=True).clamp_min(1e-12)
        centres = unit.sum(1)
        centres = centres / centres.norm(dim=1, keepdim=True).clamp_min(1e-12)
        torch.testing.assert_close(t3a(batch), features @ centres.T, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["t3a", "lame"])
def test_one_image_and_identical_images_are_finite(bundle, images, name):
    adapter = adapter_of(bundle, name)
    for batch in (images[:1], images[:1].expand(6, -1, -1, -1), torch.zeros_like(images[:3])):
        assert adapter(batch).isfinite().all()
    assert adapter.refused == 0


def test_lame_answers_one_image_as_the_classifier(bundle, images):
    frozen, lame = adapter_of(bundle, "source"), adapter_of(bundle, "lame")
    assert torch.equal(lame(images[:1]), frozen(images[:1]))
    assert not torch.allclose(lame(images[:12]), frozen(images[:12]))


def test_supports_are_state_that_can_be_restored_and_is_forgotten_by_a_reset(bundle, images):
    adapter = adapter_of(bundle, "t3a")
    first = adapter(images[:20])
    snapshot = adapter.snapshot()
    assert {"correction.features", "correction.entropies"} <= snapshot.tensors.keys()
    second = adapter(images[20:40])
    adapter.restore(snapshot)
    assert torch.equal(adapter(images[20:40]), second)
    adapter.reset()
    assert torch.equal(adapter(images[:20]), first)


@pytest.mark.parametrize("answer", ["after", "before"])
def test_a_trace_remembers_its_last_answers_alone(bundle, images, answer):
    """Answers before the first steps are shown, and not learned from."""
    changes = {"correction": Supports(40), "steps": 2, "answer": answer}
    plain, traced = (adapter_of(bundle, "tent", **changes) for _ in range(2))
    for batch in images[:40].split(20):
        expected = plain(batch)
        assert torch.equal(traced.trace(batch)[-1], expected)
    for name, tensor in plain.snapshot().tensors.items():
        assert torch.equal(traced.snapshot().tensors[name], tensor), name
    assert int(plain._learner.correction.entropies.isfinite().sum()) == 4 + 40


@pytest.mark.parametrize("objective", ["entropy", "information"])
def test_features_come_from_the_step_or_from_a_pass_of_their_own(bundle, images, objective):
    """The entropy gives logits alone; so the answer before the step takes another pass."""
    adapter = adapter_of(
        bundle, "tent", answer=Before(), correction=Laplacian(), objective=objective
    )
    frozen = adapter_of(bundle, "ptbn", correction=Laplacian())
    torch.testing.assert_close(adapter(images[:20]), frozen(images[:20]), rtol=1e-3, atol=1e-3)
    passes = adapter.cost(20).forward_equivalents
    assert (passes > 2.5) == (objective == "entropy")


def test_only_the_images_that_are_answered_for_are_corrected(bundle, images):
    """A memory's earlier images count in the statistics, and are no part of the answer."""
    adapter = adapter_of(bundle, "tent", memory=Recent(12), correction=Supports(40))
    adapter(images[:10])
    assert len(adapter(images[10:13])) == 3
    assert int(adapter._learner.correction.entropies.isfinite().sum()) == 4 + 13


def test_a_teacher_s_answer_has_the_teacher_s_features(bundle, images):
    """A correction by features takes them: here they are the source's, whatever the student is."""
    changes = {"answer": FromTeacher(), "aftermath": (Teacher(1.0),), "correction": Laplacian()}
    adapter = adapter_of(bundle, "tent", **changes | {"update.learning_rate": 0.1})
    source = adapter_of(bundle, "ptbn", correction=Laplacian())
    for batch in images[:48].split(24):
        torch.testing.assert_close(adapter(batch), source(batch), atol=1e-4, rtol=1e-4)
    assert bool(adapter.steps[0].taken)
