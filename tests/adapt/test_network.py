"""The adapted model as a network, against the adapter itself, and exported, against onnxruntime."""

import pytest
import torch

from acclimate.adapt import Adapter, as_network
from acclimate.errors import InputError
from acclimate.methods import METHODS


def adapted(bundle_of, name, images):
    adapter = Adapter(bundle_of(name), name, precision="fp32", device="cpu")
    return adapter, adapter(images)


@pytest.mark.parametrize("name", ["source", "ptbn", "tent", "cta", "cta-paper", "clust3"])
def test_it_answers_as_the_adapter(bundle_of, images, name):
    adapter, logits = adapted(bundle_of, name, images[:16])
    before = {key: tensor.clone() for key, tensor in adapter.model.state_dict().items()}
    network = as_network(adapter, images[:16])
    unit = images[:16].float() / 255
    with torch.no_grad():
        assert (network(unit) - logits).abs().max() < 1e-5
        one = torch.cat([network(image[None]) for image in unit])  # whatever comes with it
    assert (one - logits).abs().max() < 1e-5
    assert not any(module.training for module in network.modules())
    assert adapter.model.state_dict().keys() == before.keys()
    assert all(tensor.equal(before[key]) for key, tensor in adapter.model.state_dict().items())
    adapter(images[:16])  # and it still adapts


def test_statistics_of_the_batch_need_a_batch(bundle_of, images):
    adapter, _ = adapted(bundle_of, "ptbn", images[:8])
    with pytest.raises(InputError, match="give the images to take them from"):
        as_network(adapter)
    assert as_network(adapted(bundle_of, "source", images[:8])[0])


@pytest.mark.parametrize("name", ["t3a", "lame"])
def test_corrections_by_other_images_are_no_network_of_their_own(bundle_of, images, name):
    adapter, _ = adapted(bundle_of, name, images[:8])
    with pytest.raises(InputError, match=f"{name} corrects its answers by the features of other"):
        as_network(adapter, images[:8])


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name == "cta" else pytest.mark.slow)
        for name in METHODS
        if name != "ttt-mae"  # a transformer: see the next test
        and not METHODS[name].settings.correction.needs_features
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_onnx_gives_the_adapter_s_logits(bundle_of, images, name, tmp_path):
    check_export(bundle_of, images, name, tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_onnx_of_a_transformer(bundle_of, images, tmp_path):
    check_export(bundle_of, images, "ttt-mae", tmp_path)


def check_export(bundle_of, images, name, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    adapter, _ = adapted(bundle_of, name, images[:12])
    network = as_network(adapter, images[:12])
    unit = images.float() / 255
    path = tmp_path / "adapted.onnx"
    torch.onnx.export(
        network,
        (unit[:2],),
        path,
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
        dynamo=True,
        verbose=False,
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for some in (unit[:12], unit[20:21], unit[20:70]):
        with torch.no_grad():
            expected = network(some).numpy()
        (found,) = session.run(["logits"], {"images": some.numpy()})
        assert abs(found - expected).max() < 1e-5
