"""CoTTA's and RoTTA's losses against the releases' (`golden/online.npz`) and plain loops."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from acclimate.adapt import Adapter
from acclimate.backbones import Classifier
from acclimate.errors import InputError
from acclimate.objectives import (
    AugmentedStudent,
    AveragedTeacher,
    AveragedTeacherOptions,
    cross_entropy,
    symmetric_cross_entropy,
)
from acclimate.parts.selection import weighted_mean

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "online.npz")


def golden(name):
    return torch.from_numpy(np.asarray(GOLDEN[name])).double()


def close(found, name):
    torch.testing.assert_close(found, golden(name), rtol=1e-9, atol=1e-11)


def averaged(**options):
    return AveragedTeacher(None, None, **options)


def test_cotta_s_target_and_losses_are_the_release_s():
    for t in (1, 2):
        given = [
            golden(f"cotta_{name}_{t}")
            for name in ("teacher_logits", "teacher_augmented_logits", "anchor_confidence")
        ]
        target = averaged(released=True).target(*given)
        close(target, f"cotta_target_logits_{t}_as_released")
        student = golden(f"cotta_student_logits_{t}")
        close(cross_entropy(student, target.softmax(1)).mean(), f"cotta_loss_{t}_as_released")
        if t == 1:
            loss = symmetric_cross_entropy(student, target).mean()
            close(loss, "cotta_imagenet_loss_1_as_released")
            target = averaged(threshold=1.0).target(*given)
            close(target.softmax(1), "cotta_target_probabilities_1")
            close(cross_entropy(student, target.softmax(1)).mean(), "cotta_loss_1")


def test_cotta_s_gate_is_the_release_s():
    confidence = golden("cotta_anchor_confidence_1")
    close(confidence.mean(), "cotta_gate_open_anchor_confidence_mean")
    plain, augmented = torch.randn(8, 10).double(), torch.randn(32, 8, 10).double()
    found = averaged(released=True, threshold=0.5).target(plain, augmented, confidence)
    assert torch.equal(found, plain)  # open for all, by their mean
    target = golden("cotta_gate_open_target_logits")
    loss = cross_entropy(golden("cotta_gate_open_student_logits"), target.softmax(1)).mean()
    close(loss, "cotta_gate_open_loss")


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 5), st.floats(0, 1))
def test_the_paper_s_target_is_a_plain_loop_s(seed, batch, views, threshold):
    generator = torch.Generator().manual_seed(seed)
    plain = torch.randn(batch, 4, generator=generator).double()
    augmented = torch.randn(views, batch, 4, generator=generator).double()
    confidence = torch.rand(batch, generator=generator).double()
    found = averaged(threshold=threshold).target(plain, augmented, confidence).softmax(1)
    for i in range(batch):
        expected = plain[i].softmax(0)
        if confidence[i] < threshold:
            expected = sum(augmented[v, i].softmax(0) for v in range(views)) / views
        torch.testing.assert_close(found[i], expected)


def test_rotta_s_loss_is_the_release_s():
    student = golden("rotta_student_logits").requires_grad_()
    objective = AugmentedStudent(None, None)
    objective.teacher = lambda model, images: golden("rotta_teacher_logits")
    losses = objective(lambda images: student, torch.zeros(16, 3, 2, 2))
    loss = weighted_mean(losses, golden("rotta_timeliness"))
    close(loss.detach(), "rotta_loss")
    loss.backward()
    close(student.grad, "rotta_loss_grad_student")


def test_a_symmetric_cross_entropy_is_that_of_the_release():
    x, augmented, teacher = (golden(f"losses_{n}") for n in ("x", "augmented", "teacher"))
    close(symmetric_cross_entropy(x, teacher), "sce_loss")
    swapped = symmetric_cross_entropy(teacher, augmented)
    torch.testing.assert_close(symmetric_cross_entropy(augmented, teacher), swapped)


def test_views_pass_in_groups_of_whole_views():
    """As many as 512 images make; the teacher sees no part of a view."""
    seen = []

    def teacher(model, images):
        seen.append(len(images))
        return images.flatten(1)[:, :2]

    objective = averaged(views=6)
    objective.teacher = teacher
    for batch, groups in ((200, [400, 400, 400]), (600, [600] * 6), (8, [48])):
        views = torch.rand(6 * batch, 3, 2, 2)
        seen.clear()
        found = objective.of_views(None, views, 6)
        assert seen == groups
        assert torch.equal(found, views.flatten(1)[:, :2].view(6, batch, 2))


class Pixels(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(12)

    def forward(self, images):
        return self.norm(images.flatten(1))


def test_the_gradient_is_the_student_s_alone():
    model = Classifier(Pixels(), nn.Linear(12, 3))
    images = torch.rand(4, 3, 2, 2)
    for objective in (averaged(views=2), AugmentedStudent(None, None)):
        drawn = objective.draw(images, 1, torch.arange(4))
        model.zero_grad()
        result = objective(model, *drawn)
        losses = getattr(result, "losses", result)
        assert losses.shape == (4,)
        losses.mean().backward()
        assert all(p.grad is not None for p in model.parameters())
    target = averaged(views=2)(model, torch.cat([images] * 3)).logits
    assert not target.requires_grad


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"aftermath": ()}, "add Teacher to aftermath"),
        ({"objective": {"views": 0}}, "views must be 1 to 1000"),
        ({"objective": {"threshold": 1.5}}, "threshold must lie between 0 and 1"),
    ],
)
def test_what_cannot_be_meant_is_refused(bundle, changes, match):
    with pytest.raises(InputError, match=match):
        Adapter(bundle, "cotta", device="cpu", **changes)
    assert AveragedTeacherOptions().views == 32
