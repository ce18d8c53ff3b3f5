from importlib import resources

import pytest
import torch

from acclimate.data import fashion_mnist_mini
from acclimate.errors import InputError


@pytest.mark.parametrize(("split", "each"), [("train", 1000), ("test", 200)])
def test_split_is_balanced_and_in_the_public_format(split, each):
    images, labels, classes = fashion_mnist_mini.read(split)
    assert images.shape == (10 * each, 3, 28, 28)
    assert images.dtype == torch.uint8
    assert labels.dtype == torch.int64
    assert labels.bincount().tolist() == [each] * 10
    assert len(set(classes)) == 10
    assert (classes[0], classes[1], classes[9]) == ("t-shirt/top", "trouser", "ankle boot")


def test_images_are_grey_photographs_in_their_original_order():
    images, labels, _ = fashion_mnist_mini.read("train")
    assert torch.equal(images[:, 0], images[:, 2])
    # The original begins with an ankle boot, two t-shirts, a dress and another t-shirt.
    assert labels[:5].tolist() == [9, 0, 0, 3, 0]
    # Mean and standard deviation of all of Fashion-MNIST, as widely used to normalise it.
    fractions = images[:, 0].float() / 255
    assert fractions.mean().item() == pytest.approx(0.2860, abs=0.005)
    assert fractions.std().item() == pytest.approx(0.3530, abs=0.005)


def test_no_test_image_is_a_training_image():
    train, test = (
        fashion_mnist_mini.read(split)[0][:, 0].flatten(1) for split in ("train", "test")
    )
    both = torch.cat([train.unique(dim=0), test.unique(dim=0)])
    assert len(both.unique(dim=0)) == len(both)


def test_unknown_split():
    with pytest.raises(InputError, match=r"'tests'.*test"):
        fashion_mnist_mini.read("tests")


def test_shipped_file_is_small_and_credited():
    folder = resources.files(fashion_mnist_mini)
    with resources.as_file(folder / "fashion_mnist_mini.npz") as path:
        assert path.stat().st_size < 8e6
    assert "Zalando SE" in (folder / "NOTICE.md").read_text()
