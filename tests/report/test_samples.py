import numpy as np
import torch

from acclimate.data import LabelledImages, corrupt
from acclimate.evaluate.cell import Answers, Cell
from acclimate.evaluate.variant import Variant
from acclimate.report.samples import samples_of

CLASSES = ("ant", "bee", "cat")


def cell(method, corruption, predictions, numbers):
    """Answers to images of the data set in the order in which they came."""
    numbers = np.array(numbers)
    answers = Answers(
        np.arange(4), numbers, np.array(predictions)[numbers],
        (numbers / 10).astype(np.float32), numbers > 9,
    )  # fmt: skip
    return Cell(
        variant=Variant(method), bundle="b", dataset="d", corruption=corruption, severity=4,
        order="shuffled", seed=2, batch=4, accuracy=0.5, ece=0.1, nll=1.0, n_images=4, steps=0,
        seconds=1.0, images_per_second=4.0, peak_memory=0, refused_steps=0, answers=answers,
    )  # fmt: skip


def test_a_sample_is_an_image_whose_answer_changed(images):
    test = LabelledImages(images[:4], torch.tensor([2, 1, 0, 1]), CLASSES, "d")
    cells = [
        cell("source", "fog", [0, 1, 2, 0], [3, 1, 0, 2]),
        cell("cta", "fog", [0, 1, 1, 0], [2, 3, 1, 0]),  # image 2 alone
        cell("source", "contrast", [0, 1, 2, 0], [0, 1, 2, 3]),
        cell("cta", "contrast", [0, 1, 2, 0], [0, 1, 2, 3]),  # none
    ]
    fog, contrast = samples_of(CLASSES, ["fog", "contrast"], test, cells)
    assert torch.equal(fog.clean, images[2])
    assert torch.equal(fog.corrupted, corrupt(images[:4], "fog", 4, seed=2)[2])
    assert (fog.corruption, fog.truth, fog.before, fog.after) == ("fog", "ant", "cat", "bee")
    assert fog.before_confidence == fog.after_confidence == np.float32(0.2)
    assert (contrast.truth, contrast.before, contrast.after) == ("bee", "bee", "bee")
