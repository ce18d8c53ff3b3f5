import dataclasses

import pytest
import torch

from acclimate.adapt.adapter import check_settings
from acclimate.errors import InputError
from acclimate.methods import METHODS, AdapterSettings, method


def test_the_names_that_results_use():
    assert list(METHODS) == ["source", "ptbn", "aligned", "aligned-bn", "cta", "cta-paper"]


def test_cta_paper_has_the_published_settings():
    settings = METHODS["cta-paper"].settings
    assert (settings.steps, settings.learning_rate, settings.temperature) == (20, 1e-6, 0.01)
    assert (settings.optimizer, settings.parameters) == ("adam", "all")
    assert (settings.normalisation, settings.reset) == ("running", "batch")


@pytest.mark.parametrize("name", METHODS)
def test_rows_are_sound(name):
    row = METHODS[name]
    check_settings(row.settings)
    assert row.summary
    assert row.citation
    assert row.stages[0] == "supervised"
    # A twin is made by the stages, and steps need something to minimise.
    assert (row.model == "twin") == ("align" in row.stages)
    assert (row.settings.steps > 0) == (row.objective is not None)
    assert method(name) is row


def test_our_default_takes_a_step():
    assert METHODS["cta"].settings.steps >= 1
    assert METHODS["cta"].settings.learning_rate > 0


def test_an_objective_takes_its_views_from_the_bundle():
    objective = METHODS["cta"].objective(
        AdapterSettings(temperature=0.3), {"views": {"grey_probability": 1.0}}
    )
    assert objective.temperature == 0.3
    views = objective.draw(torch.rand(8, 3, 16, 16), 0, torch.arange(8))
    assert views.shape == (16, 3, 16, 16)
    torch.testing.assert_close(views[:, 0], views[:, 2])


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        AdapterSettings().steps = 3  # type: ignore[misc]


def test_unknown_methods_are_refused_with_a_hint():
    with pytest.raises(InputError, match=r"did you mean .*aligned-bn"):
        method("aligned_bn")
    with pytest.raises(InputError, match="choose one of aligned, aligned-bn, cta"):
        method("")
