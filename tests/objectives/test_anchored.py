"""PeTTA's losses against the release's (`golden/online.npz`)."""

import pytest
import torch
from golden_values import assert_golden, golden

from acclimate.adapt import Adapter
from acclimate.errors import InputError
from acclimate.objectives import AnchoredStudent


def losses(**options):
    """The losses where all answers are those of the file: first of images, then of views."""
    students = [golden("petta_student_logits"), golden("petta_student_augmented_logits")]
    if not options.get("symmetric", True):  # images pass by the teacher alone
        students = students[1:]
    objective = AnchoredStudent(None, None, **options)
    objective.teacher = lambda model, images: golden("petta_teacher_logits")
    objective.source = lambda model, images: golden("petta_initial_logits")
    found = objective(lambda images: students.pop(0), torch.zeros(14, 3, 2, 2))
    assert not students and found.shape == (7,)
    return found


def test_petta_s_losses_are_the_release_s():
    assert_golden(losses(anchor=0.0).mean(), "petta_self_training_loss")
    assert_golden(losses(anchor=0.0, symmetric=False).mean(), "petta_cross_entropy_loss")
    assert_golden((losses() - losses(anchor=0.0)).mean(), "petta_anchor_loss")
    plain = losses(anchor=0.0, symmetric=False)
    assert_golden((losses(anchor=2.0, symmetric=False) - plain).mean() / 2, "petta_anchor_loss")


def test_the_source_is_not_asked_for_nothing():
    objective = AnchoredStudent(None, None, anchor=0.0)
    objective.source = objective.teacher = lambda model, images: torch.zeros(2, 3)
    objective.source = None
    assert objective(lambda images: torch.zeros(2, 3), torch.zeros(4, 3, 2, 2)).shape == (2,)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"objective": {"anchor": -1.0}}, "anchor must be a finite number"),
        ({"aftermath": ()}, "add Teacher to aftermath"),
        ({"aftermath": "teacher"}, "add SensingTeacher to aftermath"),
    ],
)
def test_what_cannot_be_meant_is_refused(bundle_of, changes, match):
    with pytest.raises(InputError, match=match):
        Adapter(bundle_of("petta"), "petta", device="cpu", **changes)
