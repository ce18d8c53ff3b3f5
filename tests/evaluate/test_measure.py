from dataclasses import replace

import numpy as np
import pytest
import torch

from acclimate.adapt import Adapter
from acclimate.data import LabelledImages, Shift, corrupt, subset
from acclimate.data.streams import stream
from acclimate.errors import InputError
from acclimate.evaluate import measure as module
from acclimate.evaluate.arrival import arrange
from acclimate.evaluate.cell import Answers
from acclimate.evaluate.measure import measure
from acclimate.evaluate.variant import Variant
from acclimate.methods import METHODS
from acclimate.randomness import key, permutation


@pytest.fixture
def data(images):
    labels = torch.randint(4, (60,), generator=torch.Generator().manual_seed(0))
    return LabelledImages(images[:60], labels, ("ant", "bee", "cat", "dog"), "tiny")


def fp32(name):
    return replace(METHODS[name].settings, precision="fp32")


def measured(bundle, name, data, corruption, severity, **named):
    """The one cell of a stream under one shift."""
    (cell,) = measure(bundle, Variant.parse(name), data, (Shift(corruption, severity),), **named)
    return cell


def by_image(cell):
    """Predictions and confidences in the order of the data set; each image came once."""
    rows = cell.answers.of(torch.arange(cell.n_images).numpy())
    return cell.answers.predictions[rows].tolist(), cell.answers.confidences[rows].tolist()


def predictions(cell):
    return by_image(cell)[0]


@pytest.mark.parametrize(("corruption", "severity"), [("none", 0), ("contrast", 3)])
def test_source_is_a_direct_evaluation(bundle, data, corruption, severity):
    cell = measured(bundle, "source", data, corruption, severity, batch=16, settings=fp32("source"))
    images = data.images
    if severity:
        images = corrupt(images, corruption, severity, seed=0)
    mean = torch.tensor(bundle.preprocessing.mean).view(1, 3, 1, 1)
    std = torch.tensor(bundle.preprocessing.std).view(1, 3, 1, 1)
    with torch.no_grad():
        likely = bundle.classifier((images.float() / 255 - mean) / std).softmax(1)
    found, confidences = by_image(cell)
    assert found == likely.argmax(1).tolist()
    assert cell.accuracy == (likely.argmax(1) == data.labels).double().mean()
    assert confidences == pytest.approx(likely.max(1).values.tolist(), abs=1e-6)
    assert cell.nll == pytest.approx(-likely[range(60), data.labels].log().mean().item(), rel=1e-5)
    assert (str(cell.variant), cell.dataset, cell.corruption) == ("source", "tiny", corruption)
    assert (cell.severity, cell.n_images, cell.steps, cell.curve) == (severity, 60, 0, ())
    assert cell.images_per_second == pytest.approx(60 / cell.seconds)


@pytest.mark.parametrize(("corruption", "severity"), [("none", 0), ("gaussian_noise", 4)])
def test_answers_are_those_of_a_set_that_was_corrupted_before(bundle, data, corruption, severity):
    cell = measured(bundle, "cta", data, corruption, severity, seed=3, batch=25)
    images = data.images
    if severity:
        images = corrupt(images, corruption, severity, seed=3)
    adapter = Adapter(bundle, "cta", replace(METHODS["cta"].settings, seed=3))
    likely = torch.empty(60, 4)
    for numbers in permutation(key(3, "stream"), 60).split(25):
        likely[numbers] = adapter(images[numbers]).softmax(1)
    assert by_image(cell) == (likely.argmax(1).tolist(), likely.max(1).values.tolist())


def test_images_are_corrupted_as_they_arrive(bundle, data, monkeypatch):
    sizes, plain = [], stream.corrupt_numbered

    def spy(images, *arguments, **named):
        sizes.append(len(images))
        return plain(images, *arguments, **named)

    monkeypatch.setattr(stream, "corrupt_numbered", spy)
    measured(bundle, "source", data, "contrast", 3, batch=25)
    assert sizes == [25, 25, 10]


@pytest.mark.parametrize("name", ["source", "aligned"])
def test_frozen_answers_depend_on_neither_order_nor_batch(bundle, data, name):
    def answers(seed, batch):
        named = {"seed": seed, "batch": batch, "settings": fp32(name)}
        return predictions(measured(bundle, name, data, "none", 0, **named))

    assert answers(0, 60) == answers(1, 7) == answers(2, 1)


def test_a_seed_fixes_everything(bundle, data):
    def cell(seed):
        found = measured(bundle, "cta", data, "gaussian_noise", 5, seed=seed, batch=20)
        return *by_image(found), found.ece

    assert cell(3) == cell(3)
    assert cell(3) != cell(4)


def test_the_curve_runs_from_aligned_bn_to_the_answer(bundle, data):
    cell = measured(bundle, "cta", data, "none", 0, batch=20, curve=True, settings=fp32("cta"))
    plain = measured(bundle, "cta", data, "none", 0, batch=20, settings=fp32("cta"))
    still = measured(bundle, "aligned-bn", data, "none", 0, batch=20, settings=fp32("aligned-bn"))
    assert len(cell.curve) == METHODS["cta"].settings.steps + 1
    assert cell.curve[0] == still.accuracy
    assert cell.curve[-1] == cell.accuracy == plain.accuracy
    assert by_image(cell) == by_image(plain)


def test_learning_rate_zero_by_name(bundle, data):
    name = "cta:update.learning_rate=0"
    still = measured(bundle, name, data, "none", 0, batch=20)
    frozen = measured(bundle, "aligned-bn", data, "none", 0, batch=20)
    assert still.variant == Variant("cta").without_steps
    assert still.steps == METHODS["cta"].settings.steps
    assert predictions(still) == predictions(frozen)


def test_labels_never_reach_the_adapter(bundle, data, monkeypatch):
    """Other labels, the same answers; and an adapter is given one uint8 tensor of images alone."""
    seen = []

    class Spy(module.Adapter):
        def __call__(self, *arguments, **named):
            seen.append((arguments, named))
            return super().__call__(*arguments, **named)

        trace = None

    monkeypatch.setattr(module, "Adapter", Spy)
    cell = measured(bundle, "cta", data, "none", 0, batch=25)
    for arguments, named in seen:
        assert named == {}
        assert [(type(x), x.dtype, x.ndim) for x in arguments] == [(torch.Tensor, torch.uint8, 4)]
    assert sorted(len(arguments[0]) for arguments, _ in seen) == [10, 25, 25]
    given = torch.cat([arguments[0] for arguments, _ in seen])
    assert not torch.equal(given, data.images)  # shuffled
    assert torch.equal(given.flatten(1).sum(1).sort()[0], data.images.flatten(1).sum(1).sort()[0])
    other = measured(bundle, "cta", replace(data, labels=data.labels.flip(0)), "none", 0, batch=25)
    assert by_image(other) == by_image(cell)


SEVERAL = {
    "continual": [Shift("contrast", 5), Shift("fog", 5)],
    "recurring": [Shift("contrast", 5), Shift("fog", 5)],
    "mixed": [Shift("contrast", 5), Shift("fog", 5), Shift("snow", 5)],
    "gradual": [Shift("contrast", 5), Shift("fog", 5)],
    "class-correlated-continual": [Shift("contrast", 5), Shift("fog", 5)],
    "class-correlated-gradual": [Shift("contrast", 5), Shift("fog", 5)],
    "class-correlated-mixed": [Shift("contrast", 5), Shift("fog", 5)],
    "growing-noise": [Shift("gaussian_noise", 5)],
    "label-shifted": [Shift("fog", 5)],
}


@pytest.mark.parametrize("order", SEVERAL)
def test_each_shift_of_a_stream_is_scored_alone(order, bundle, data):
    """Against a loop over the stream that notes every image on a list of its shift."""
    named = {"batch": 50, "seed": 2}
    settings = replace(fp32("ptbn"), seed=2)
    cells = measure(
        bundle, Variant("ptbn"), data, SEVERAL[order], order=order, settings=settings, **named
    )
    adapter = Adapter(bundle, "ptbn", settings)
    seen, position = {}, 0
    for arrived in arrange(order, data, SEVERAL[order], **named):
        likely = adapter(arrived.images).softmax(1)
        for number, shift, row in zip(arrived.numbers.tolist(), arrived.shifts, likely):
            shift = SEVERAL[order][0] if order == "growing-noise" else shift
            line = (position, number, int(row.argmax()), float(row.max()))
            seen.setdefault(shift, []).append((*line, line[2] == int(data.labels[number])))
            position += 1
    assert [(cell.corruption, cell.severity) for cell in cells] == [
        (shift.corruption, shift.severity) for shift in seen
    ]
    for cell, lines in zip(cells, seen.values()):
        kept = cell.answers
        columns = (kept.positions, kept.numbers, kept.predictions, kept.confidences, kept.right)
        assert [*zip(*(column.tolist() for column in columns))] == lines
        assert cell.accuracy == sum(line[-1] for line in lines) / len(lines)
        assert (cell.n_images, cell.batch, cell.order) == (len(lines), 50, order)
    assert len({cell.seconds for cell in cells}) == 1  # of the whole stream


def test_the_curve_of_each_shift_ends_in_its_accuracy(bundle, data):
    shifts = SEVERAL["mixed"]
    cells = measure(bundle, Variant("cta"), data, shifts, order="mixed", batch=60, curve=True)
    for cell in cells:
        assert len(cell.curve) == METHODS["cta"].settings.steps + 1
        assert cell.curve[-1] == cell.accuracy


def test_answers_are_found_by_number():
    numbers = np.array([7, 2, 9, 0])
    answers = Answers(np.arange(4), numbers, numbers, np.zeros(4, np.float32), numbers > 3)
    assert answers.of(np.array([0, 9, 2])).tolist() == [3, 2, 1]
    assert answers.numbers[answers.of(np.array([9, 7]))].tolist() == [9, 7]


def test_progress_adds_up(bundle, data):
    told = []
    measured(bundle, "source", data, "none", 0, batch=25, advance=told.append)
    assert told == [25, 25, 10]


def test_unknown_names_are_refused(bundle, data):
    with pytest.raises(InputError, match="unknown method 'ctaa'"):
        measured(bundle, "ctaa", data, "none", 0)
    with pytest.raises(InputError, match="unknown corruption 'fogg': did you mean fog"):
        measured(bundle, "source", data, "fogg", 1)
    with pytest.raises(InputError, match="severity"):
        measured(bundle, "source", data, "fog", 6)


def test_subset_is_spread_evenly(data):
    chosen = subset(data, 6)
    assert torch.equal(chosen.images, data.images[::10])
    assert torch.equal(chosen.labels, data.labels[::10])
    assert subset(data, None) is data
    assert subset(data, 60) is data
    assert len(subset(data, 59).images) == 59
