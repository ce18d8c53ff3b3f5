import pytest
import torch
from small_guard import calibrate_on_few

import acclimate
from acclimate.bundle import Bundle
from acclimate.errors import InputError
from acclimate.guard import measure as measured
from acclimate.guard.calibration import Calibration
from acclimate.guard.decide import GuardState, judge
from acclimate.guard.looks import looks, looks_as_shown
from acclimate.guard.measure import _rows, measure_guard
from acclimate.guard.rules import Rules
from acclimate.methods import METHODS
from acclimate.parts.reset import Never
from acclimate.source import held_out
from acclimate.source.held_out import corrupted
from acclimate.source.statistics import measure


@pytest.fixture(autouse=True)
def less(monkeypatch):
    """Fewer images and severities."""
    calibrate_on_few(monkeypatch)


@pytest.mark.parametrize("which", ["bundle", "group_norm_bundle"])
def test_every_model_gets_a_calibration(which, request, images, tmp_path):
    bundle = request.getfixturevalue(which)
    found = measure_guard(bundle, images)
    assert {name for name in found.statistics if ".guard." not in name} == set(bundle.statistics)
    found.save(tmp_path / "bundle")
    loaded = Bundle.load(tmp_path / "bundle")
    frozen, adapted = (acclimate.Adapter(loaded, n)(images[:9]) for n in ("source", "aligned"))
    for model in ("classifier", "twin"):
        calibration = Calibration.of(loaded.statistics, model)
        assert all(tensor.isfinite().all() for tensor in calibration.tensors("").values())
        state = GuardState.new(calibration)
        kept = torch.ones(9, dtype=torch.bool)
        verdict = judge(frozen, adapted, looks(images[:9]), kept, calibration, state, Rules())
        assert verdict.use_adapted.shape == (9,)


def test_without_batch_norm_the_curves_see_models_that_take_steps(bundle, group_norm_bundle):
    assert dict(_rows(bundle)) == {"classifier": "ptbn", "twin": "aligned-bn"}
    found = dict(_rows(group_norm_bundle))
    assert found.keys() == {"classifier", "twin"}
    for model, name in found.items():
        row = METHODS[name]
        assert row.model == model and row.settings.steps > 0 and row.settings.reset == Never()


def test_it_is_the_same_again_and_other_statistics_keep_it(bundle, images):
    once, again = (measure_guard(bundle, images).statistics for _ in range(2))
    assert all(torch.equal(once[name], again[name]) for name in once)
    other = measure(measure_guard(bundle, images), images[:40])
    kept = {name for name in once if ".guard." in name}
    assert kept and kept <= set(other.statistics)


def test_grey_images_stay_grey_and_others_are_refused(bundle, images):
    grey = images[:40, :1]
    assert corrupted(grey, "spatter", 5).shape == grey.shape
    with pytest.raises(InputError, match=r"at least 32 grey or RGB images"):
        measure_guard(bundle, images[:20])


def test_images_of_another_size_look_as_the_network_sees_them(bundle, images):
    """The guard sees images at the network's input size, and sharpness depends on the size."""
    large = images[:40].repeat_interleave(4, 2).repeat_interleave(4, 3)
    assert not torch.allclose(looks(large)[:, 3], looks(images[:40])[:, 3], atol=0.1)
    found = Calibration.of(measure_guard(bundle, large).statistics, "classifier").places
    unit = bundle.preprocessing.unit(large)
    torch.testing.assert_close(found.mean, looks(unit).mean(0))
    assert looks_as_shown(large, bundle.preprocessing).shape == (40, 5)


def test_of_large_images_fewer_are_taken(bundle, images, monkeypatch):
    sizes, fit = [], measured.calibrated

    def spy(sets):
        sizes.append(len(sets[0].frozen))
        return fit(sets)

    monkeypatch.setattr(measured, "calibrated", spy)
    monkeypatch.setattr(held_out, "FEW", 33)
    measure_guard(bundle, images)
    monkeypatch.setattr(held_out, "LARGE", 16 * 16 - 1)
    measure_guard(bundle, images), measure_guard(bundle, images, count=35)
    assert sizes == [40, 40, 33, 33, 35, 35]
