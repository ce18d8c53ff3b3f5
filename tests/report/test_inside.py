"""What the page shows of the analyses."""

import json

import pytest

from acclimate.evaluate.analyses.record import write_record
from acclimate.report.analyses import read_analyses


def written(folder, name, rows, **more):
    write_record(folder, name, title="T", caption="C", rows=rows, settings={}, more=more or None)
    (found,) = read_analyses(folder)
    return found


def test_semantics_are_means_over_corruptions(tmp_path):
    rows = [
        {
            "method": "y", "corruption": corruption, "severity": 5, "steps": steps, "part": part,
            "davies_bouldin": index + steps, "drift": 10.0 * index if part == "encoder" else None,
        }
        for corruption, index in (("fog", 1.0), ("snow", 2.0))
        for steps in (0, 20)
        for part in ("encoder", "projector")
    ]  # fmt: skip
    found = written(tmp_path, "semantics", rows)
    assert found.rows == (
        ("y", "encoder", "0", "1.5", "15"),
        ("y", "encoder", "20", "21.5", "15"),
        ("y", "projector", "0", "1.5", "–"),
        ("y", "projector", "20", "21.5", "–"),
    )
    assert found.figure is None


def test_panels_show_each_point_once_in_its_class(tmp_path):
    states = ("clean", "before", "after")
    rows = [
        {"method": "cta-paper", "part": part, "state": state, "davies_bouldin": 1.25 + number}
        for number, state in enumerate(states)
        for part in ("encoder", "projector")
    ]
    points = [[[n, 0.5], [n, 1.5], [n, 2.5]] for n in range(6)]
    found = written(
        tmp_path, "tsne", rows, points=points, labels=6 * [[0, 1, 0]], classes=["ant", "bee"]
    )
    traces = found.figure.data
    assert [trace.name for trace in traces] == 6 * ["ant", "bee"]
    assert sum(trace.showlegend for trace in traces) == 2
    shown = {(trace.name, trace.xaxis): list(zip(trace.x, trace.y)) for trace in traces}
    assert sorted(x for place in shown.values() for x, _ in place) == sorted(3 * list(range(6)))
    titles = [each.text for each in found.figure.layout.annotations]
    assert titles[:2] == ["cta-paper encoder, clean: 1.25", "cta-paper encoder, corrupted: 2.25"]
    # The second point is the encoder's on clean images, the first panel.
    assert shown["bee", "x"] == [(0, 1.5)]
    assert shown["bee", "x4"] == [(1, 1.5)]  # the projector's, in the second row


def test_gradients_show_gains_in_points(tmp_path):
    rows = [
        {
            "corruption": "glass_blur", "severity": s, "inner_product": float(s),
            "gain_ttt": s / 100, "gain_ttt_online": -s / 100,
        }
        for s in range(1, 6)
    ]  # fmt: skip
    r = {"r": 0.9, "low": 0.5, "high": 0.99}
    none = {"r": None, "low": None, "high": None}
    found = written(tmp_path, "gradients", rows, r_gain_ttt=r, r_gain_ttt_online=none)
    ttt, online = found.figure.data
    assert list(ttt.x) == [1, 2, 3, 4, 5]
    assert list(ttt.y) == pytest.approx([1, 2, 3, 4, 5])
    assert list(online.y) == pytest.approx([-1, -2, -3, -4, -5])
    assert ttt.text[4] == "glass blur 5"
    assert found.rows == (("ttt", "0.9", "0.5 to 0.99"), ("ttt-online", "–", "– to –"))


def test_figures_can_be_put_into_a_page(tmp_path):
    rows = [
        {"method": "y", "part": "encoder", "state": s, "davies_bouldin": 1.0}
        for s in ("clean", "before", "after")
    ]
    found = written(
        tmp_path, "tsne", rows, points=3 * [[[0, 1]]], labels=3 * [[0]], classes=["ant"]
    )
    assert len(json.loads(found.figure.to_json())["data"]) == 3
