import numpy as np
import pytest
import torch
from photographs import photograph
from safetensors.torch import save_file

from acclimate.backbones import build
from acclimate.bundle import Bundle
from acclimate.bundle_record import read_record
from acclimate.cli import main
from acclimate.commands.pixels import Pixels, pixels_of
from acclimate.errors import InputError
from acclimate.preprocessing import Preprocessing


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Photographs of different sizes, none of them a network's input size."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(4):
        photograph(40 + 9 * number, 60, seed=number).save(folder / f"{number}.png")
    return folder


def align(model, images, out, *options):
    given = ["--model", model, "--images", str(images), "--out", str(out), "--epochs", "0"]
    main(["align", *given, *options])
    return Bundle.load(out).preprocessing


def test_a_timm_networks_preprocessing_is_taken_and_printed(photos, tmp_path, capsys):
    found = align("timm:test_resnet", photos, tmp_path / "bundle")
    assert (found.size, found.resize, found.interpolation) == (160, 168, "bilinear")
    assert found.mean == (0.5, 0.5, 0.5)
    said = " ".join(capsys.readouterr().out.split())
    assert "preprocessing: resize 168 bilinear, crop 160, mean 0.5 0.5 0.5, std 0.5 0.5 0.5" in said
    assert "(from timm's pretrained_cfg)" in said


def test_every_part_can_be_overridden(photos, tmp_path, capsys):
    options = ["--size", "32", "--resize", "40", "--resample", "bicubic"]
    options += ["--mean", "0.1", "0.2", "0.3", "--std", "1", "1", "1"]
    found = align("timm:test_resnet", photos, tmp_path / "bundle", *options)
    expected = Preprocessing(32, (0.1, 0.2, 0.3), (1, 1, 1), resize=40, interpolation="bicubic")
    assert found == expected
    said = " ".join(capsys.readouterr().out.split())
    assert "--size and --resize and --resample and --mean and --std" in said


def test_small_images_of_ones_own_network(photos, tmp_path):
    found = align("timm:test_resnet", photos, tmp_path / "bundle", "--size", "32")
    assert (found.size, found.resize, found.mean) == (32, None, (0.5, 0.5, 0.5))


def weights(folder):
    path = folder / "w.safetensors"
    save_file(build("acclimate:resnet8-w4", classes=3).state_dict(), path)
    return "--weights", str(path)


def test_acclimates_networks_take_the_images_own_size(tmp_path, capsys):
    np.save(tmp_path / "images.npy", np.zeros((4, 24, 16, 3), np.uint8))
    given = (tmp_path / "images.npy", tmp_path / "bundle", *weights(tmp_path))
    assert align("acclimate:resnet8-w4", *given) == Preprocessing((24, 16))
    said = " ".join(capsys.readouterr().out.split())
    assert "crop 24 x 16" in said and "the images' size and ImageNet's mean and std" in said


def test_height_and_width(photos, tmp_path):
    options = [*weights(tmp_path), "--size", "24", "16", "--resize", "30", "20"]
    found = align("acclimate:resnet8-w4", photos, tmp_path / "bundle", *options)
    assert found == Preprocessing((24, 16), resize=(30, 20), mode="squash")


def test_bundles_that_take_other_pixels_are_not_compared(photos, tmp_path):
    options = weights(tmp_path)
    for name, size in (("a", "24"), ("b", "24"), ("c", "32")):
        more = ("--size", size)
        if name == "b":
            more += ("--mean", "0.5", "0.5", "0.5", "--std", "0.2", "0.2", "0.2")
        align("acclimate:resnet8-w4", photos, tmp_path / name, *options, *more)
    bundles = {name: tmp_path / name for name in "abc"}
    assert pixels_of({name: bundles[name] for name in "ab"}).size == 24
    with pytest.raises(InputError, match=r"a and c take other pixels .*crop 32.*--size"):
        pixels_of(bundles)
    assert read_record(tmp_path / "a")["schema"] == 3


def test_the_loader_is_given_what_is_said(photos):
    from rich.console import Console

    from acclimate.data import load_images

    seen = []

    def load(preprocessing):
        seen.append(preprocessing)
        return load_images(photos, size=preprocessing)

    flags = Pixels(mean=(0.5,), std=(0.25,))
    data, chosen = flags.load("timm:test_resnet", load, Console(quiet=True))
    assert seen == [chosen] and chosen.channels == 1
    assert data.images.shape == (4, 1, 160, 160) and data.images.dtype == torch.uint8


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ({"mean": (0.5,)}, "belong together; give --std beside --mean"),
        ({"std": (0.5, 0.5, 0.5)}, "belong together; give --mean beside --std"),
        ({"mean": (127.0,) * 3, "std": (128.0,) * 3}, "in units of 0..1; divide those of 0..255"),
        ({"resize": (100,)}, "--resize 100 does not fill the input of 160 pixels"),
        ({"size": (24,), "resize": (30, 20)}, "--resize 30 20 does not fill the input of 24"),
    ],
)
@pytest.mark.parametrize("with_images", [False, True])
def test_flags_that_belong_together(flags, reason, with_images):
    from rich.console import Console

    given = ("timm:test_resnet", Console(quiet=True))

    def load(preprocessing):
        raise AssertionError("nothing is loaded")

    with pytest.raises(InputError, match=reason):
        if with_images:
            Pixels(**flags).load(given[0], load, given[1])
        else:
            Pixels(**flags).stated(*given)


def test_how_to_resample_what_is_not_resized(tmp_path):
    from rich.console import Console

    from acclimate.backbones.stated import Stated

    class Unresized(Pixels):
        def _what_is_stated(self, model):
            return Stated(Preprocessing(32, mode="none"), "the folder")

    with pytest.raises(InputError, match=r"--resample has no effect.*\(the folder\); give --size"):
        Unresized(resample="bicubic").stated("timm:test_resnet", Console(quiet=True))
    found = Unresized(resample="bicubic", size=(16,)).stated("x", Console(quiet=True))
    assert found.interpolation == "bicubic"
