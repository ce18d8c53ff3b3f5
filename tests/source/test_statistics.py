"""Statistics of source images: measured without labels, kept with the bundle, given to parts."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import acclimate
from acclimate.adapt import Adapter
from acclimate.backbones import Classifier, build, split
from acclimate.bundle import Bundle
from acclimate.bundle_record import STATISTICS, read_record
from acclimate.errors import InputError
from acclimate.evaluate.task import checksum_of, variants_of
from acclimate.methods import METHODS
from acclimate.parts.selection import All
from acclimate.preprocessing import Preprocessing
from acclimate.randomness import key, permutation
from acclimate.source import statistics
from acclimate.source.images import SourceImages
from acclimate.source.loop import Run
from acclimate.source.statistics import (
    SOURCE_STATISTICS,
    fisher_weights,
    measure_statistics,
    token_moments,
)
from acclimate.storage import sealed

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "online.npz")
RUN = Run(device="cpu", precision="fp32")


def golden(name):
    return torch.from_numpy(np.asarray(GOLDEN[name]))


@dataclass(frozen=True)
class Sizes(All):
    """A selection that is given the size of the classifier's features."""

    source_statistics: ClassVar[tuple[str, ...]] = ("sizes",)

    def build(self, classes, device, *, sizes):
        object.__setattr__(self, "given", sizes)
        return self


@pytest.fixture
def sized(monkeypatch):
    """A kind of statistics, and a row that needs it."""

    def sizes(model, source, run):
        return {"encoder.size": torch.tensor([float(model.feature_dim), len(source.images)])}

    monkeypatch.setitem(SOURCE_STATISTICS, "sizes", sizes)
    row = METHODS["tent"]
    monkeypatch.setitem(
        METHODS, "sized", replace(row, settings=replace(row.settings, selection=Sizes()))
    )


def test_what_a_row_names_is_measured_kept_and_given_to_its_part(
    sized, bundle_of, images, tmp_path
):
    bundle = acclimate.measure(bundle_of("tent"), images[:8], RUN)
    name = "classifier.sizes.encoder.size"
    dim = bundle.classifier.feature_dim
    assert bundle.statistics[name].tolist() == [dim, 8]
    bundle.save(tmp_path / "bundle")
    loaded = Bundle.load(tmp_path / "bundle")
    assert loaded.statistics.keys() == bundle.statistics.keys()
    assert all(torch.equal(t, bundle.statistics[n]) for n, t in loaded.statistics.items())
    adapter = Adapter(loaded, "sized", device="cpu")
    assert adapter.settings.selection.given["encoder.size"].tolist() == [dim, 8]


def test_a_bundle_without_them_says_how_to_get_them(sized, bundle_of, tmp_path):
    old = replace(bundle_of("tent"), statistics={})
    old.save(tmp_path / "bundle")
    assert not (tmp_path / "bundle" / STATISTICS).exists()
    loaded = Bundle.load(tmp_path / "bundle")
    assert loaded.statistics == {}
    with pytest.raises(InputError, match=r"sized needs .*acclimate measure BUNDLE IMAGES"):
        Adapter(loaded, "sized", device="cpu")
    Adapter(loaded, "tent", device="cpu")


def test_states_belong_to_the_statistics_too(sized, bundle_of, images):
    few, more = (acclimate.measure(bundle_of("tent"), images[:n], RUN) for n in (4, 8))
    state = Adapter(few, "sized", device="cpu").snapshot()
    Adapter(few, "sized", device="cpu").restore(state)
    with pytest.raises(InputError, match="of another bundle"):
        Adapter(more, "sized", device="cpu").restore(state)


@pytest.mark.parametrize("damage", ["cut", "other", "missing"])
def test_damaged_statistics_are_refused(sized, bundle_of, images, tmp_path, damage):
    bundle = acclimate.measure(bundle_of("tent"), images[:4], RUN)
    bundle.save(tmp_path / "bundle")
    file = tmp_path / "bundle" / STATISTICS
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-3])
    elif damage == "missing":
        file.unlink()
    else:
        tensors, record = sealed.load(file)
        sealed.save(file, {name: tensor + 1 for name, tensor in tensors.items()}, record)
    with pytest.raises(InputError, match="restore it from a good copy"):
        Bundle.load(tmp_path / "bundle")


def test_statistics_that_are_not_finite_are_not_saved(bundle_of, tmp_path):
    bundle = replace(bundle_of("tent"), statistics={"classifier.x.y": torch.tensor(torch.nan)})
    with pytest.raises(InputError, match="not all finite"):
        bundle.save(tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_results_are_kept_apart_by_statistics(sized, bundle_of, images, tmp_path):
    """Two bundles of one network answer otherwise with other statistics."""
    for count in (0, 4, 8):
        given = replace(bundle_of("tent"), statistics={})
        if count:
            given = acclimate.measure(given, images[:count], RUN)
        given.save(tmp_path / str(count))
    assert len({checksum_of(tmp_path / str(count)) for count in (0, 4, 8)}) == 3
    given.save(tmp_path / "again")
    assert checksum_of(tmp_path / "again") == checksum_of(tmp_path / "8")
    assert "statistics_sha256" not in read_record(tmp_path / "0")  # as in older bundles
    found = variants_of({"0": tmp_path / "0"})["0"]
    assert "sized" not in map(str, found) and "tent" in map(str, found)


class Numbers(nn.Module):
    def forward(self, images):
        return images.flatten(1)[:, :6].double()


def test_fisher_weights_are_the_release_s(monkeypatch):
    """Squared after the mean over a batch, then averaged over batches: `eata_fisher_*`."""
    norm, head = nn.BatchNorm1d(6), nn.Linear(6, 10)
    with torch.no_grad():
        for module, name in ((norm, "norm"), (head, "head")):
            module.weight.copy_(golden(f"toy_{name}_weight"))
            module.bias.copy_(golden(f"toy_{name}_bias"))
    model = Classifier(nn.Sequential(Numbers(), norm), head).double().eval()
    rows = golden("eata_source_x").flatten(0, 1).double()  # three batches of 32
    images = torch.cat([rows, torch.zeros(96, 6)], dim=1).view(96, 3, 2, 2)
    order = permutation(key(0, "source statistics"), 96)
    given = torch.empty_like(images)
    given[order] = images
    monkeypatch.setattr(statistics, "FISHER_BATCH", 32)
    monkeypatch.setattr(Preprocessing, "__call__", lambda self, x: x)
    source = SourceImages(given, Preprocessing(2, (0.0,) * 3, (1.0,) * 3))
    found = fisher_weights(model, source, RUN)
    assert found.keys() == {"encoder.1.weight", "encoder.1.bias"}
    for name in ("weight", "bias"):
        expected = golden(f"eata_fisher_{name}")
        torch.testing.assert_close(found[f"encoder.1.{name}"], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("architecture", ["acclimate:resnet8-w8", "acclimate:resnet8-w8-gn"])
def test_fisher_weights_are_a_plain_loop_s(architecture, images):
    """150 images: two whole batches of 64, and nothing changes in the model."""
    torch.manual_seed(0)
    model = split(build(architecture, classes=4)).double().eval().requires_grad_(False)
    for norm in filter(lambda m: isinstance(m, nn.BatchNorm2d | nn.GroupNorm), model.modules()):
        nn.init.uniform_(norm.weight, 0.5, 1.5)  # some start at 0, and hide others
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    preprocessing = Preprocessing(16, (0.5, 0.4, 0.3), (0.3, 0.2, 0.25))
    monkey = pytest.MonkeyPatch()
    plain = Preprocessing.__call__
    with monkey.context() as patch:
        patch.setattr(Preprocessing, "__call__", lambda self, x: plain(self, x).double())
        source = SourceImages(images[:150], preprocessing)
        found = fisher_weights(model, source, RUN)
        order = permutation(key(0, "source statistics"), 150)
        expected = {name: torch.zeros_like(value) for name, value in found.items()}
        slow = split(build(architecture, classes=4)).double().train()
        slow.load_state_dict(before)
        for part in (order[:64], order[64:128]):
            slow.zero_grad()
            logits = slow(preprocessing(images[part]))
            cross_entropy(logits, logits.argmax(1)).backward()
            for name in expected:
                expected[name] += slow.get_parameter(name).grad ** 2 / 2
    assert len(found) == 2 * sum(
        isinstance(m, nn.BatchNorm2d | nn.GroupNorm) for m in model.encoder.modules()
    )
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-8, atol=1e-12)
        assert value.sum() > 0
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_fisher_weights_that_cannot_be_are_left_out(images):
    model = split(build("acclimate:resnet8-w8", classes=4)).eval()
    source = SourceImages(images, Preprocessing(16))
    assert fisher_weights(model, replace(source, images=images[:1]), RUN) == {}
    tight = replace(RUN, memory_limit="1MB")
    assert fisher_weights(model, source, tight) == {}
    bare = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(768, 4)), nn.Linear(4, 3))
    assert fisher_weights(bare, source, RUN) == {}


def test_a_bundle_of_any_maker_has_what_rows_need(sized, images):
    net = build("acclimate:resnet8-w8", classes=4)
    wrapped = acclimate.wrap(net, images[:20], run=RUN)
    assert "classifier.sizes.encoder.size" in wrapped.statistics
    assert acclimate.wrap(net, preprocessing=Preprocessing(16)).statistics == {}
    models = {"classifier": wrapped.classifier, "twin": wrapped.classifier}
    found = measure_statistics(models, SourceImages(images, wrapped.preprocessing), RUN)
    assert not any(name.startswith("twin.") for name in found), "no row needs the twin's"


def test_moments_are_those_of_all_images_at_once(monkeypatch, bundle_of, images):
    """Measured in passes of a few; the last layer's are the features'."""
    monkeypatch.setattr(statistics, "MOMENT_BATCH", 7)
    monkeypatch.setattr(statistics, "MOMENT_IMAGES", 30)
    bundle = bundle_of("foa")
    source = SourceImages(images, bundle.preprocessing)
    found = token_moments(bundle.classifier, source, RUN)
    assert found.keys() == {"mean.0", "std.0", "mean.1", "std.1"}
    chosen = bundle.preprocessing(source.sample(30).images)
    encoder, outputs = bundle.classifier.encoder, []
    handle = encoder.blocks[0].register_forward_hook(lambda _, __, output: outputs.append(output))
    with torch.no_grad():
        features = encoder(chosen)
        first = encoder.blocks[1].norm1(outputs[0].mean(1))
    handle.remove()
    for layer, values in enumerate((first, features)):
        close = {"atol": 1e-5, "rtol": 1e-4}
        torch.testing.assert_close(found[f"mean.{layer}"], values.mean(0), **close)
        torch.testing.assert_close(found[f"std.{layer}"], values.std(0), **close)


def test_there_are_no_moments_of_other_networks_or_of_one_image(bundle, bundle_of, images):
    assert token_moments(bundle.classifier, SourceImages(images, bundle.preprocessing), RUN) == {}
    given = bundle_of("foa")
    one = SourceImages(images[:1], given.preprocessing)
    assert token_moments(given.classifier, one, RUN) == {}
