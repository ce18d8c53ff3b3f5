import pytest
import torch
from torch import nn

from acclimate.backbones import Classifier, build, split
from acclimate.backbones.rebuilt import set_switches, some_logits, switches_of
from acclimate.bundle import Bundle
from acclimate.errors import InputError
from acclimate.preprocessing import Preprocessing


class Scaled(nn.Module):
    """A network whose constructor's argument no state_dict holds."""

    def __init__(self, scale):
        super().__init__()
        self.scale = scale
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.fc = nn.Linear(4, 3)

    def forward(self, images):
        return self.fc(self.body(self.scale * images))


def bundle_of(network, classes=3, **fields):
    return Bundle(
        split(network.eval()), None, Preprocessing(32), tuple(map(str, range(classes))), **fields
    )


def test_a_network_built_with_other_arguments_is_refused(tmp_path):
    torch.manual_seed(0)
    bundle_of(Scaled(1.0)).save(tmp_path / "bundle")
    Bundle.load(tmp_path / "bundle", model=Scaled(1.0))
    with pytest.raises(InputError, match="the weights fit, but the rebuilt classifier computes"):
        Bundle.load(tmp_path / "bundle", model=Scaled(2.0))


def test_answers_that_vary_or_are_missing_are_not_compared():
    class Noise(nn.Module):
        def forward(self, features):
            return torch.randn(len(features), 3)

    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    noisy, fixed = Classifier(pooled, Noise()), Classifier(nn.Flatten(), nn.Linear(5, 3))
    assert some_logits({"noisy": noisy, "fixed": fixed}, (3, 8, 8)) == {}


def test_probing_changes_no_statistics():
    classifier = build("acclimate:resnet8-w4", classes=3)
    before = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    found = some_logits({"classifier": classifier.train()}, (3, 16, 16))
    assert len(found["classifier"]) == 2 and classifier.training
    assert all(torch.equal(before[name], t) for name, t in classifier.state_dict().items())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_torchvisions_switch(tmp_path, name):
    from safetensors.torch import save_file
    from torchvision import models

    torch.manual_seed(0)
    own = models.get_model(name, weights=None, num_classes=4, transform_input=True).eval()
    save_file(own.state_dict(), tmp_path / "weights.safetensors")
    full = f"torchvision:{name}"
    network = build(full, classes=4, weights=tmp_path / "weights.safetensors").eval()
    images = torch.rand(2, 3, 96, 96)
    with torch.no_grad():
        expected = own(images)
        assert torch.equal(network(images), expected)
        bundle = bundle_of(network, 4, architecture=full)
        bundle.save(tmp_path / "bundle")
        loaded = Bundle.load(tmp_path / "bundle")
        assert switches_of(loaded.modules) == {"classifier.encoder.transform_input": True}
        torch.testing.assert_close(loaded.classifier(images), expected)
        network.transform_input = False
        bundle_of(network, 4, architecture=full).save(tmp_path / "plain")
        torch.testing.assert_close(
            Bundle.load(tmp_path / "plain").classifier(images), network(images)
        )


def test_switches_are_set_where_they_are():
    network = nn.Sequential(nn.Identity())
    network[0].transform_input = False
    assert switches_of(network) == {"0.transform_input": False}
    set_switches(network, {"0.transform_input": True, "gone.transform_input": True})
    assert network[0].transform_input is True


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"architecture": "acclimate:resnet9"}, "would not load"),
        ({"architecture": "acclimate:resnet14-w4"}, "would not load: the weights .* do not fit"),
        ({"form": "siamese"}, "would not load: the weights .* do not fit"),
        ({"form": "none"}, "would not load: unknown form"),
        ({"classes": ("a", "b")}, "3 outputs have 2 class names"),
        ({"provenance": {"path": object()}}, "must be JSON values and text"),
        ({"provenance": {2: "a", 10: "b"}}, "would not load"),
    ],
)
def test_what_would_not_load_is_not_saved(tmp_path, fields, reason):
    torch.manual_seed(0)
    bundle = Bundle(
        build("acclimate:resnet8-w4", classes=3).eval(),
        None,
        Preprocessing(16),
        **{"classes": ("a", "", "a"), "architecture": "acclimate:resnet8-w4"} | fields,
    )
    state = torch.get_rng_state()
    with pytest.raises(InputError, match=reason):
        bundle.save(tmp_path / "bundle")
    assert not list(tmp_path.iterdir())
    assert torch.equal(torch.get_rng_state(), state)


def test_odd_names_and_values_load(tmp_path):
    bundle = Bundle(
        build("acclimate:resnet8-w4", classes=3).eval(),
        None,
        Preprocessing(16),
        classes=("a\n", "", "a\n"),
        architecture="acclimate:resnet8-w4",
        provenance={"loss": float("nan"), "sizes": (1, 2)},
    )
    state = torch.get_rng_state()
    bundle.save(tmp_path / "bundle")
    assert torch.equal(torch.get_rng_state(), state)
    assert Bundle.load(tmp_path / "bundle").classes == bundle.classes
