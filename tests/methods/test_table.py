import dataclasses

import pytest

from acclimate.backbones import FORMS
from acclimate.errors import InputError
from acclimate.methods import METHODS, RECIPES, AdapterSettings, check_settings, method
from acclimate.objectives import OBJECTIVES, LikelihoodRatio
from acclimate.parts.normalisation import RunningStatistics
from acclimate.parts.reset import EachBatch
from acclimate.parts.update import Adam
from acclimate.source.stages import STAGES


def test_the_names_that_results_use():
    assert {"source", "ptbn", "aligned", "aligned-bn", "cta", "cta-paper"} <= METHODS.keys()


def test_cta_paper_has_the_published_settings():
    settings = METHODS["cta-paper"].settings
    assert (settings.steps, settings.objective.temperature) == (20, 0.01)
    assert settings.update == Adam(1e-6, parameters="all")
    assert (settings.normalisation, settings.reset) == (RunningStatistics(), EachBatch())


@pytest.mark.parametrize("name", METHODS)
def test_rows_are_sound(name):
    row = METHODS[name]
    recipe = RECIPES[row.recipe]
    check_settings(row.settings)
    assert row.summary
    assert row.citation
    # A twin is made by its stage, and steps need something to minimise.
    assert (row.model == "twin") == ("align" in recipe.stages)
    assert (row.settings.steps > 0) == (row.objective is not None)
    # What a method minimises was trained for it, or needs no training.
    if row.objective not in (None, LikelihoodRatio) and row.recipe != "supervised":
        assert row.objective is recipe.objective
    assert method(name) is row


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_sound(name):
    recipe = RECIPES[name]
    assert set(recipe.stages) <= set(STAGES)
    assert recipe.form in FORMS
    assert any(row.recipe == name for row in METHODS.values())
    assert recipe.objective is None or recipe.objective in OBJECTIVES.values()


def test_our_default_takes_a_step():
    assert METHODS["cta"].settings.steps >= 1
    assert METHODS["cta"].settings.update.learning_rate > 0


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        AdapterSettings().steps = 3  # type: ignore[misc]


def test_unknown_methods_are_refused_with_a_hint():
    with pytest.raises(InputError, match=r"did you mean .*aligned-bn"):
        method("aligned_bn")
    with pytest.raises(InputError, match="choose one of acclimate, aligned, aligned-bn, bn-adapt"):
        method("")
