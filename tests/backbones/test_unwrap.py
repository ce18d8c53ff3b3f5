import pytest
import torch
from torch import nn
from torch.nn.functional import dropout

from acclimate.backbones import split
from acclimate.errors import InputError


def network(*after):
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), *(after or [nn.Linear(4, 3)])
    )


class Around(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = network()


class Dictionary(Around):
    def forward(self, images):
        return {"loss": None, "logits": self.body(images)}


class Noisy(Around):
    def forward(self, images):
        return dropout(self.body(images), 0.5, True)


class Masked(Around):
    def forward(self, images, mask):
        return self.body(images * mask)


class Overwriting(Around):
    def forward(self, images):
        return self.body(images.mul_(2).sub_(1))


def on_meta():
    with torch.device("meta"):
        return network()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: network(nn.LazyLinear(3)), "layers whose size is not known yet"),
        (on_meta, "on the device 'meta'"),
        (lambda: network(nn.Linear(4, 1)), "at least 2 outputs, not 1"),
        (Noisy, "differently each time in evaluation mode"),
        (Masked, "on images of every size tried .* missing 1 required positional argument: 'mask'"),
        (lambda: print, r"must be a torch\.nn\.Module, not builtin_function_or_method"),
    ],
)
def test_the_true_reason(make, reason):
    with pytest.raises(InputError, match=reason):
        split(make())


@pytest.mark.filterwarnings("ignore")
def test_programs_and_quantised_layers_are_refused():
    program = torch.export.export(network().eval(), (torch.rand(2, 3, 32, 32),))
    for exported in (program, program.module()):
        with pytest.raises(InputError, match="an exported program no longer has its layers"):
            split(exported)
    with pytest.raises(InputError, match="layer '3' is quantised"):
        split(torch.ao.quantization.quantize_dynamic(network()))


@pytest.mark.parametrize(
    "make",
    [
        Dictionary,
        Overwriting,
        lambda: nn.Sequential(nn.ReLU(inplace=True), *network()),
        lambda: torch.fx.symbolic_trace(network()),
        lambda: torch.fx.symbolic_trace(network(nn.Linear(4, 3), nn.Hardtanh())),
        lambda: network().double(),
        lambda: network().bfloat16(),
        lambda: network().half(),
    ],
)
def test_odd_networks_split(make):
    torch.manual_seed(0)
    model = make().eval()
    classifier = split(model)
    images = torch.rand(2, 3, 32, 32).to(next(model.parameters()).dtype)
    with torch.no_grad():
        logits, before = classifier(images), images.clone()
        assert torch.equal(images, before)  # a network that overwrites its input gets a copy
        output = model(images)
        assert torch.equal(logits, output["logits"] if isinstance(output, dict) else output)


def test_default_type_and_device_do_not_matter():
    model = network()
    expected = split(model).encoder(torch.ones(1, 3, 32, 32))
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    try:
        classifier = split(model)
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    assert torch.equal(classifier.encoder(torch.ones(1, 3, 32, 32)), expected)


def hugging_face(name, **options):
    import transformers

    config = getattr(transformers, f"{name}Config")(num_labels=5, **options)
    suffix = "WithTeacher" if options.get("teacher") else ""
    return getattr(transformers, f"{name}ForImageClassification{suffix}")(config)


TOKENS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32}
TOKENS |= {"intermediate_size": 48, "patch_size": 8}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ViT", TOKENS),
        ("DeiT", TOKENS),
        ("DeiT", TOKENS | {"teacher": True}),
        ("ConvNext", {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "image_size": 32}),
        (
            "Swin",
            {
                "image_size": 32,
                "patch_size": 2,
                "embed_dim": 8,
                "depths": [1, 1],
                "num_heads": [2, 2],
                "window_size": 4,
            },
        ),
        ("ResNet", {"hidden_sizes": [8, 8], "depths": [1, 1], "embedding_size": 8}),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_transformers(name, options):
    pytest.importorskip("transformers")
    torch.manual_seed(0)
    model = hugging_face(name, **options).eval()
    classifier = split(model)
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        features = classifier.encoder(images)
        assert features.shape == (3, classifier.feature_dim) and classifier.num_classes == 5
        assert torch.equal(classifier.head(features), model(images).logits)
