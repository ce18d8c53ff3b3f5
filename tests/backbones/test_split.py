import copy

import pytest
import torch
from torch import nn

from acclimate.backbones import Classifier, build, split
from acclimate.backbones.heads import RecordedHead
from acclimate.errors import InputError

TORCHVISION = [
    "resnet18",
    "densenet121",
    "efficientnet_b0",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "convnext_tiny",
    "swin_t",
]
SLOW_TORCHVISION = ["vgg11", "vit_b_32", "inception_v3", "maxvit_t"]
TIMM = [
    "resnet18",
    "vit_tiny_patch16_224",
    "convnext_atto",
    "efficientnet_b0",
    "mobilenetv3_small_100",
]
SLOW_TIMM = ["swin_tiny_patch4_window7_224", "vgg11"]
SIZES = {"vit_b_32": 224, "vit_tiny_patch16_224": 224, "swin_tiny_patch4_window7_224": 224}
SIZES |= {"inception_v3": 128, "maxvit_t": 224}


def slow(names):
    return [pytest.param(name, marks=pytest.mark.slow) for name in names]


def sequential(*after, dim=4):
    return nn.Sequential(
        nn.Conv2d(3, dim, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), *after
    )


def check_split(model, size, classes):
    before = copy.deepcopy(model)
    model.train()
    generator = torch.get_rng_state()
    classifier = split(model)
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(module.training for module in classifier.modules())
    assert all(module.training for module in model.modules())
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        expected = before.eval()(images)
        features = classifier.eval().encoder(images)
        torch.testing.assert_close(classifier(images), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(model.eval()(images), expected, rtol=1e-5, atol=1e-5)
    assert features.shape == (2, classifier.feature_dim)
    assert classifier.num_classes == classes
    assert model.state_dict().keys() == before.state_dict().keys()
    shared = {parameter.data_ptr() for parameter in model.parameters()}
    assert {parameter.data_ptr() for parameter in classifier.parameters()} == shared


@pytest.mark.parametrize("name", TORCHVISION + slow(SLOW_TORCHVISION))
@pytest.mark.filterwarnings("ignore")
def test_torchvision(name):
    check_split(build(f"torchvision:{name}", classes=5), SIZES.get(name, 32), 5)


@pytest.mark.parametrize("name", TIMM + slow(SLOW_TIMM))
def test_timm(name):
    check_split(build(f"timm:{name}", classes=5), SIZES.get(name, 32), 5)


def test_small_vgg_and_vit_of_torchvision():
    from torchvision.models import VisionTransformer
    from torchvision.models.vgg import VGG, make_layers

    with torch.device("meta"):  # its usual classifier has 120 million weights
        vgg = VGG(nn.Identity(), 5, init_weights=False)
    vgg.features = make_layers([8, "M", 16, "M"], batch_norm=True)
    vgg.classifier = nn.Sequential(
        nn.Linear(16 * 49, 8), nn.ReLU(True), nn.Dropout(), nn.Linear(8, 5)
    )
    check_split(vgg, 32, 5)
    check_split(VisionTransformer(48, 16, 2, 2, 32, 64, num_classes=5), 48, 5)


def test_sequential_with_dropout_before_the_head():
    model = sequential(nn.Dropout(0.5), nn.Linear(4, 6))
    check_split(model, 20, 6)
    classifier = split(model)
    assert isinstance(classifier.encoder[-2], nn.Dropout)
    assert isinstance(classifier.encoder[-1], nn.Identity)
    assert classifier.head is model[-1]


@pytest.mark.parametrize("size", [28, 32, 64, 96])
def test_a_model_of_one_fixed_size(size):
    check_split(nn.Sequential(nn.Flatten(), nn.Linear(3 * size * size, 5)), size, 5)


def test_a_classifier_passes_through():
    model = build("acclimate:resnet8-w8", classes=3)
    assert split(model) is model
    assert split(model, head="head") is model


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda m: torch.compile(m, backend="eager")])
def test_wrapped_models_are_unwrapped(wrap):
    model = sequential(nn.Linear(4, 3))
    assert split(wrap(model)).head is model[-1]
    assert isinstance(model[-1], nn.Linear)
    classifier = build("acclimate:resnet8-w8", classes=3)
    assert split(wrap(classifier)) is classifier


@pytest.mark.filterwarnings("ignore")
def test_scripted_models_are_refused():
    with pytest.raises(InputError, match="a scripted or traced model cannot be split"):
        split(torch.jit.script(sequential(nn.Linear(4, 3))))
    traced = torch.jit.trace(sequential(nn.Linear(4, 3)).eval(), torch.rand(2, 3, 32, 32))
    with pytest.raises(InputError, match="a scripted or traced model cannot be split"):
        split(traced)


def test_training_the_classifier_trains_the_model():
    model = sequential(nn.Linear(4, 3))
    classifier = split(model)
    with torch.no_grad():
        classifier.encoder[0].weight.zero_()
    assert model[0].weight.abs().sum() == 0
    twin = split(copy.deepcopy(model))
    with torch.no_grad():
        twin.encoder[0].weight.fill_(1)
    assert model[0].weight.abs().sum() == 0


def test_mixed_modes_and_running_statistics_survive():
    last = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), last)
    model.train()
    model[1].eval()
    classifier = split(model)
    assert [module.training for module in model] == [True, False, True]
    assert [module.training for module in classifier.encoder] == [True, False, True]
    assert not any(module.training for module in split(model.eval()).modules())
    assert torch.equal(model[1].running_mean, torch.zeros(4))
    assert model[1].num_batches_tracked == 0


def test_the_head_is_the_last_called_not_the_last_defined():
    class Unordered(nn.Module):
        def __init__(self):
            super().__init__()
            self.classes = nn.Linear(4, 3)
            self.body = sequential(nn.Linear(4, 4))
            self.unused = nn.Linear(9, 9)

        def forward(self, images):
            return self.classes(self.body(images))

    model = Unordered()
    check = split(model)
    assert check.head is model.classes
    assert split(model, head="classes").head is model.classes
    with pytest.raises(InputError, match="never calls 'unused'"):
        split(model, head="unused")
    earlier = split(model, head="body.4")
    assert isinstance(earlier.head, RecordedHead) and earlier.head.in_features == 4
    assert list(earlier.head.layers) == [model.body[4], model.classes]


@pytest.mark.parametrize(
    "after",
    [
        [nn.Dropout(0.1)],
        [nn.Identity(), nn.Dropout(0.1)],
        [nn.BatchNorm1d(3)],
        [nn.ReLU()],
        [nn.Linear(3, 3, bias=False), nn.Tanh()],
    ],
)
def test_what_follows_the_linear_layer_belongs_to_the_head(after):
    torch.manual_seed(0)  # a ReLU shows only where a logit is negative
    check_split(sequential(nn.Linear(4, 3), *after), 32, 3)


@pytest.mark.parametrize("after", [nn.Softmax(1), nn.LogSoftmax(1), nn.Flatten()])
def test_probabilities_are_refused(after):
    class Probabilities(nn.Sequential):
        def forward(self, images):
            return super().forward(images).softmax(dim=1)

    kind = Probabilities if isinstance(after, nn.Flatten) else nn.Sequential
    with pytest.raises(InputError, match="output is probabilities, not logits"):
        split(kind(*sequential(nn.Linear(4, 3), after)))


def test_a_mean_over_positions_commutes_with_the_head():
    class MeanOverPositions(nn.Sequential):
        def forward(self, images):
            return super().forward(images).mean(dim=1)

    check_split(MeanOverPositions(nn.Conv2d(3, 4, 4, 4), nn.Flatten(2), nn.Linear(64, 3)), 32, 3)


def test_two_averaged_heads():
    model = build("timm:deit_tiny_distilled_patch16_224", classes=5)
    check_split(model, 224, 5)
    assert split(model).feature_dim == 2 * model.embed_dim  # two tokens enter two heads


def test_convolutional_heads():
    pooled = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 5, 1))
    check_split(nn.Sequential(*pooled, nn.Flatten()), 32, 5)
    # A convolution commutes with the mean that follows it, but not with a ReLU.
    before = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 1), nn.AdaptiveAvgPool2d(1))
    check_split(nn.Sequential(*before, nn.Flatten()), 32, 5)
    squeezenet = build("torchvision:squeezenet1_1", classes=5)
    classifier = split(squeezenet)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        features = classifier.eval().encoder(images)
        assert features.shape == (2, 512, 3, 3)
        torch.testing.assert_close(classifier(images), squeezenet.eval()(images))
    with pytest.raises(InputError, match="takes maps or tokens, not one vector per image"):
        _ = classifier.feature_dim


def test_bad_names():
    model = sequential(nn.Linear(4, 3))
    with pytest.raises(InputError, match="unknown layer 'fc'"):
        split(model, head="fc")
    with pytest.raises(InputError, match="no head that can be found"):
        split(Classifier(sequential(), nn.Linear(4, 3)), head="encoder")


def test_models_that_do_not_classify_images():
    class Pair(nn.Module):
        def forward(self, images):
            return images, images

    with pytest.raises(InputError, match="no image of any size tried"):
        split(nn.Linear(7, 3))
    with pytest.raises(InputError, match=r"is \[batch, 3, 32, 5\], not \[batch, classes\]"):
        split(nn.Linear(32, 5))
    with pytest.raises(InputError, match="is tuple"):
        split(Pair())
