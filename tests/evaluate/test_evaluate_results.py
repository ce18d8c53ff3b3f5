import csv
from dataclasses import replace

import pytest
from acclimate.report.results import write_results

from acclimate.errors import InputError
from acclimate.evaluate.cell import Cell

CELL = Cell(
    "cta", "my, set", "fog", 5, "shuffled", 3, 0.1 + 0.2, 1 / 3, 7, 20, 1.25, 5.6, 2,
    predictions=(1, 2), confidences=(0.5, 0.6), curve=(0.3,),
)  # fmt: skip


def test_the_file_reads_back_as_the_cells(tmp_path):
    cells = [CELL, replace(CELL, method="source", corruption="none", severity=0, accuracy=1.0)]
    write_results(cells, tmp_path / "results.csv")
    with (tmp_path / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert ",".join(rows[0]) == (
        "method,dataset,corruption,severity,order,seed,accuracy,ece,n_images,steps,seconds,"
        "images_per_second,refused_steps"
    )
    for row, cell in zip(rows, cells, strict=True):
        assert {name: type(getattr(cell, name))(text) for name, text in row.items()} == {
            name: getattr(cell, name) for name in row
        }


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"results\.csv"):
        write_results([CELL], tmp_path / "file" / "results.csv")
