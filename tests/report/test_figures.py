import numpy as np
import pytest

from acclimate.evaluate.variant import Variant
from acclimate.methods import METHODS
from acclimate.report.figures import ACROSS, WITHIN, iterations_of
from acclimate.report.figures.accuracy import accuracy
from acclimate.report.figures.along import along, growing_noise
from acclimate.report.figures.cost import cost
from acclimate.report.figures.iterations import iterations
from acclimate.report.figures.reliability import FEWEST, reliability
from acclimate.report.figures.style import looks
from acclimate.report.figures.varied import batch_size, order


def curves(figure):
    """The x and y of each trace by its name."""
    return {t.name: (list(t.x), pytest.approx(list(t.y))) for t in figure.data if t.name}


@pytest.mark.parametrize("kind", [*WITHIN, *ACROSS], ids=lambda kind: kind.name)
def test_without_data_there_is_no_figure(kind, measured, share):
    assert kind.draw([], ()) is None
    if kind.name not in ("accuracy",):
        assert kind.draw([measured("tent", "none", share(3))], ()) is None


def test_accuracies_are_those_of_the_cells(measured, share):
    cells = [
        measured("source", "none", share(18)),
        measured("source", "gaussian_noise", share(5)),
        measured("source", "saturate", share(1)),
        measured("tent", "gaussian_noise", share(7)),
    ]
    drawn = curves_by_name(accuracy(cells, ["saturate"]))
    assert drawn == {
        "source": {"clean": 90.0, "mean": 25.0, "gaussian noise": 25.0},
        "tent": {"mean": 35.0, "gaussian noise": 35.0},
    }


def curves_by_name(figure):
    return {t.name: dict(zip(t.y, np.round(t.x, 9).tolist())) for t in figure.data}


def test_iterations_are_mean_curves(measured, share):
    cells = [
        measured("tent", "fog", share(10), curve=(0.3, 0.5)),
        measured("tent", "contrast", share(14), curve=(0.5, 0.7)),
        measured("tent", "saturate", share(0), curve=(0.0, 0.0)),
        measured("source", "fog", share(2)),
    ]
    assert curves(iterations(cells, ["saturate"])) == {"tent": ([0, 1], [40.0, 60.0])}
    small = iterations_of("contrast", cells, ["saturate"])
    assert curves(small) == {"tent": ([0, 1], [50.0, 70.0])}
    assert iterations_of("saturate", cells, ["saturate"]) is None


def test_noise_is_not_magnified(measured, share):
    cells = [measured("tent", "fog", share(10), curve=(0.499, 0.5))]
    low, high = iterations(cells, ()).layout.yaxis.range
    assert high - low >= 2


def test_cost_is_hollow_where_images_differ(measured, share):
    cells = [
        measured("source", "fog", share(2), cost=1.0),
        measured("ttt", "fog", share(1, 2), cost=61.0, images="few"),
        measured("tent", "fog", share(2), cost=float("nan")),
    ]
    drawn = cost(cells, ())
    assert curves(drawn) == {"source": ([1.0], [10.0]), "ttt": ([61.0], [50.0])}
    hollow = {t.name: t.marker.symbol.endswith("-open") for t in drawn.data}
    assert hollow == {"source": False, "ttt": True}
    assert drawn.layout.xaxis.type == "log"


def test_batch_sizes_are_compared_on_what_all_have(measured, share):
    cells = [
        measured("tent", "fog", share(4), batch=16),
        measured("tent", "fog", share(8), batch=128),
        measured("tent", "contrast", share(20), batch=128),  # no partner at 16
        measured("tent", "fog", share(0), batch=64, order="continual"),
        measured("source", "fog", share(5), batch=128),
        measured("tent", "fog", share(1, 2), batch=1, images="few"),
    ]
    assert curves(batch_size(cells, ())) == {"tent": ([16, 128], [20.0, 40.0])}


def test_domains_count_each_with_its_own_images(measured, share):
    cells = [
        measured("tent", name, share(count), batch=batch, images=name)
        for name, batch, count in [
            ("fog/5", 16, 4), ("snow/5", 16, 6), ("fog/5", 128, 8), ("snow/5", 128, 10),
        ]
    ]  # fmt: skip
    assert curves(batch_size(cells, ())) == {"tent": ([16, 128], [25.0, 45.0])}


def test_orders_are_compared_on_what_all_have(measured, share):
    cells = [
        measured("tent", name, share(count), order=order)
        for name, order, count in [
            ("fog", "shuffled", 8), ("fog", "continual", 6), ("contrast", "shuffled", 20),
            ("gaussian_noise", "growing-noise", 3), ("fog", "gradual", 3),
        ]
    ]  # fmt: skip
    assert curves(order(cells, ())) == {"tent": (["continual", "shuffled"], [30.0, 40.0])}
    assert order(cells[:1], ()) is None


def test_accuracy_along_a_stream(measured):
    right = [True] * 10 + [False] * 10
    cells = [
        measured("tent", "fog", right),
        measured("tent", "contrast", right, positions=range(19, -1, -1)),
        measured("source", "fog", [False] * 20),
    ]
    drawn = curves(along(cells, ()))
    assert drawn["tent"] == ([5, 15, 25, 35, 45, 55, 65, 75, 85, 95], [50.0] * 10)
    assert drawn["source"][1] == [0.0] * 10
    assert curves(along(cells[:1], ()))["tent"][1] == [100.0] * 5 + [0.0] * 5
    assert along([measured("tent", "fog", [True] * 19)], ()) is None


def test_error_under_growing_noise(measured):
    cells = [measured("tent", "gaussian_noise", [True, False] * 5 + [False] * 10,
                      order="growing-noise")]  # fmt: skip
    x, y = curves(growing_noise(cells, ()))["tent"]
    assert x == pytest.approx([0.25 + 0.5 * i for i in range(10)])
    assert y == [50.0] * 5 + [100.0] * 5
    assert along(cells, ()) is None


def test_reliability_is_accuracy_at_each_confidence(measured):
    n = FEWEST
    confidences = [0.95] * n + [0.42] * n + [0.15] * (n - 1)
    right = [True] * n + [True] * (n // 2) + [False] * (n // 2) + [True] * (n - 1)
    drawn = reliability([measured("tent", "fog", right, confidences=confidences)], ())
    x, y = curves(drawn)["tent"]
    assert x == pytest.approx([42, 95], abs=1e-4)
    assert y == [50.0, 100.0]  # nineteen answers are too few for a point


def test_a_method_looks_the_same_everywhere_and_like_no_other():
    rows = [("b", Variant(name)) for name in METHODS]
    every = looks(rows)
    assert len({tuple(look.values()) for look in every.values()}) == len(rows)
    assert looks(rows[3:4])[rows[3]] == every[rows[3]]
    for alike in (
        [(bundle, Variant("tent")) for bundle in "abc"],
        [("b", Variant.of("tent", {"steps": steps})) for steps in (1, 2, 3)],
    ):
        three = looks(alike).values()
        assert len({look["color"] for look in three}) == 1
        assert len({look["symbol"] for look in three}) == 3


def test_names_are_no_markup(measured, share):
    cells = [measured("tent", "fog", share(3), bundle=name) for name in ("<b>", "c")]
    assert [t.name for t in accuracy(cells, ()).data] == ["tent · &lt;b&gt;", "tent · c"]
