import json
from dataclasses import replace

import pytest

from acclimate.errors import InputError
from acclimate.evaluate.results import write_results
from acclimate.evaluate.store import Measured, Store
from acclimate.evaluate.variant import Variant
from acclimate.methods.changes import changed, settings_record
from acclimate.report.comparison import compare
from acclimate.report.measured import by_protocol, read_grid, reported, row_names


@pytest.fixture
def grid(measured, share, tmp_path):
    """A folder as a grid leaves it, of the cells that are given."""

    def write(*cells, **changes):
        with Store(tmp_path / "cells.sqlite") as store:
            for each in cells:
                store.add(each.task, [each.cell], "commit")
        manifest = {
            "grids": [],
            "bundles": {"b": {"weights_sha256": "w"}},
            "methods": {
                name: settings_record(Variant.parse(name).settings) for name in ("source", "tent")
            },
            "commits": ["commit"],
            "machine": {},
        } | changes
        (tmp_path / "manifest.json").write_text(json.dumps(manifest))
        return tmp_path

    return write


def test_what_was_stored_is_read_with_its_task(grid, measured, share):
    cells = [measured("tent", "fog", share(7), batch=16, curve=(0.1, 0.35))]
    cells.append(measured("source", "none", share(9)))
    found, manifest = read_grid(grid(*cells))
    assert [(m.task, m.cell) for m in found] == [(m.task, m.cell) for m in reversed(cells)]
    assert found[1].cell.answers.right.tolist() == share(7)
    assert manifest["commits"] == ["commit"]


def test_settings_that_a_later_run_replaced_are_left_out(grid, measured, share):
    kept = measured("tent", "fog", share(7))
    other = measured("tent", "fog", share(2))
    settings = changed(other.task.settings, {"update.learning_rate": 0.5})
    other = Measured(replace(other.task, settings=settings), other.cell)
    found, _ = read_grid(grid(kept, other))
    assert [each.task for each in found] == [kept.task]


def test_two_bundles_of_one_name_are_refused(grid, measured, share):
    cells = [measured("tent", "fog", share(7), checksum=checksum) for checksum in ("one", "two")]
    with pytest.raises(InputError, match="results of two bundles called b"):
        read_grid(grid(*cells))


@pytest.fixture
def published(grid, measured, share, tmp_path):
    """A folder as results are published: the file and the manifest, and the cells in it."""
    cells = [
        measured("source", "none", share(9)),
        measured("source", "fog", share(5)),
        measured("tent", "fog", share(7), curve=(0.1, 0.35)),
        measured("tent", "gaussian_noise", share(7), severity=5.0, order="growing-noise"),
        measured("tent", "fog", share(3, of=10), cost=float("nan")),
    ]
    grid()
    (tmp_path / "cells.sqlite").unlink()
    write_results([each.cell for each in cells], tmp_path / "results.csv")
    return tmp_path, cells


def test_published_results_read_back_without_curves_and_answers(published):
    folder, cells = published
    found, manifest = read_grid(folder)
    cells = sorted(cells, key=lambda m: (str(m.row[1]), m.cell.order, m.cell.n_images))
    found.sort(key=lambda m: (str(m.row[1]), m.cell.order, m.cell.n_images))
    assert [repr(m.cell) for m in found] == [repr(replace(m.cell, curve=())) for m in cells]
    assert all(each.cell.answers is None for each in found)
    assert [m.task.shifts for m in found] == [m.task.shifts for m in cells]
    assert [m.task.settings for m in found] == [m.task.settings for m in cells]
    assert manifest["commits"] == ["commit"]


def test_published_results_of_two_of_a_kind_or_without_settings_are_refused(published):
    folder, cells = published
    write_results([each.cell for each in (*cells, cells[-1])], folder / "results.csv")
    with pytest.raises(InputError, match=r"two lines of one method.*no cells.sqlite"):
        read_grid(folder)
    write_results([replace(cells[0].cell, variant=Variant("y"))], folder / "results.csv")
    with pytest.raises(InputError, match=r"manifest.json has no settings of y"):
        read_grid(folder)
    write_results([replace(cells[0].cell, variant=Variant("mine"))], folder / "results.csv")
    with pytest.raises(InputError, match="unknown method 'mine'"):
        read_grid(folder)


def test_parts_and_rounds_of_the_images_are_still_theirs(grid, measured, share):
    """Of a gradual stream a severity has a part of the images; a recurring one comes round."""
    sizes = {("gradual", 1): 12, ("gradual", 2): 11, ("recurring", 5): 60, ("shuffled", 5): 20}
    cells = [
        measured("tent", "fog", share(6, of=n), order=order, severity=severity)
        for (order, severity), n in sizes.items()
    ]
    folder = grid(grids=[{"orders": ["gradual", "shuffled", "recurring"], "images": 20}])
    (folder / "cells.sqlite").unlink()
    write_results([each.cell for each in cells], folder / "results.csv")
    found, _ = read_grid(folder)
    assert {each.task.images for each in found} == {"20"}
    (table,) = (compare(some) for p, some in by_protocol(found).items() if p.order == "gradual")
    assert table.rows[0].scores[0].mean == pytest.approx((6 / 12 + 6 / 11) / 2)


@pytest.mark.parametrize(
    "changes",
    [{"methods": []}, {"methods": {"tent": []}}, {"bundles": 1}, {"grids": {}}, {"machine": None}],
    ids=str,
)
def test_a_manifest_of_another_form_is_damaged(grid, measured, share, changes):
    with pytest.raises(InputError, match=r"manifest.json is damaged"):
        read_grid(grid(measured("tent", "fog", share(7)), **changes))


def test_a_manifest_of_an_older_version_is_refused(grid, measured, share):
    flat = {"methods": {"tent": {"steps": 1, "learning_rate": 1e-3}}}
    with pytest.raises(InputError, match="older acclimate; run the grid into a new folder"):
        read_grid(grid(measured("tent", "fog", share(7)), **flat))


def test_a_folder_without_a_grid_is_refused(grid, measured, share, tmp_path):
    with pytest.raises(InputError, match=r"no cells.sqlite; make one with acclimate bench"):
        read_grid(tmp_path)
    with pytest.raises(InputError, match="no results yet"):
        read_grid(grid())
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(InputError, match=r"manifest.json is damaged"):
        read_grid(tmp_path)
    grid(measured("tent", "fog", share(7)))
    (tmp_path / "cells.sqlite").write_bytes(b"no base of data" * 100)
    with pytest.raises(InputError, match=r"cells.sqlite is damaged"):
        read_grid(tmp_path)


def test_only_cells_of_one_protocol_stand_together(measured, share):
    cells = [
        measured("tent", "fog", share(1)),
        measured("tent", "contrast", share(1)),
        measured("tent", "fog", share(2), batch=16),
        measured("tent", "fog", share(3), order="continual"),
        measured("tent", "fog", share(4), severity=3),
        measured("tent", "none", share(5)),
    ]
    found = by_protocol(cells)
    counts = {str(protocol): len(some) for protocol, some in found.items()}
    assert counts == {
        "tiny, severity 5, shuffled, batches of 128": 3,
        "tiny, severity 3, shuffled, batches of 128": 2,
        "tiny, severity 5, shuffled, batches of 16": 1,
        "tiny, severity 5, continual, batches of 128": 1,
    }
    first, *_ = found
    assert (first.order, first.severity, first.batch) == ("shuffled", 5, 128)


def test_clean_images_stand_where_their_row_does(measured, share):
    cells = [
        measured("tent", "fog", share(1)),
        measured("tent", "none", share(2)),
        measured("source", "none", share(3)),
        measured("source", "fog", share(4), severity=3),
        measured("ptbn", "none", share(5)),  # nowhere else
    ]
    found = {p.severity: [m.cell.accuracy for m in some] for p, some in by_protocol(cells).items()}
    assert found == {5: [0.25, 0.1, 0.05], 3: [0.15, 0.2, 0.25]}


def test_clean_images_alone_are_a_protocol(measured, share):
    ((protocol, cells),) = by_protocol([measured("tent", "none", share(5))]).items()
    assert protocol.severity == 0 and len(cells) == 1


def test_a_row_is_called_by_its_bundle_only_where_that_matters(measured, share):
    cells = [measured("source", "fog", share(1), bundle=name) for name in ("a", "b")]
    names = row_names([*cells, measured("tent", "fog", share(1), bundle="b")])
    assert list(names.values()) == ["source · a", "source · b", "tent"]


def test_clean_and_held_out_do_not_count(measured, share):
    cells = [measured("tent", name, share(1)) for name in ("none", "fog", "saturate")]
    assert [m.cell.corruption for m in reported(cells, ["saturate"])] == ["fog"]
