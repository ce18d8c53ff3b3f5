import pytest
import torch

from acclimate.data import LabelledImages
from acclimate.evaluate.card import METRIC, UNKNOWN, card_name, protocol_cards
from acclimate.evaluate.task import Grid, Task, tasks_of
from acclimate.report.card_fields import differences

CLASSES = ("ant", "bee", "cat", "dog")
BUNDLE = {
    "weights_sha256": "a" * 64,
    "architecture": "resnet",
    "preprocessing": {"size": 32, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
}


@pytest.fixture(scope="module")
def tasks(saved, images):
    data = LabelledImages(images[:24], torch.arange(24) * 7 % 4, CLASSES, "tiny")

    def tasks(**grid):
        given = {"corruptions": ("fog", "snow"), "methods": ("tent",), "batch": 10} | grid
        return tasks_of(Grid(**given), {"b": saved}, data)

    return tasks


def card_of(tasks, **bundle):
    (card,) = protocol_cards(tasks, {"b": BUNDLE | bundle}, {}).values()
    return card


def told(one, other):
    return {each.words: (each.first, each.second) for each in differences(one, other)}


def test_a_card_holds_all_that_makes_numbers_comparable(tasks):
    some = tasks(seeds=(0, 2))
    cards = protocol_cards(some, {"b": BUNDLE}, {some[0].key: "c1", some[1].key: "c0"})
    assert set(cards) == {card_name(task) for task in some}
    (card,) = cards.values()
    assert card["weights"] == "a" * 64 and card["preprocessing"]["mean"] == [0.5, 0.5, 0.5]
    assert card["images"] == some[0].images and card["n_images"] == 24
    assert (card["order"], card["batch"], card["window"]) == ("shuffled", 10, 0)
    assert (card["protocol"], card["reset"]) == ("reset", "at each shift")
    assert card["answer"] == "after the steps"
    assert card["statistics"] == "the batch's, prior 0.0, limit 1.0"
    assert card["metric"] == METRIC and card["seeds"] == [0, 2]
    assert card["shifts"] == ["fog 5", "snow 5"] and card["commits"] == ["c0", "c1"]
    assert card["settings"]["update"]["learning_rate"] == 1e-3


def test_when_is_forgotten(tasks):
    assert card_of(tasks(methods=("cta",)))["reset"] == "at each batch"
    assert card_of(tasks(orders=("continual",)))["reset"] == "never"
    assert card_of(tasks(methods=("tent:reset=batch",)))["reset"] == "at each batch"


def test_a_frozen_classifier_has_a_card_without_steps(tasks):
    card = card_of(tasks(methods=("source",)))
    assert card["statistics"] == "the source's" and card["settings"]["steps"] == 0


def test_equal_cards_do_not_differ_whatever_was_measured(tasks):
    one, other = card_of(tasks()), card_of(tasks(corruptions=("snow", "frost")))
    assert one["shifts"] != other["shifts"] and other["frost"]
    assert differences(one, other) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"batch": 12}, {"batch size": ("10", "12")}),
        ({"seeds": (1, 2)}, {"seeds": ("0", "1, 2")}),
        (
            {"orders": ("continual",)},
            {"protocol": ("reset", "continual"), "reset": ("at each shift", "never")},
        ),
        (
            {"batch": 1, "window": 4},
            {
                "protocol": ("reset", "single-images"),
                "batch size": ("10", "1"),
                "window of single images": ("0", "4"),
            },
        ),
        (
            {"methods": ("tent:answer=before,update.learning_rate=0.5",)},
            {
                "method": ("tent", "tent:answer=before,update.learning_rate=0.5"),
                "answers": ("after the steps", "before the steps"),
                "setting update.learning_rate": ("0.001", "0.5"),
            },
        ),
        (
            {"methods": ("tent:aftermath=pull",)},
            {
                "method": ("tent", "tent:aftermath=pull"),
                "setting aftermath.0.kind": ("–", "pull"),
                "setting aftermath.0.rate": ("–", "0.01"),
            },
        ),
    ],
    ids=lambda value: "",
)
def test_differences_are_told_in_plain_words(changes, expected, tasks):
    assert told(card_of(tasks()), card_of(tasks(**changes))) == expected


def test_a_bundles_differences_are_its_weights_and_normalisation(tasks):
    some = tasks()
    other = card_of(some, weights_sha256="b" * 64)
    assert told(card_of(some), other) == {
        "weights of the bundle (SHA-256)": ("a" * 12 + "…", "b" * 12 + "…")
    }
    other = card_of(some, preprocessing=BUNDLE["preprocessing"] | {"mean": [0.4, 0.5, 0.5]})
    assert told(card_of(some), other) == {"normalisation: mean": ("0.5, 0.5, 0.5", "0.4, 0.5, 0.5")}


def test_what_is_not_recorded_is_said(tasks):
    (older,) = protocol_cards(tasks(), {}, {}).values()
    assert older["weights"] == UNKNOWN
    found = told(card_of(tasks()), older)
    assert found["weights of the bundle (SHA-256)"][1] == UNKNOWN
    assert found["normalisation: mean"] == ("0.5, 0.5, 0.5", UNKNOWN)


def test_the_name_of_a_card_is_that_of_its_fields(tasks):
    """Seeds, shifts and the curve share a card; all else has another."""
    (name,) = {card_name(task) for task in tasks(seeds=(0, 1), curve=False) + tasks()}
    changes = [
        {"batch": 9}, {"orders": ("mixed",)}, {"methods": ("tent:steps=2",)},
        {"batch": 1, "window": 8}, {"methods": ("source",)},
    ]  # fmt: skip
    names = [card_name(tasks(**change)[0]) for change in changes]
    assert len({name, *names}) == 6
    again = Task.of_record(tasks()[0].record())
    assert card_name(again) == name
