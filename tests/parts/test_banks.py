"""Banks against what the releases keep (`golden/online.npz`), and against plain lists."""

import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from acclimate.errors import InputError
from acclimate.parts.banks import Balanced, Reservoir, ReservoirBank, timeliness

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "online.npz")
CPU = torch.device("cpu")
SHAPE = (2, 2, 3)


def numbered(first, count):
    """Images that carry their number, and the numbers."""
    index = torch.arange(first, first + count)
    return index.float()[:, None, None, None].expand(-1, 3, 2, 2), index


def contents(bank):
    """Which images are held, class by class in the order of their arrival; pixels must agree."""
    held = bank.images[: bank.count, 0, 0, 0].long()
    assert torch.equal(held, bank.index[: bank.count])
    assert np.array_equal(held.numpy(), bank.arrivals[: bank.count])
    labels = bank.labels[: bank.count]
    return [sorted(held.numpy()[labels == c].tolist()) for c in range(bank.classes)]


def of_golden(rows):
    return [[number for number in row.tolist() if number >= 0] for row in rows]


@pytest.mark.parametrize("name", ["bank", "bank_fractional", "bank_many_classes", "bank_ties"])
def test_rotta_s_bank_is_the_release_s(name):
    found = {k[len(f"rotta_{name}_") :]: GOLDEN[k] for k in GOLDEN if k.startswith(f"rotta_{name}")}
    capacity, classes, time, uncertainty = (float(x) for x in found["settings"])
    made = Balanced(int(capacity), timeliness=time, uncertainty=uncertainty)
    bank = made.build(SHAPE, CPU, int(classes))
    for t, (label, value) in enumerate(zip(found["prediction"], found["uncertainty"])):
        bank.offer(*numbered(t, 1), [int(label)], [float(value)])
        assert contents(bank) == of_golden(found["ids"][t])
        assert (t in bank.arrivals[: bank.count]) == found["accepted"][t]
        if "ages" in found:
            ages = dict(zip(bank.arrivals.tolist(), bank.ages().tolist()))
            for ids, expected in zip(found["ids"][t], found["ages"][t]):
                assert [ages[i] for i in ids if i >= 0] == expected[ids >= 0].tolist()
    if "final_ids" in found:
        order = np.lexsort((bank.arrivals[: bank.count], bank.labels[: bank.count]))
        assert np.array_equal(bank.arrivals[order], found["final_ids"])
        relative = bank.ages()[order] / bank.capacity
        np.testing.assert_allclose(relative, found["final_relative_ages"], rtol=1e-12)
        if name == "bank":
            expected = GOLDEN["rotta_bank_final_timeliness"]
            np.testing.assert_allclose(bank._weights()[order], expected, rtol=1e-12)
            weights = bank.context()[2].numpy()
            np.testing.assert_allclose(weights[order], expected, rtol=1e-6)


def test_rotta_s_scores_and_weights_are_the_release_s():
    bank = Balanced(8).build(SHAPE, CPU, 4)
    found = bank.scores(np.array([0, 0, 5, 40]), np.array([0, 1, 0.3, 1.2]))
    np.testing.assert_allclose(found, GOLDEN["rotta_score_example"], rtol=1e-12)
    weights = timeliness(GOLDEN["rotta_relative_ages"])
    np.testing.assert_allclose(weights, GOLDEN["rotta_timeliness"], rtol=1e-12)


class Told(ReservoirBank):
    """A reservoir whose random choices are given."""

    numbers: tuple[float, float, float]

    def _draw(self, count):
        return [self.numbers]


def test_note_s_reservoir_is_the_release_s():
    bank = Told(Reservoir(int(GOLDEN["note_pbrs_capacity"])), SHAPE, CPU, 5)
    drawn = zip(*(GOLDEN[f"note_pbrs_{k}"] for k in ("prediction", "uniform", "index", "class")))
    for t, (label, uniform, place, of_class) in enumerate(drawn):
        sizes = bank._sizes()
        largest = np.flatnonzero(sizes == sizes.max()).tolist()
        choice = (largest.index(of_class) + 0.5) / len(largest) if of_class >= 0 else 0.5
        members = sizes[of_class if of_class >= 0 else label]
        bank.numbers = (choice, float(uniform), (place + 0.5) / max(1, members))
        bank.offer(*numbered(t, 1), [int(label)], [0.0])
        assert contents(bank) == of_golden(GOLDEN["note_pbrs_ids"][t])
    assert np.array_equal(bank.seen, GOLDEN["note_pbrs_counter"])


class Lists:
    """RoTTA's bank as lists of (number, age, uncertainty), an image at a time."""

    def __init__(self, made, classes):
        self.made, self.classes = made, classes
        self.held = [[] for _ in range(classes)]

    def score(self, age, uncertainty):
        old = self.made.timeliness / (1 + math.exp(-age / self.made.images))
        return old + self.made.uncertainty * uncertainty / math.log(self.classes)

    def take(self, number, label, uncertainty):
        sizes = [len(of_class) for of_class in self.held]
        candidates = None
        if sizes[label] * self.classes >= self.made.images:
            candidates = [label]
        elif sum(sizes) >= self.made.images:
            candidates = [c for c in range(self.classes) if sizes[c] == max(sizes)]
        taken = candidates is None
        if candidates is not None:
            worst, where = self.score(0, uncertainty), None
            for c in candidates:
                for place, (_, age, value) in enumerate(self.held[c]):
                    score = self.score(age, value)
                    if score > worst or (where is not None and score == worst):
                        worst, where = score, (c, place)
            if where is not None:
                self.held[where[0]].pop(where[1])
                taken = True
        if taken:
            self.held[label].append((number, 0, uncertainty))
        self.held = [[(n, age + 1, u) for n, age, u in of_class] for of_class in self.held]


streams = st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0.1, 0.4, 0.9])), max_size=60)


@settings(max_examples=60, deadline=None)
@given(streams, st.integers(1, 9), st.sampled_from([0.0, 1.0]), st.integers(1, 60))
def test_a_balanced_bank_is_that_of_plain_lists_however_images_come(stream, room, time, batch):
    made = Balanced(room, timeliness=time)
    bank, lists = made.build(SHAPE, CPU, 4), Lists(made, 4)
    for start in range(0, len(stream), batch):
        part = stream[start : start + batch]
        labels, uncertainties = zip(*part)
        bank.offer(*numbered(start, len(part)), labels, uncertainties)
    for number, (label, uncertainty) in enumerate(stream):
        lists.take(number, label, uncertainty)
    assert contents(bank) == [[n for n, _, _ in of_class] for of_class in lists.held]
    assert bank.count <= room
    assert max(map(len, contents(bank))) <= math.ceil(room / 4)


@settings(max_examples=60, deadline=None)
@given(streams, st.integers(1, 9), st.integers(1, 60))
def test_a_reservoir_is_full_and_the_same_however_images_come(stream, room, batch):
    one, other = (Reservoir(room, seed=3).build(SHAPE, CPU, 4) for _ in range(2))
    for start in range(0, len(stream), batch):
        labels, values = zip(*stream[start : start + batch])
        one.offer(*numbered(start, len(labels)), labels, values)
    for number, (label, value) in enumerate(stream):
        other.offer(*numbered(number, 1), [label], [value])
    assert contents(one) == contents(other)
    assert one.count == min(room, len(stream))
    assert one.seen.tolist() == [sum(label == c for label, _ in stream) for c in range(4)]


def test_a_reservoir_balances_a_stream_that_is_not():
    """95 of 100 images are of one class; each class has its share, and any of its images."""
    labels = [0] * 950 + [1] * 50
    random.Random(0).shuffle(labels)
    held = []
    for seed in range(20):
        bank = Reservoir(20, seed=seed).build(SHAPE, CPU, 2)
        bank.offer(*numbered(0, 1000), labels, [0.0] * 1000)
        assert [len(of_class) for of_class in contents(bank)] == [10, 10]
        held += contents(bank)[0]
    assert len(set(held)) > 150 and 350 < np.mean(held) < 650


def test_updates_come_at_intervals_whatever_the_batches():
    bank = Balanced(4, every=6).build(SHAPE, CPU, 2)
    assert bank.until_update() == 6
    assert not bank.offer(*numbered(0, 4), [0, 1, 0, 1], [0.1] * 4)
    assert bank.until_update() == 2
    assert bank.offer(*numbered(4, 2), [0, 1], [0.1] * 2)
    assert bank.until_update() == 6


def test_an_image_has_other_views_in_each_update():
    bank = Reservoir(2, every=1).build(SHAPE, CPU, 2)
    bank.offer(*numbered(0, 2), [0, 1], [0.0, 0.0])
    first = bank.context()[1]
    bank.offer(*numbered(2, 1), [0], [0.0])
    assert not set(first.tolist()) & set(bank.context()[1].tolist())


@pytest.mark.parametrize("kind", [Balanced, Reservoir])
@pytest.mark.parametrize("name", ["images", "every"])
def test_sizes_that_cannot_be_meant_are_refused(kind, name):
    for value in (0, 10**6):
        with pytest.raises(InputError, match=f"{name} must be 1 to 10000, not {value}"):
            kind(**{name: value}).check()


def test_weights_that_cannot_be_meant_are_refused():
    with pytest.raises(InputError, match="timeliness must be a finite number"):
        Balanced(timeliness=-1.0).check()
    with pytest.raises(InputError, match="uncertainty must be a finite number"):
        Balanced(uncertainty=math.nan).check()
