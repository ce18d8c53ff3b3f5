"""A wrapped classifier answers bit for bit as before, and its bundle is for simple methods."""

import copy

import pytest
import torch
from checkpoints import SMALL, network, saved
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import acclimate
from acclimate.bundle import Bundle, read_record
from acclimate.cli import main
from acclimate.data.class_names import imagenet_names
from acclimate.errors import InputError
from acclimate.preprocessing import Preprocessing

IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
METHODS = ("source", "ptbn", "tent", "tipi")


def test_no_weight_and_no_statistic_changes():
    net = network().train()
    before = copy.deepcopy(net.state_dict())
    bundle = acclimate.wrap(net, preprocessing=Preprocessing(16))
    assert net.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    for name, tensor in bundle.classifier.state_dict().items():
        assert torch.equal(tensor, before[name])
        assert tensor.data_ptr() != net.state_dict()[name].data_ptr()
    with torch.no_grad():
        assert torch.equal(bundle.classifier(IMAGES), net.eval()(IMAGES))
    assert bundle.twin is None
    assert bundle.classes == ("0", "1", "2", "3", "4")


def test_a_checkpoint_is_wrapped_saved_and_adapted(tmp_path, images):
    net = network()
    path = saved({"state_dict": {f"model.{n}": t for n, t in net.state_dict().items()}}, tmp_path)
    bundle = acclimate.wrap(SMALL, weights=path, preprocessing=Preprocessing(16))
    bundle.save(tmp_path / "bundle")
    loaded = Bundle.load(tmp_path / "bundle")
    with torch.no_grad():
        assert torch.equal(loaded.classifier(IMAGES), net(IMAGES))
    for method in METHODS:
        logits = acclimate.Adapter(loaded, method, device="cpu")(images[:8])
        assert logits.shape == (8, 5)
        assert logits.isfinite().all()
    with pytest.raises(InputError):
        acclimate.Adapter(loaded, "cta")


def test_the_method_follows_from_batch_norm():
    assert acclimate.wrap(network(), preprocessing=Preprocessing(16)).method == "bn-adapt"
    norm_free = acclimate.build("acclimate:resnet8-w8-gn", classes=3)
    assert acclimate.wrap(norm_free, preprocessing=Preprocessing(16)).method == "tent"


@pytest.mark.parametrize("model", ["torchvision:resnet18", SMALL, "timm:resnet18"])
def test_random_weights_are_not_wrapped(model):
    with pytest.raises(InputError, match=f"{model} has random weights; give the file"):
        acclimate.wrap(model, preprocessing=Preprocessing(16))


@pytest.mark.parametrize(("outputs", "known"), [(1000, True), (7, False)])
@pytest.mark.parametrize("kind", ["timm", "torchvision"])
def test_imagenet_classifiers_have_its_class_names(kind, outputs, known, tmp_path, caplog):
    caplog.set_level("INFO", "acclimate")
    model = "timm:test_resnet" if kind == "timm" else "torchvision:shufflenet_v2_x0_5"
    path = saved(acclimate.build(model, classes=outputs).state_dict(), tmp_path)
    bundle = acclimate.wrap(model, weights=path, preprocessing=Preprocessing(64))
    names = imagenet_names() if known else tuple(map(str, range(outputs)))
    assert bundle.classes == names
    assert ("class names: ImageNet's" in caplog.text) == known


def test_layers_with_a_version_load_again(tmp_path):
    """torchvision's MNASNet refuses a state dict without its version, which no file keeps."""
    name = "torchvision:mnasnet0_5"
    net = acclimate.build(name, classes=3).eval()
    save_file(net.state_dict(), tmp_path / "w.safetensors")
    weights = tmp_path / "w.safetensors"
    bundle = acclimate.wrap(name, weights=weights, preprocessing=Preprocessing(32))
    bundle.save(tmp_path / "bundle")
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(Bundle.load(tmp_path / "bundle").classifier(images), net(images))


def test_weights_of_a_network_are_loaded_before(tmp_path):
    path = saved(network().state_dict(), tmp_path)
    with pytest.raises(InputError, match=r"load them into a network with .*load_weights"):
        acclimate.wrap(network(2), weights=path, preprocessing=Preprocessing(16))


def test_given_names():
    five = ["a", "b", "c", "d", "e"]
    kwargs = {"preprocessing": Preprocessing(16)}
    assert acclimate.wrap(network(), classes=five, **kwargs).classes == tuple(five)
    with pytest.raises(InputError, match="4 class names were given for a head with 5 outputs"):
        acclimate.wrap(network(), classes=five[:4], **kwargs)
    with pytest.raises(InputError, match="'a' names the outputs 0 and 4"):
        acclimate.wrap(network(), classes=[*five[:4], "a"], **kwargs)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(value, tmp_path):
    net, images = network(), torch.zeros(20, 3, 16, 16, dtype=torch.uint8)
    name = [name for name, _ in net.named_parameters()][-3]
    net.get_parameter(name).data.view(-1)[0] = value
    with pytest.raises(InputError, match=rf"the model's weights hold NaN or infinity in {name};"):
        acclimate.wrap(net, preprocessing=Preprocessing(16))
    with pytest.raises(InputError, match=rf"the model's weights hold NaN or infinity in {name};"):
        acclimate.align(net, images)
    with pytest.raises(InputError, match=r"the twin's weights hold NaN or infinity"):
        acclimate.align(network(), images, twin=net)
    bundle = acclimate.wrap(network(), preprocessing=Preprocessing(16))
    bundle.classifier.encoder.register_buffer("own", torch.full((), torch.nan))
    with pytest.raises(InputError, match=r"weights hold NaN or infinity in encoder.own"):
        bundle.save(tmp_path / "bundle")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_checkpoints_that_are_no_numbers_are_refused(value, tmp_path):
    state = network().state_dict()
    name = next(iter(state))
    state[name].view(-1)[0] = value
    with pytest.raises(InputError, match=rf"NaN.*{name}|{name}.*NaN"):
        acclimate.wrap(SMALL, weights=saved(state, tmp_path), preprocessing=Preprocessing(16))


def test_a_named_head():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
            self.head = nn.Linear(4, 3)

        def forward(self, images):
            return self.head(self.body(images))

    bundle = acclimate.wrap(Two(), preprocessing=Preprocessing(16), head="head")
    assert bundle.architecture == "custom"
    assert bundle.classifier.num_classes == 3


def test_the_command(tmp_path, capsys):
    path = saved({"ema": network().state_dict(), "model": network(2).state_dict()}, tmp_path)
    (tmp_path / "names.txt").write_bytes("\ufeffäpfel\r\nb\r\n\r\nc \r\nd\r\ne\r\n".encode())
    command = ["wrap", "--model", SMALL, "--size", "16"]
    command += ["--class-names", str(tmp_path / "names.txt")]
    out = tmp_path / "bundle"
    main([*command, "--weights", str(path), "--out", str(out)])
    said = capsys.readouterr()
    assert f"weights: {path}, prefix 'ema.' removed (the average over training)" in said.err
    assert "is ready for bn-adapt" in said.out
    record = read_record(out)
    assert record["classes"] == ["äpfel", "b", "c", "d", "e"]
    assert (record["method"], record["twin_architecture"]) == ("bn-adapt", None)
    main([*command, "--weights", f"{path}:model", "--out", str(tmp_path / "other")])
    for folder, seed in ((out, 1), (tmp_path / "other", 2)):
        with torch.no_grad():
            logits = Bundle.load(folder).classifier(IMAGES)
            assert torch.equal(logits, network(seed)(IMAGES))
    (tmp_path / "images").mkdir()
    for number in range(3):
        Image.new("RGB", (20, 16), (number, 99, 0)).save(tmp_path / "images" / f"{number}.png")
    main(["adapt", str(out), str(tmp_path / "images"), "--out", str(tmp_path / "x.csv")])
    rows = (tmp_path / "x.csv").read_text(encoding="utf-8").splitlines()[1:]
    assert {row.split(",")[1] for row in rows} <= {*record["classes"]}


def test_what_was_measured_is_said(tmp_path, caplog):
    caplog.set_level("INFO", "acclimate")
    generator = torch.Generator().manual_seed(0)
    photographs = torch.randint(0, 256, (20, 3, 16, 16), generator=generator, dtype=torch.uint8)
    bundle = acclimate.wrap(network(), photographs, preprocessing=Preprocessing(16))
    figures, trust = bundle.provenance["agreement"], bundle.trust["classifier"]
    assert (
        f"agreement with the frozen classifier on these images, with batch statistics: clean "
        f"frozen {figures['frozen, clean']:.3f}, classifier {figures['classifier, clean']:.3f}; "
        f"corrupted frozen {figures['frozen, shifted']:.3f}, "
        f"classifier {figures['classifier, shifted']:.3f}; a batch's statistics count at most "
        f"{trust.limit:.0%} in the classifier, with a prior of {trust.prior:g} images"
    ) in caplog.text
    caplog.clear()
    acclimate.wrap(network(), photographs[:9], preprocessing=Preprocessing(16))
    assert "nothing was measured, for there are fewer than 16 images" in caplog.text


@pytest.mark.parametrize(
    "preprocessing", [Preprocessing(16, (0.5,), (0.2,)), Preprocessing(16, (0.5,) * 4, (0.2,) * 4)]
)
def test_a_preprocessing_whose_images_the_network_does_not_take_is_refused(preprocessing):
    count = preprocessing.channels
    with pytest.raises(InputError, match=f"of 16 pixels and {count} channels"):
        acclimate.wrap(network(), preprocessing=preprocessing)
