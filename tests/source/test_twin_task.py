"""A twin whose task taps an inner layer: its names are those of what adapts."""

import pytest
import torch

import acclimate
from acclimate.data import LabelledImages
from acclimate.methods import METHODS, RECIPES, AdapterSettings, Method, Recipe
from acclimate.objectives import MaskedReconstruction, MaskedReconstructionOptions
from acclimate.parts.update import Adam
from acclimate.source.presets import PRESETS, with_epochs

pytestmark = pytest.mark.usefixtures("few_trials")


@pytest.fixture(scope="module")
def data(images):
    return LabelledImages(images[:32], torch.arange(32) % 2, ("ant", "bee"), "random")


@pytest.mark.parametrize("tap", [2, "encoder.stages.1"])
def test_the_tap_is_a_layer_of_the_twin(data, tap, tmp_path):
    options = {"tap": tap, "copies": 2}
    settings = with_epochs(PRESETS["small"], 1)
    bundle = acclimate.train(
        "cta-rotation", "acclimate:resnet8-w8", data, settings, options=options
    )
    assert bundle.objective.tap == "encoder.stages.1"
    bundle.save(tmp_path / "bundle")
    loaded = acclimate.Adapter(acclimate.Bundle.load(tmp_path / "bundle"), device="cpu")
    adapter = acclimate.Adapter(bundle, device="cpu")
    assert torch.equal(adapter(data.images), loaded(data.images))
    before = dict(bundle.twin.encoder.named_parameters())
    moved = {
        name
        for name, parameter in adapter.model.encoder.named_parameters()
        if not torch.equal(parameter, before[name])
    }
    assert moved
    assert all(
        name.startswith(("encoder.stem", "encoder.stages.0", "encoder.stages.1")) for name in moved
    )


def test_a_twin_paints_patches(data, monkeypatch):
    """Any task will do: of masked reconstruction there is no row, so one is added here."""
    options = {"masks": 2, "decoder_width": 32, "decoder_depth": 1}
    stages = ("supervised", "contrastive", "align", "parts")
    recipe = Recipe(stages, MaskedReconstruction, options, transformer=True)
    learning = AdapterSettings(
        steps=1, objective=MaskedReconstructionOptions(), update=Adam(learning_rate=1e-3)
    )
    row = Method("", "", "cta-mae", learning, model="twin")
    monkeypatch.setitem(RECIPES, "cta-mae", recipe)
    monkeypatch.setitem(METHODS, "cta-mae", row)
    settings = with_epochs(PRESETS["small"], 1)
    bundle = acclimate.train("cta-mae", "acclimate:vit2-w32-p4", data, settings)
    adapter = acclimate.Adapter(bundle, device="cpu")
    answers = adapter.trace(data.images)
    assert answers.isfinite().all()
    assert not torch.equal(answers[0], answers[1])
    projector = bundle.twin.encoder.get_submodule("projector").weight
    assert torch.equal(adapter.model.encoder.get_submodule("projector").weight, projector)
