import csv
import shutil
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from photographs import photograph, photographs
from PIL import Image

from acclimate.adapt import Adapter
from acclimate.adapt.folder import Answer, adapt_folder, write_predictions
from acclimate.backbones import preprocessing_of, split
from acclimate.bundle import Bundle
from acclimate.errors import InputError
from acclimate.methods import METHODS, AdapterSettings, changed
from acclimate.preprocessing import Preprocessing

MODES = ["RGB", "L", "RGBA", "P", "16-bit", "1", "CMYK", "LA"]


def picture(seed, size=(16, 16)):
    """A smooth RGB picture."""
    values = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return Image.fromarray(values).resize(size, Image.Resampling.BICUBIC)


def truncated(path, size=(40, 40)):
    picture(0, size).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images of all modes and sizes; ``10 …`` comes after ``9 …``; two are damaged."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "deep" / "er").mkdir(parents=True)
    for number, mode in enumerate(MODES):
        image = picture(number, (11 + 7 * number, 40 - 3 * number))
        if mode == "16-bit":
            image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
        else:
            image = image.convert(mode)
        image.save(folder / f"{number} {mode}.{'tif' if mode == 'CMYK' else 'png'}")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(8, (30, 20)).save(folder / "8 rotated.jpg", exif=exif)
    truncated(folder / "9 half.jpg")
    picture(10).save(folder / "10 exact.png")
    picture(11, (1, 1)).save(folder / "deep" / "er" / "pixel.png")
    (folder / "deep" / "fake.png").write_text("no image")
    (folder / "notes.txt").write_text("not looked at")
    return folder


PATHS = [
    *(f"{n} {m}.{'tif' if m == 'CMYK' else 'png'}" for n, m in enumerate(MODES)),
    "8 rotated.jpg",
    "9 half.jpg",
    "10 exact.png",
    "deep/er/pixel.png",
    "deep/fake.png",
]
BAD = {"9 half.jpg", "deep/fake.png"}


def test_every_mode_is_answered_in_natural_order(bundle, folder):
    answers = list(adapt_folder(bundle, folder, method="cta", batch=5))
    assert [answer.path for answer in answers] == PATHS
    assert {answer.path for answer in answers if answer.skipped} == BAD
    for answer in answers:
        if answer.path in BAD:
            assert answer.skipped.startswith("it ")
            assert (answer.prediction, answer.confidence) == ("", None)
            assert (answer.frozen_prediction, answer.frozen_confidence) == ("", None)
        else:
            assert answer.prediction in bundle.classes
            assert answer.frozen_prediction in bundle.classes
            assert 0.25 <= answer.confidence <= 1
            assert 0.25 <= answer.frozen_confidence <= 1


def test_answers_are_those_of_the_adapters(bundle, tmp_path):
    """Images of the network's size need no resizing: the pixels are known."""
    pictures = [picture(seed) for seed in range(20)]
    for number, image in enumerate(pictures):
        image.save(tmp_path / f"{number}.png")
    truncated(tmp_path / "7b.jpg")  # in the first batch, which has one image less
    settings = changed(METHODS["cta"].settings, {"reset": "never", "update.learning_rate": 1e-2})
    answers = list(adapt_folder(bundle, tmp_path, method="cta", settings=settings, batch=12))
    pixels = torch.from_numpy(np.stack([np.asarray(p) for p in pictures])).permute(0, 3, 1, 2)
    adapter, frozen = Adapter(bundle, "cta", settings), Adapter(bundle, "source")
    parts = (pixels[:11], pixels[11:])
    good = [answer for answer in answers if not answer.skipped]
    for model, prefix in ((adapter, ""), (frozen, "frozen_")):
        likely, classes = torch.cat([model(part) for part in parts]).softmax(1).max(1)
        found = [getattr(answer, f"{prefix}confidence") for answer in good]
        torch.testing.assert_close(torch.tensor(found), likely)
        names = [getattr(answer, f"{prefix}prediction") for answer in good]
        assert names == [bundle.classes[number] for number in classes]
    assert [a.confidence for a in good] != [a.frozen_confidence for a in good]


def test_a_rotated_photograph_is_seen_upright(bundle, folder, tmp_path):
    with Image.open(folder / "8 rotated.jpg") as image:
        image.transpose(Image.Transpose.ROTATE_270).save(tmp_path / "upright.png")
        image.save(tmp_path / "as stored.png")
    shutil.copy(folder / "8 rotated.jpg", tmp_path)
    stored, upright, rotated = (
        next(a for a in adapt_folder(bundle, tmp_path, method="source") if name in a.path)
        for name in ("stored", "upright", "rotated")
    )
    assert rotated.confidence == pytest.approx(upright.confidence, abs=1e-5)
    assert rotated.confidence != pytest.approx(stored.confidence, abs=1e-5)


def test_a_zip_gives_what_its_folder_gives(bundle, folder, tmp_path):
    archive = shutil.make_archive(str(tmp_path / "images"), "zip", folder)
    zipped = list(adapt_folder(bundle, tmp_path / "images.zip", batch=5))
    assert archive.endswith("images.zip")
    assert [replace(a, skipped="") for a in zipped] == [
        replace(a, skipped="") for a in adapt_folder(bundle, folder, batch=5)
    ]


def test_batches_of_bad_images_only_are_passed_over(bundle, folder):
    one_by_one = list(adapt_folder(bundle, folder, method="aligned", batch=1))
    together = list(adapt_folder(bundle, folder, method="aligned"))
    assert [a.path for a in one_by_one] == PATHS
    for alone, beside in zip(one_by_one, together):
        assert (alone.prediction, bool(alone.skipped)) == (beside.prediction, bool(beside.skipped))


def test_progress_ends_at_all_images(bundle, folder):
    told = []
    list(adapt_folder(bundle, folder, method="source", batch=5, progress=lambda *a: told.append(a)))
    assert [(done, total) for _, done, total, _ in told] == [(5, 13), (10, 13), (13, 13)]


def test_predictions_as_csv(bundle, folder, tmp_path):
    answers = list(adapt_folder(bundle, folder, method="cta"))
    answers.append(Answer('a "quoted", name.png', skipped="x,\ny"))
    write_predictions(answers, tmp_path / "new" / "predictions.csv")
    with (tmp_path / "new" / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        "path",
        "prediction",
        "confidence",
        "frozen_prediction",
        "frozen_confidence",
        "skipped",
    ]
    assert [row["path"] for row in rows] == [*PATHS, 'a "quoted", name.png']
    for row, answer in zip(rows, answers, strict=True):
        assert row["prediction"] == answer.prediction
        assert row["skipped"] == answer.skipped
        if not answer.skipped:
            assert float(row["confidence"]) == pytest.approx(answer.confidence, abs=5e-5)


def test_folders_without_a_usable_image_are_refused(bundle, tmp_path):
    with pytest.raises(InputError, match="no folder or zip"):
        list(adapt_folder(bundle, tmp_path / "nowhere"))
    with pytest.raises(InputError, match="no image in"):
        list(adapt_folder(bundle, tmp_path))
    truncated(tmp_path / "a.jpg")
    truncated(tmp_path / "b.jpg")
    with pytest.raises(InputError, match="none of the 2 images"):
        list(adapt_folder(bundle, tmp_path))


def test_bad_batches_and_settings_are_refused(bundle, folder):
    with pytest.raises(InputError, match="batch"):
        list(adapt_folder(bundle, folder, batch=0))
    with pytest.raises(InputError, match="steps"):
        list(adapt_folder(bundle, folder, method="source", settings=AdapterSettings(steps=1)))


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_the_frozen_columns_are_of_the_same_precision(bundle, folder, precision):
    """With the method source both models are one, to the last bit."""
    settings = changed(METHODS["source"].settings, {"precision": precision})
    answers = list(
        adapt_folder(bundle, folder, method="source", settings=settings, batch=4, device="cpu")
    )
    given = [answer for answer in answers if not answer.skipped]
    assert given
    for answer in given:
        assert answer.confidence == answer.frozen_confidence
        assert answer.prediction == answer.frozen_prediction


def test_source_equals_timms_own_pipeline(tmp_path):
    """The pixels of a folder reach the network as through timm's own transform."""
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=5).eval()
    for number, image in enumerate(photographs()):
        image.save(tmp_path / f"{number}.png")
    preprocessing = preprocessing_of(network).preprocessing
    bundle = Bundle(split(network), None, preprocessing, tuple("abcde"), method="source")
    settings = changed(METHODS["source"].settings, {"precision": "fp32"})
    answers = list(adapt_folder(bundle, tmp_path, settings=settings, device="cpu"))
    config = timm.data.resolve_data_config(model=network)
    transform = timm.data.create_transform(**config, is_training=False)
    with torch.inference_mode():
        own = network(torch.stack([transform(image) for image in photographs()])).softmax(1)
    assert [answer.prediction for answer in answers] == ["abcde"[i] for i in own.argmax(1)]
    for answer, probabilities in zip(answers, own):
        assert answer.confidence == pytest.approx(float(probabilities.max()), abs=1e-5)


def test_a_grey_network_gets_grey_pixels(tmp_path):
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", in_chans=1, num_classes=3).eval()
    photograph(40, 50).save(tmp_path / "a.png")
    preprocessing = Preprocessing((32, 24), (0.5,), (0.2,))
    bundle = Bundle(split(network), None, preprocessing, tuple("abc"), method="source")
    settings = changed(METHODS["source"].settings, {"precision": "fp32"})
    (answer,) = adapt_folder(bundle, tmp_path, settings=settings, device="cpu")
    image = preprocessing.crop(photograph(40, 50).convert("L"))
    pixels = torch.from_numpy(np.array(image))[None, None]
    with torch.inference_mode():
        own = network((pixels / 255 - 0.5) / 0.2).softmax(1)
    assert answer.confidence == pytest.approx(float(own.max()), abs=1e-5)
