"""Networks as people have them, from `align` to an answer after the bundle was saved and loaded."""

import pytest
import torch
from torch import nn
from torch.nn.functional import linear, normalize
from torch.nn.utils import parametrizations

from acclimate.adapt import Adapter
from acclimate.backbones import split
from acclimate.bundle import Bundle
from acclimate.errors import InputError
from acclimate.parts.aftermath import PullToSource, Teacher
from acclimate.parts.answer import After, FromTeacher
from acclimate.parts.update import SAM, Adam
from acclimate.preprocessing import Preprocessing
from acclimate.source.aligned import align
from acclimate.source.loop import Run, Training
from acclimate.source.presets import SourceSettings

STEP = Training(epochs=1, batch=8, optimizer="sgd", learning_rate=0.01, warm_up=0)
SETTINGS = SourceSettings(contrastive=STEP, align=STEP, start="copy")
IMAGES = torch.randint(
    0, 256, (16, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)


class Network(nn.Module):
    def __init__(self, head=None):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 6, 3, 2), nn.BatchNorm2d(6)
        self.last = nn.Conv2d(6, 8, 3)
        self.head = head or nn.Linear(8, 4)

    def features(self, images):
        return self.last(self.bn(self.conv(images)).relu()).mean((2, 3))

    def forward(self, images):
        return self.head(self.features(images))


class Keywords(Network):
    def features(self, images):
        return self.last(input=self.bn(input=self.conv(images)).relu()).mean((2, 3))


class TupleInTraining(Network):
    def forward(self, images):
        logits = super().forward(images)
        return (logits, logits) if self.training else logits


class Overwriting(Network):
    def features(self, images):
        return super().features(images.mul_(2))


class Masked(Network):
    def __init__(self):
        super().__init__()
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))


class Cosine(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 8))

    def forward(self, features):
        return 8 * linear(normalize(features), normalize(self.weight))


class Averaged(Network):
    def __init__(self):
        super().__init__()
        self.other = nn.Linear(8, 4)

    def forward(self, images):
        features = self.features(images)
        return (self.head(features) + self.other(features)) / 2


class Convolutional(Network):
    def forward(self, images):
        return self.head(self.features(images)[:, :, None, None]).flatten(1)


class Maps(nn.Sequential):
    """SqueezeNet's end: a ReLU between convolution and pooling."""

    def __init__(self):
        end = nn.Conv2d(6, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        super().__init__(nn.Conv2d(3, 6, 3, 2), nn.BatchNorm2d(6), nn.ReLU(), *end)


KINDS = {
    "tuple in training mode": TupleInTraining,
    "batch norm called by keyword": Keywords,
    "overwrites its input": Overwriting,
    "mask with infinity": Masked,
    "half": lambda: Network().half(),
    "bfloat16": lambda: Network().bfloat16(),
    "float64": lambda: Network().double(),
    "cosine": lambda: Network(Cosine()),
    "two heads": Averaged,
    "1x1 convolution": lambda: Convolutional(nn.Conv2d(8, 4, 1)),
    "weight norm": lambda: Network(parametrizations.weight_norm(nn.Linear(8, 4))),
    "old weight norm": lambda: Network(nn.utils.weight_norm(nn.Linear(8, 4))),
    "spectral norm": lambda: Network(parametrizations.spectral_norm(nn.Linear(8, 4))),
    "frozen spectral norm in the body": lambda: with_spectral_norm(Network()),
}


def with_spectral_norm(network):
    parametrizations.spectral_norm(network.conv)
    return network


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_aligned_saved_loaded_and_adapted(tmp_path, kind):
    torch.manual_seed(0)
    network = KINDS[kind]().eval()
    bundle = align(network, IMAGES, settings=SETTINGS, run=Run(device="cpu", precision="fp32"))
    with torch.no_grad():
        like = next(network.parameters())
        expected = network(bundle.preprocessing(IMAGES).to(like.dtype)).float()
        rounding = {torch.float16: 1e-2, torch.bfloat16: 3e-2}.get(like.dtype, 1e-5)
        found = Adapter(bundle, "source", precision="fp32", device="cpu")(IMAGES)
        torch.testing.assert_close(found, expected, rtol=rounding, atol=rounding)
    bundle.save(tmp_path / "bundle")
    loaded = Bundle.load(tmp_path / "bundle", model=KINDS[kind]())
    for method in ("source", "ptbn", "tent", "cta"):
        one, other = (
            Adapter(b, method, precision="fp32", device="cpu")(IMAGES) for b in (bundle, loaded)
        )
        assert torch.equal(one, other) and one.isfinite().all()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["cosine", "two heads", "weight norm", "old weight norm"])
def test_the_twins_logits_have_the_classifiers_scale(kind):
    torch.manual_seed(0)
    bundle = align(
        KINDS[kind]().eval(), IMAGES, settings=SETTINGS, run=Run(device="cpu", precision="fp32")
    )
    assert bundle.twin is not None
    with torch.no_grad():
        images = bundle.preprocessing(IMAGES)
        own, target = (m.encoder(images) for m in (bundle.twin, bundle.classifier))
        torch.testing.assert_close(own.square().mean(), target.square().mean())


def test_a_head_on_maps_is_adapted_by_what_needs_no_vector():
    torch.manual_seed(0)
    network = Maps().eval()
    bundle = Bundle(split(network), None, Preprocessing(16), tuple("abcd"))
    for method in ("source", "ptbn", "tent"):
        assert Adapter(bundle, method, precision="fp32", device="cpu")(IMAGES).isfinite().all()
    with pytest.raises(InputError, match="choose a method that needs only logits"):
        align(network, IMAGES, settings=SETTINGS, run=Run(device="cpu"))


def test_default_type_and_device_do_not_matter(tmp_path):
    torch.manual_seed(0)
    network = Network().eval()
    make = {"precision": "fp32", "device": "cpu"}

    def answers(name):
        aligned = align(network, IMAGES, settings=SETTINGS, run=Run(device="cpu"))
        aligned.save(tmp_path / name)
        loaded = Bundle.load(tmp_path / name, model=network)
        return [Adapter(loaded, method, **make)(IMAGES) for method in ("tent", "cta")]

    expected = answers("usual")
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    try:
        found = answers("odd")
        assert torch.get_default_dtype() == torch.float64
        assert torch.get_default_device().type == "meta"
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    assert all(torch.equal(a, b) for a, b in zip(found, expected))


WEIGHTS = {
    "plain": lambda layer: layer,
    "weight norm": parametrizations.weight_norm,
    "spectral norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "old weight norm": nn.utils.weight_norm,
    "old spectral norm": nn.utils.spectral_norm,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("weights", WEIGHTS)
def test_steps_averages_and_resets_of_computed_weights(weights):
    torch.manual_seed(0)
    network = Network(WEIGHTS[weights](nn.Linear(8, 4)))
    network.conv = WEIGHTS[weights](network.conv)
    bundle = Bundle(split(network.eval()), None, Preprocessing(16), tuple("abcd"))
    common = {"precision": "fp32", "device": "cpu", "steps": 2, "update": Adam(0.01)}
    after = Adapter(bundle, "tent", answer=After(), **common)
    # An average that takes the whole model in each step is the model.
    teacher = Adapter(bundle, "tent", answer=FromTeacher(), aftermath=(Teacher(0.0),), **common)
    first, second = after(IMAGES), after(IMAGES)
    assert not torch.equal(first, second)
    torch.testing.assert_close(teacher(IMAGES), first)
    torch.testing.assert_close(teacher(IMAGES), second)
    # Pulled back the whole way, it is the source.
    pulled = Adapter(bundle, "tent", answer=After(), aftermath=(PullToSource(1.0),), **common)
    source = Adapter(bundle, "ptbn", precision="fp32", device="cpu")
    torch.testing.assert_close(pulled(IMAGES), source(IMAGES))
    after.reset()
    assert torch.equal(after(IMAGES), first)
    sharp = Adapter(bundle, "tent", **common | {"update": SAM(0.01)})
    assert sharp(IMAGES).isfinite().all() and sharp.steps[-1].taken
