"""What an alignment leaves in the twin: statistics, scale, and the share that is of use."""

from dataclasses import replace

import pytest
import torch
from checkpoints import network
from torch import nn

import acclimate
from acclimate.backbones import split
from acclimate.backbones.batch_norm import Trust, batch_norms
from acclimate.preprocessing import Preprocessing
from acclimate.source import aligned, stages, twin
from acclimate.source.calibration import carry_statistics, recalibrate
from acclimate.source.images import SourceImages
from acclimate.source.loop import Run, Training
from acclimate.source.presets import STAGES, SourceSettings

pytestmark = pytest.mark.usefixtures("few_trials")

TRAINING = Training(1, 32, learning_rate=1e-3)
SETTINGS = SourceSettings(
    **dict.fromkeys(STAGES, TRAINING), start="copy", interpolation=None, contrastive_temperature=0.5
)
CPU = Run(precision="fp32", device="cpu")


def pictures(count):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, 16, 16), generator=generator, dtype=torch.uint8)


SOURCE = SourceImages(pictures(40), Preprocessing(16))


def statistics(module):
    names = ("running_mean", "running_var")
    return [norm.get_buffer(name).clone() for norm in batch_norms(module) for name in names]


def test_an_untrained_copy_keeps_the_originals_statistics_to_the_bit():
    original, copy = network(), network()
    before = statistics(original)
    carry_statistics(copy, original, SOURCE, "fp32")
    for own, kept in zip(statistics(copy), before, strict=True):
        assert torch.equal(own, kept)
    assert all(map(torch.equal, statistics(original), before))
    assert not copy.training


def test_means_move_by_the_difference_and_variances_by_the_ratio():
    original, copy = network(), network()
    with torch.no_grad():
        for parameter in copy.parameters():
            parameter += 0.1 * torch.randn(
                parameter.shape, generator=torch.Generator().manual_seed(1)
            )
    measured = []
    for source in (original, copy):
        own = network()
        own.load_state_dict(source.state_dict())
        recalibrate(own, SOURCE, "fp32")
        measured.append(statistics(own))
    carry_statistics(copy, original, SOURCE, "fp32")
    found = statistics(copy)
    for place, (kept, old, new) in enumerate(zip(statistics(original), *measured, strict=True)):
        expected = kept + new - old
        if place % 2:  # a variance, where no channel is dead
            expected = kept * new / old
            assert old.min() > 0.01
        torch.testing.assert_close(found[place], expected, rtol=5e-3, atol=1e-5)
        assert not torch.equal(found[place], kept)


def test_a_channel_that_is_dead_on_these_images_keeps_the_originals_variance():
    layers = [nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)) for _ in range(2)]
    for convolution, norm in layers:
        with torch.no_grad():
            convolution.weight[0] = 0
            norm.running_var.fill_(0.7)
    original, copy = layers
    carry_statistics(copy, original, SOURCE, "fp32")
    assert copy[1].running_var[0] == pytest.approx(0.7, rel=1e-3)


def aligned_with(monkeypatch, values, settings=SETTINGS, count=80):
    """Align while the twin's agreement is replaced, and count the trainings."""
    trained = []
    real = stages.align_twin

    def counted(*given, **named):
        trained.append(given[3].align.learning_rate)
        return real(*given, **named)

    monkeypatch.setattr(stages, "align_twin", counted)
    if values is not None:
        monkeypatch.setattr(twin._Between, "best", lambda self, held, trust: values.pop(0))
    classifier = network()
    bundle = acclimate.align(
        classifier, pictures(count), preprocessing=Preprocessing(16), settings=settings, run=CPU
    )
    return classifier, bundle, trained


def test_a_twin_whose_alignment_is_useless_stays_the_classifiers_copy(monkeypatch, caplog):
    net, bundle, trained = aligned_with(monkeypatch, [0.0, 0.0, 0.0])
    assert trained == pytest.approx([1e-3 * factor for factor in aligned.FACTORS])
    assert bundle.method == "bn-adapt"
    assert bundle.provenance["agreement"]["kept"] == 0
    own, kept = bundle.twin.encoder.get_submodule("encoder"), bundle.classifier.encoder
    assert all(map(torch.equal, own.state_dict().values(), kept.state_dict().values()))
    images = torch.randn(3, 3, 16, 16)
    torch.testing.assert_close(bundle.twin(images), net(images))
    assert "no better than the classifier" in caplog.text
    assert bundle.trust["twin"] == bundle.trust["classifier"]


def test_smaller_rates_are_tried_until_the_alignment_is_of_use(monkeypatch):
    _, bundle, trained = aligned_with(monkeypatch, [0.0, 0.5])
    assert trained == pytest.approx([1e-3, 1e-4])
    assert bundle.method in ("acclimate", "cta")
    assert bundle.provenance["agreement"]["kept"] == 0.5


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_given_share_is_taken_as_it_is(monkeypatch, caplog, share):
    _, bundle, trained = aligned_with(monkeypatch, None, replace(SETTINGS, interpolation=share))
    assert len(trained) == 1
    assert bundle.method in ("acclimate", "cta")
    assert bundle.provenance["agreement"]["kept"] == share
    assert "no better" not in caplog.text


def test_too_few_images_are_aligned_without_a_measurement(monkeypatch):
    _, bundle, trained = aligned_with(monkeypatch, None, count=10)
    assert len(trained) == 1
    assert bundle.trust == {} and "agreement" not in bundle.provenance


def test_the_twin_lies_between_its_copy_and_what_was_trained():
    classifier = split(network())
    begin = twin.projected(classifier)
    end = twin.projected(classifier)
    with torch.no_grad():
        for parameter in end.encoder.parameters():
            parameter += 0.05
    trained = [parameter.clone() for parameter in end.encoder.parameters()]
    for model in (classifier, begin, end):
        model.requires_grad_(False).eval()
    between = twin._Between(end, begin.encoder, classifier, SOURCE, CPU)
    for share in (1.0, 0.3, 0.0, 0.3):
        between.move(share)
        for own, before, after in zip(
            end.encoder.parameters(), begin.encoder.parameters(), trained, strict=True
        ):
            torch.testing.assert_close(own, before + share * (after - before))
    between.move(0.0)
    images = torch.randn(3, 3, 16, 16)
    assert torch.equal(end(images), begin(images))


@pytest.mark.parametrize("worse", [True, False])
def test_a_twin_that_is_worse_is_told_also_where_its_share_is_given(monkeypatch, caplog, worse):
    figures = {"classifier, shifted": 0.5, "twin, shifted": 0.4 if worse else 0.6, "kept": 1.0}
    for who in ("frozen", "classifier", "twin"):
        figures |= {f"{who}, clean": 0.9}
    figures["frozen, shifted"] = 0.5
    monkeypatch.setattr("acclimate.source.train.measure", lambda work: ({}, figures))
    aligned_with(monkeypatch, None, replace(SETTINGS, interpolation=1.0))
    assert ("worse than the classifier" in caplog.text) is worse


@pytest.mark.parametrize(
    ("limit", "method"),
    [(None, "cta"), (0.0, "cta"), (0.2, "cta"), (0.35, "acclimate"), (1.0, "acclimate")],
)
def test_our_own_is_the_method_where_statistics_of_batches_are_of_use(monkeypatch, limit, method):
    measured = {} if limit is None else {"twin": Trust(16.0, limit)}
    monkeypatch.setattr("acclimate.source.train.measure", lambda work: (measured, {}))
    _, bundle, _ = aligned_with(monkeypatch, None, replace(SETTINGS, interpolation=0.5))
    assert bundle.method == method
    assert isinstance(acclimate.Adapter(bundle, device="cpu")(pictures(4)), torch.Tensor)


def test_a_bundle_keeps_the_method_that_it_names(monkeypatch, tmp_path):
    """An older bundle's record says cta, whatever the default is now."""
    _, bundle, _ = aligned_with(monkeypatch, None)
    replace(bundle, method="cta").save(tmp_path / "older")
    assert acclimate.Bundle.load(tmp_path / "older", model=network()).method == "cta"
