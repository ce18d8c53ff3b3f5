"""What a bundle decides for a method: its prior and limit, and the model that adapts."""

from dataclasses import replace

import pytest
import torch

from acclimate.adapt import Adapter
from acclimate.adapt.chosen import model_of, settings_for
from acclimate.backbones.batch_norm import Trust
from acclimate.bundle import Bundle
from acclimate.bundle_record import read_record, sealed
from acclimate.errors import InputError
from acclimate.methods import METHODS
from acclimate.parts.class_balanced import ClassBalanced
from acclimate.parts.normalisation import BatchStatistics

TRUST = {"classifier": Trust(4.0, 0.7), "twin": Trust(1.0, 0.35)}
IMAGES = torch.randint(
    0, 256, (6, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
)
MEASURED = [
    name
    for name, row in METHODS.items()
    if getattr(row.settings.normalisation, "prior", 0.0) is None
]


def images_of(bundle):
    return IMAGES[..., : bundle.preprocessing.height, : bundle.preprocessing.width]


@pytest.fixture
def measured(bundle):
    return replace(bundle, trust=TRUST)


@pytest.mark.parametrize("name", MEASURED)
def test_a_prior_of_none_is_what_was_measured_on_the_methods_own_model(measured, name):
    found = settings_for(measured, name, METHODS[name].settings).normalisation
    trust = TRUST[METHODS[name].model]
    assert (found.prior, found.limit) == (trust.prior, trust.limit)


def test_both_models_have_methods_that_take_what_was_measured():
    assert {METHODS[name].model for name in MEASURED} == set(TRUST)


@pytest.mark.parametrize(("classes", "prior"), [(3, 16), (64, 16), (100, 25), (1_000, 250)])
def test_without_a_measurement_the_prior_is_a_rule_of_thumb(bundle, classes, prior):
    bundle = replace(bundle, classes=tuple(map(str, range(classes))), trust={})
    found = settings_for(bundle, "bn-adapt", METHODS["bn-adapt"].settings).normalisation
    assert (found.prior, found.limit) == (prior, 1)


def test_a_given_prior_is_taken_with_its_limit(measured):
    given = replace(METHODS["bn-adapt"].settings, normalisation=BatchStatistics(0.0, 0.9))
    assert settings_for(measured, "bn-adapt", given) is given


@pytest.mark.parametrize(("limit", "left"), [(0.5, 0.5), (0.9, 0.7), (0.0, 0.0)])
def test_a_given_limit_is_not_exceeded(measured, limit, left):
    given = replace(METHODS["bn-adapt"].settings, normalisation=BatchStatistics(None, limit))
    assert settings_for(measured, "bn-adapt", given).normalisation == BatchStatistics(4.0, left)


@pytest.mark.parametrize(("trusted", "limit"), [(1.0, 1.0), (0.8, 0.8), (0.5, 0.7), (0.0, 0.7)])
def test_class_statistics_are_trusted_as_far_as_a_batch_s_but_at_least_so_far(
    bundle, trusted, limit
):
    measured = replace(bundle, trust={"twin": Trust(4.0, trusted)})
    settings = METHODS["acclimate"].settings
    found = settings_for(measured, "acclimate", settings)
    assert found.normalisation == replace(settings.normalisation, limit=limit)
    given = replace(settings, normalisation=ClassBalanced(None, 0.3))
    found = settings_for(measured, "acclimate", given).normalisation
    assert found == ClassBalanced(4.0, 0.3)
    unmeasured = replace(bundle, trust={})
    assert settings_for(unmeasured, "acclimate", settings).normalisation.limit == 1.0


@pytest.mark.parametrize("name", ["source", "tent", "ptbn"])
def test_settings_without_such_a_prior_stay(measured, name):
    settings = METHODS[name].settings
    assert settings_for(measured, name, settings) is settings


def test_an_adapter_answers_as_with_the_measured_values_given(measured):
    found = Adapter(measured, "bn-adapt", device="cpu", precision="fp32")
    given = BatchStatistics(4.0, 0.7)
    told = Adapter(measured, "bn-adapt", device="cpu", precision="fp32", normalisation=given)
    assert found.settings == told.settings
    images = images_of(measured)
    answer = found(images)
    assert torch.equal(answer, told(images))
    plain = Adapter(replace(measured, trust={}), "bn-adapt", device="cpu", precision="fp32")
    assert not torch.equal(answer, plain(images))


def test_without_trust_in_batches_the_answers_are_the_frozen_classifiers(bundle):
    bundle = replace(bundle, trust={"classifier": Trust(0.0, 0.0)})
    images = images_of(bundle)
    adapted, frozen = (
        Adapter(bundle, name, device="cpu", precision="fp32")(images)
        for name in ("bn-adapt", "source")
    )
    torch.testing.assert_close(adapted, frozen)


@pytest.mark.parametrize("name", ["bn-adapt", "cta"])
def test_a_state_with_measured_settings_loads_again(measured, tmp_path, name):
    file, images = tmp_path / "state.safetensors", images_of(measured)
    adapter = Adapter(measured, name, device="cpu", reset="never")
    adapter(images)
    adapter.save(file)
    other = Adapter(measured, name, device="cpu", reset="never")
    other.load(file)
    assert torch.equal(other(images), adapter(images))
    elsewhere = replace(measured, trust={model: Trust(9.0) for model in TRUST})
    with pytest.raises(InputError):
        Adapter(elsewhere, name, device="cpu", reset="never").load(file)


def test_trust_survives_saving(measured, tmp_path):
    measured.save(tmp_path / "bundle")
    assert Bundle.load(tmp_path / "bundle").trust == TRUST


def test_a_record_without_trust_loads(bundle, tmp_path):
    bundle.save(tmp_path / "bundle")
    record = read_record(tmp_path / "bundle")
    without = {name: each for name, each in record.items() if name not in ("trust", "sha256")}
    (tmp_path / "bundle" / "bundle.json").write_text(sealed(without))
    loaded = Bundle.load(tmp_path / "bundle")
    assert loaded.trust == {}
    assert Adapter(loaded, "bn-adapt", device="cpu").settings.normalisation.prior == 16


def test_the_methods_model_adapts(bundle):
    assert model_of(bundle, "cta") is bundle.twin
    assert model_of(bundle, "bn-adapt") is bundle.classifier
    with pytest.raises(InputError, match="no aligned twin"):
        model_of(replace(bundle, twin=None), "cta")
    with pytest.raises(InputError, match="not for ttt"):
        model_of(bundle, "ttt")
