"""Each stage trains its parts and leaves the others alone, to the bit."""

import copy
import functools

import pytest
import torch

from acclimate.methods import RECIPES
from acclimate.source import train as module
from acclimate.source.loop import Training
from acclimate.source.stages import STAGES

MOVES = {
    "supervised": {"classifier.encoder", "classifier.head"},
    "joint": {"classifier.encoder", "classifier.head", "objective"},
    "pretrain": {"classifier.encoder", "objective"},
    "probe": {"classifier.head"},
    "parts": {"objective"},
    "contrastive": {"twin.encoder", "objective"},
    "align": {"twin.encoder", "twin.head"},
}
"""Of each stage; the head of a twin gets one factor when it is aligned."""


def parts_of(work):
    found = {
        "classifier.encoder": work.classifier.encoder,
        "classifier.head": work.classifier.head,
    }
    if work.twin is not None:
        found |= {"twin.encoder": work.twin.encoder, "twin.head": work.twin.head}
    if "objective" in vars(work):  # made when a stage first asks for it
        found["objective"] = work.objective
    return found


@pytest.fixture
def watched(monkeypatch):
    """Of each stage that is run: its name, and the states of all parts before and after."""
    seen = []

    def watching(name, stage):
        def run(work):
            before = {part: copy.deepcopy(m.state_dict()) for part, m in parts_of(work).items()}
            stage(work)
            after = {part: copy.deepcopy(m.state_dict()) for part, m in parts_of(work).items()}
            modes = [part.training for m in parts_of(work).values() for part in m.modules()]
            seen.append((name, before, after, any(modes)))

        return run

    watching_all = {name: watching(name, stage) for name, stage in STAGES.items()}
    monkeypatch.setattr(module, "STAGES", watching_all)
    return seen


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_stage_trains_its_parts_alone(make, watched, recipe):
    make(recipe)
    assert [name for name, *_ in watched] == list(RECIPES[recipe].stages)
    for name, before, after, training in watched:
        assert not training
        for part in before:
            changed = {
                key
                for key, value in before[part].items()
                if not torch.equal(value, after[part][key])
            }
            if part not in MOVES[name]:
                assert not changed, (name, part, changed)
            elif before[part]:
                assert changed, (name, part)
            if (name, part) == ("pretrain", "classifier.encoder"):
                assert weights(after[part]) <= changed


def weights(state):
    return {name for name, value in state.items() if value.is_floating_point() and value.ndim > 1}


def test_the_twin_begins_as_a_copy_of_the_trained_classifier(make):
    bundle = make("cta", supervised=Training(1, 32), contrastive=Training(0), align=Training(0))
    ours, theirs = bundle.classifier.encoder, bundle.twin.encoder.get_submodule("encoder")
    assert all(map(torch.equal, ours.parameters(), theirs.parameters()))


@pytest.fixture(scope="module")
def made(make):
    """A recipe's bundle; not to be changed."""
    return functools.cache(make)


@pytest.mark.parametrize("recipe", ["tttpp", "rec-ttt", "cta-c", "ttt-mae"])
def test_batch_norm_knows_the_images_themselves_in_the_end(made, data, recipe):
    """Running statistics are those of plain source images, not of views; ViTs have none."""
    bundle = made(recipe)
    norms = [m for m in bundle.classifier.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert bool(norms) == (recipe != "ttt-mae")
    first = norms[0] if norms else None
    if first is None:
        return
    kept = []
    hook = first.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0]))
    with torch.no_grad():
        bundle.classifier(bundle.preprocessing(data.images))
    hook.remove()
    torch.testing.assert_close(first.running_mean, kept[0].mean((0, 2, 3)), rtol=1e-3, atol=1e-4)


def test_observed_moments_are_the_source_features(made, data):
    bundle = made("tttpp")
    with torch.no_grad():
        features = bundle.classifier.encoder(bundle.preprocessing(data.images))
    moments = bundle.objective.features
    torch.testing.assert_close(moments.mean, features.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(moments.covariance, torch.cov(features.T), rtol=1e-3, atol=1e-5)
    assert not moments.filled.any()
