"""Every method from labelled source images to adapted answers: what it minimises, it lowers."""

import functools
from dataclasses import replace

import pytest
import torch
from fewer import few_views
from loose import loose
from rated import rated
from soon import searches, soon
from toy_clip import clip_bundle
from trials import few_trials

from acclimate.adapt import Adapter
from acclimate.adapt.loop import adapt
from acclimate.data import corrupt, load
from acclimate.methods import METHODS, RECIPES
from acclimate.methods.words import needs_transformer
from acclimate.objectives import as_outcome
from acclimate.randomness import key
from acclimate.runtime.precision import autocast
from acclimate.source.loop import Run, Training
from acclimate.source.presets import STAGES, SourceSettings
from acclimate.source.train import train

STEPPING = [name for name, row in METHODS.items() if row.settings.steps]
FASTER = {"ttt": 10, "ttt-online": 10, "ttt-mae": 30, "clust3": 30, "nc-ttt": 30}
FASTER |= {"clipartt": 30, "watt-s": 30, "watt-p": 300}
FASTER |= {"sar": 40, "deyo": 40, "tipi": 100, "cta-paper": 100, "cta-c": 100, "y": 100}
"""By how much more than the published rate: a network of a few seconds' training needs longer steps
for the same effect."""
LONGEST = ("rec-ttt", "cta-rotation")
"""A third of the time; the tests of their objectives train these in less."""
RATES = {"supervised": 0.1, "joint": 0.05}
SETTINGS = SourceSettings(
    **{
        stage: Training(5, 32, "sgd", learning_rate=RATES[stage], warm_up=1)
        if stage in RATES
        else Training(3, 32, learning_rate=3e-3, warm_up=0.5)
        for stage in STAGES
    },
    contrastive_temperature=0.5,
    start="copy",
)


@pytest.fixture(scope="module")
def trained(small_options):
    """A method's bundle, after a few seconds of training on 256 pictures."""
    whole = load("fashion-mnist-mini", "train")
    data = replace(whole, images=whole.images[:256].clone(), labels=whole.labels[:256])

    def trained(name):
        if METHODS[name].zero_shot:  # what a text says is nothing that seconds could teach
            return clip_bundle(data.classes, data.images.shape[-1])
        return made(METHODS[name].recipe, needs_transformer(METHODS[name]))

    @functools.cache
    @few_trials()
    def made(recipe, transformer):
        method = next(name for name, row in METHODS.items() if row.recipe == recipe)
        model = "acclimate:vit2-w32-p4" if transformer else "acclimate:resnet8-w8"
        options = small_options(recipe) if RECIPES[recipe].objective else None
        run = Run(device="cpu", precision="fp32")
        return train(method, model, data, SETTINGS, run, options=options)

    return trained


@pytest.fixture(scope="module")
def target():
    """48 test pictures, blurred, and 48 with noise."""
    images = load("fashion-mnist-mini", "test").images[:48]
    shifts = ("defocus_blur", "gaussian_noise")
    return {shift: corrupt(images, shift, 5, seed=0) for shift in shifts}


@torch.no_grad()
def objective_of(learner, images, index):
    """The mean loss over draws that no step has seen, in the mode in which steps compute it."""
    unit, losses = learner.preprocessing.unit(images), []
    state = [tensor.clone() for tensor in (*learner.model.buffers(), *learner.objective.buffers())]
    for number in range(4):
        drawn = learner.objective.draw(unit, key(99, number), index)
        views = learner.preprocessing.normalize(drawn[0])
        with learner.norms.learning(), autocast(learner.device, "fp32"):
            outcome = as_outcome(learner.objective(learner.model, views, *drawn[1:]))
            losses.append(outcome.losses.mean().item())
        now = (*learner.model.buffers(), *learner.objective.buffers())
        for tensor, value in zip(now, state):  # running averages and queues are not to move
            tensor.copy_(value)
    return sum(losses) / len(losses)


@pytest.mark.parametrize(
    "shift", ["gaussian_noise", pytest.param("defocus_blur", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] if name in LONGEST else []) for name in STEPPING],
)
def test_the_steps_lower_what_they_minimise(trained, target, name, shift):
    row = METHODS[name]
    alone = row.settings.one_by_one
    images = target[shift][: 6 if alone else 48]
    bundle = trained(name)
    common = {"device": "cpu", "precision": "fp32"}
    # What is to be seen is a descent: as many steps as the longest methods take, or a round.
    changes = {"steps": 16 if name.startswith("watt") else 20, "reset": "batch"}
    published = getattr(row.settings.update, "learning_rate", 0)
    changes |= rated(name, published * FASTER.get(name, 1))
    changes |= loose(name) | soon(name, 48) | few_views(name)
    if searches(name):  # what three prompts do to such a network is small
        changes |= {"objective.weight": 20.0}
    adapter = Adapter(bundle, name, **changes, **common)
    learner = adapter._learner
    groups = [images[i : i + 1] for i in range(len(images))] if alone else [images]
    before = after = 0.0
    for group in groups:
        index = torch.arange(len(group))
        learner.state.forget()
        before += objective_of(learner, group, index)
        with torch.no_grad():
            logits, _ = adapt(learner, learner.preprocessing.unit(group), index)
            answers = logits[-1]
        after += objective_of(learner, group, index)
        assert answers.isfinite().all()
    assert adapter.refused == 0
    assert after < before - 1e-3 * abs(before), (before, after)


def frozen_of(bundle):
    return Adapter(bundle, "source", device="cpu", precision="fp32")


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if n == "watt-p" else n for n in METHODS],  # 800 steps
)
def test_answers_with_the_published_settings(trained, target, name):
    row = METHODS[name]
    if METHODS[name].oracle:
        pytest.skip("it does not adapt, and is trained for one target")
    images = target["gaussian_noise"][: 4 if row.settings.one_by_one else 48]
    bundle = trained(name)
    adapter = Adapter(bundle, name, device="cpu", precision="fp32", **soon(name, 24))
    answers, frozen = adapter(images), frozen_of(bundle)(images)
    assert answers.isfinite().all() and adapter.refused == 0
    assert answers.shape == (len(images), 10)
    assert torch.equal(answers, frozen) == (name in ("source", "joint"))
