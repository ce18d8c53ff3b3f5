import numpy as np
import pytest
import torch
from PIL import Image

from acclimate.data import corrupt
from acclimate.errors import InputError
from acclimate.report import preview


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (5, 3, 24, 30), dtype=torch.uint8, generator=generator)


def test_the_picture_holds_the_corrupted_images(images, tmp_path, monkeypatch):
    sheets = []
    draw = preview._draw
    monkeypatch.setattr(
        preview, "_draw", lambda rows, *names: sheets.append(rows) or draw(rows, *names)
    )
    path = tmp_path / "new" / "picture.png"
    preview.write_preview(images, path, ["fog", "contrast"], [1, 5], seed=2)
    width, height = Image.open(path).size
    assert width > height > 100
    (rows,) = sheets
    pair = images[[0, 4]]
    assert [len(row) for row in rows] == [3, 3]
    assert torch.equal(rows[0][0], pair)
    assert torch.equal(rows[0][2], corrupt(images, "fog", 5, seed=2)[[0, 4]])
    assert torch.equal(rows[1][1], corrupt(images, "contrast", 1, seed=2)[[0, 4]])


def test_large_images_are_shrunk_before_they_are_gathered(tmp_path, monkeypatch):
    sheets = []
    draw = preview._draw

    def spy(rows, *names):
        sheets.append(rows)
        return draw(rows, *names)

    monkeypatch.setattr(preview, "_draw", spy)
    images = torch.full((1, 3, 400, 800), 100, dtype=torch.uint8)
    preview.write_preview(images, tmp_path / "p.png", ["contrast"], [1])
    assert [tuple(cell.shape) for row in sheets[0] for cell in row] == [(1, 3, 180, 360)] * 2
    assert (sheets[0][0][0] == 100).all()


def test_the_clean_images_are_drawn_where_the_picture_says(images, tmp_path):
    white = torch.full((1, 3, 80, 80), 255, dtype=torch.uint8)
    black = torch.zeros((1, 3, 80, 80), dtype=torch.uint8)
    path = tmp_path / "p.png"
    preview.write_preview(torch.cat([black, white]), path, ["contrast"], [5])
    pixels = np.asarray(Image.open(path).convert("L"))
    dark = (pixels < 10).all(0) | ((pixels < 10).mean(0) > 0.6)
    columns = np.flatnonzero(dark)
    assert len(columns) >= 2 * 80  # clean and severity 5, at 0.75 inches of 120 dots each
    assert columns[0] > 100  # the names of the rows stand before


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".pdf", ".svg"])
def test_every_kind_of_picture_can_be_written(images, tmp_path, suffix):
    path = tmp_path / f"p{suffix}"
    preview.write_preview(images[:1], path, ["fog"], [1])
    assert path.stat().st_size > 1000


def test_another_kind_of_file_is_refused(images, tmp_path):
    with pytest.raises(InputError, match=r"its name must end in .png, .jpg"):
        preview.write_preview(images, tmp_path / "p.txt", ["fog"], [1])
    assert not list(tmp_path.iterdir())
