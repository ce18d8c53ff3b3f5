"""What the tests of published sets share: pictures, and a check of how bad data is refused."""

import re

import numpy as np
import pytest
from PIL import Image

from acclimate.data import load
from acclimate.errors import InputError


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder for data; decoded images are cached beside it."""
    monkeypatch.setenv("ACCLIMATE_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "sets"
    folder.mkdir()
    return folder


@pytest.fixture
def draw(place):
    """Write a picture of one colour below the folder; PNG bytes under any name, so no loss."""

    def write(path, colour, size=(4, 4)):
        file = place / path
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.full((*size, 3), colour, np.uint8)
        Image.fromarray(pixels).save(file, format="PNG")

    return write


@pytest.fixture
def refused(tmp_path):
    """Check that data is refused in one sentence, and that nothing was written."""

    def files():
        return sorted(path for path in tmp_path.rglob("*") if path.is_file())

    def check(expected, *arguments, call=load, **options):
        before = files()
        with pytest.raises(InputError) as caught:
            call(*arguments, **options)
        message = str(caught.value)
        assert re.search(expected, message), message
        assert "\n" not in message
        assert message[-1] in ".?"
        assert not re.search(r"[.?!] +[A-Z]", message), f"more than one sentence: {message}"
        assert files() == before
        return message

    return check
