import pytest
from PIL import Image

from acclimate.report.comparison import compare
from acclimate.report.picture import result_picture

METHODS = ["source", "cta", "tent"]


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_the_picture_is_saved_on_white(tmp_path, kind, measured, share):
    path = tmp_path / f"result.{kind}"
    cells = [measured(m, c, share(9)) for m in METHODS for c in ("none", "fog")]
    result_picture(path, compare(cells), title="Fashion")
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    if kind == "png":
        with Image.open(path) as picture:
            assert picture.convert("RGB").getpixel((2, picture.height - 3)) == (255, 255, 255)
    else:
        assert path.read_text().startswith("<?xml")
