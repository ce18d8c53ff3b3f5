import pytest
import torch

from acclimate.advise.streams import CONDITIONS, SHIFTED, comes_by_class, source_stream
from acclimate.data.corruptions import PUBLISHED


def test_no_condition_is_reported():
    assert not {name for name, _ in CONDITIONS} & set(PUBLISHED)
    assert SHIFTED.tolist() == [name != "none" for name, _ in CONDITIONS]


@pytest.mark.parametrize("wrong", [0.0, 0.5, 0.8])
def test_classes_that_come_together_are_seen_through_wrong_answers(wrong):
    generator = torch.Generator().manual_seed(0)
    answers = torch.arange(500) // 50
    strange = torch.rand(500, generator=generator) < wrong
    answers[strange] = torch.randint(0, 4, (int(strange.sum()),), generator=generator)
    assert comes_by_class(answers)
    assert not comes_by_class(answers[torch.randperm(500, generator=generator)])


def test_a_stream_of_one_answer_or_few_images_tells_nothing():
    assert not comes_by_class(torch.zeros(500, dtype=torch.int64))
    assert not comes_by_class(torch.arange(20) // 10)


def test_random_orders_pass_for_sorted_ones_hardly_ever():
    found = [
        comes_by_class(torch.randint(0, 10, (300,), generator=torch.Generator().manual_seed(seed)))
        for seed in range(200)
    ]
    assert sum(found) <= 2


@pytest.mark.parametrize(
    ("order", "by_class", "expected"),
    [("arrival", True, [1, 3, 5, 0, 2, 4]), ("arrival", None, [0, 1, 2, 3, 4, 5])],
)
def test_orders(images, order, by_class, expected):
    answers = torch.eye(2)[torch.tensor([1, 0, 1, 0, 1, 0])]
    stream = source_stream(images[:6], answers, answers, order, by_class)
    assert torch.equal(stream.images, images[expected])
    assert torch.equal(stream.truth, answers[expected].softmax(1))
    assert stream.by_class == bool(by_class)


def test_shuffled_images_keep_their_truth(images):
    answers = torch.eye(40)
    stream = source_stream(images[:40], 9 * answers, 9 * answers, "shuffled", False)
    rows = stream.truth.argmax(1)
    assert not torch.equal(rows, torch.arange(40)) and torch.equal(stream.images, images[rows])
    assert torch.equal(stream.score(answers[rows]), stream.truth.amax(1))
