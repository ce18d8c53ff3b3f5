from dataclasses import replace

import pytest
import torch

from acclimate.adapt import Adapter
from acclimate.bundle import Bundle
from acclimate.cli import main
from acclimate.errors import InputError
from acclimate.source.loop import Run
from acclimate.source.statistics import measure


@pytest.fixture
def plain(bundle, tmp_path):
    """A bundle as older versions made it: nothing is known of its source."""
    path = tmp_path / "plain"
    replace(bundle, statistics={}).save(path)
    return path


def test_what_is_measured_is_what_python_measures(plain, data, tmp_path, images, capsys):
    out = tmp_path / "measured"
    main(["measure", str(plain), str(data / "train"), "--out", str(out), "--device", "cpu"])
    assert f"{out} is the bundle with fisher" in capsys.readouterr().out.replace("\n", "")
    found, before = Bundle.load(out), Bundle.load(plain)
    from acclimate.data import load_images

    given = load_images(data / "train", size=before.preprocessing).images
    expected = measure(before, given).statistics
    assert found.statistics.keys() == expected.keys() and expected
    for name, tensor in expected.items():
        assert torch.equal(found.statistics[name], tensor), name
    for name, tensor in before.modules.state_dict().items():
        assert torch.equal(found.modules.state_dict()[name], tensor), name


def test_a_method_that_lacks_them_says_how_they_come(plain, data, tmp_path, capsys):
    out = ["--out", str(tmp_path / "answers.csv")]
    with pytest.raises(SystemExit) as stopped:
        main(["adapt", str(plain), str(data / "train"), "--method", "eata", *out])
    assert stopped.value.code == 2
    assert "acclimate measure BUNDLE IMAGES" in " ".join(capsys.readouterr().err.split())


def test_what_cannot_be_measured_anew_stays(bundle, images):
    """Of a single image there are no Fisher weights, but class means."""
    run = Run(device="cpu")
    whole = measure(bundle, images[:16], run)
    again = measure(whole, images[:1], run)
    fisher = [name for name in whole.statistics if ".fisher." in name]
    assert fisher and whole.statistics.keys() == again.statistics.keys()
    for name in fisher:
        assert torch.equal(again.statistics[name], whole.statistics[name])
    changed = [
        n for n in again.statistics if not torch.equal(again.statistics[n], whole.statistics[n])
    ]
    assert changed and all(".prototypes." in name for name in changed)


def test_a_part_of_transformers_refuses_other_networks(bundle, images):
    measured = measure(bundle, images[:8], Run(device="cpu"))
    with pytest.raises(InputError, match="a vision transformer's blocks give on, and this network"):
        Adapter(measured, "tent", correction="shifted", device="cpu")


def test_nothing_is_overwritten(plain, data, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["measure", str(plain), str(data / "train"), "--out", str(plain)])
    assert stopped.value.code == 2
    assert "exists already" in capsys.readouterr().err
