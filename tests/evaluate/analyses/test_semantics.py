import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from acclimate.adapt import Adapter
from acclimate.data import LabelledImages, Shift, corrupt
from acclimate.errors import InputError
from acclimate.evaluate.analyses.semantics import Look, drift, features, medians, semantics
from acclimate.methods import METHODS
from acclimate.randomness import key, permutation

FOG = Shift("fog", 5)


@pytest.fixture
def data(images):
    labels = torch.randint(4, (40,), generator=torch.Generator().manual_seed(0))
    return LabelledImages(images[:40], labels, ("ant", "bee", "cat", "dog"), "tiny")


def davies_bouldin(values, labels):
    """Davies and Bouldin 1979, with Euclidean distances, in plain loops."""
    classes = sorted(set(labels.tolist()))
    centres = [values[labels == name].mean(0) for name in classes]
    spread = [
        np.mean([np.linalg.norm(value - centre) for value in values[labels == name]])
        for name, centre in zip(classes, centres)
    ]
    worst = [
        max(
            (spread[i] + spread[j]) / np.linalg.norm(centres[i] - centres[j])
            for j in range(len(classes))
            if j != i
        )
        for i in range(len(classes))
    ]
    return np.mean(worst)


def adapted(bundle, name, data, steps, batch):
    """The adapted model's own modules, run by hand batch by batch."""
    settings = replace(METHODS[name].settings, steps=steps, precision="fp32")
    seen = corrupt(data.images, "fog", 5, seed=0)
    inner, outer, labels = [], [], []
    adapter = Adapter(bundle, name, settings)
    for numbers in permutation(key(0, "stream"), len(seen)).split(batch):
        adapter(seen[numbers])
        unit = adapter.preprocessing.unit(seen[numbers])
        normalized = adapter.preprocessing.normalize(unit)
        with torch.no_grad():
            if name == "cta-paper":
                inner.append(adapter.model.encoder.encoder(normalized))
                outer.append(adapter.model.encoder(normalized))
            else:
                inner.append(adapter.model.encoder(normalized))
                outer.append(adapter.objective.projector(inner[-1]))
        labels.append(data.labels[numbers])
    return torch.cat(inner).numpy(), torch.cat(outer).numpy(), torch.cat(labels).numpy()


def encoded(bundle, images):
    unit = bundle.preprocessing.unit(images)
    with torch.no_grad():
        return bundle.twin.encoder(bundle.preprocessing.normalize(unit)).numpy()


@pytest.mark.parametrize("name", ["cta-paper", "y"])
def test_features_are_those_of_the_adapted_model(bundle_of, data, name):
    bundle = bundle_of(name)
    before, after = features(bundle, name, data, FOG, Look(2, 20))
    inner, outer, labels = adapted(bundle, name, data, 2, 20)
    np.testing.assert_allclose(after.encoder, inner, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(after.projector, outer, rtol=1e-4, atol=1e-5)
    assert (after.labels == labels).all()
    assert not np.allclose(before.encoder, after.encoder)
    assert (before.labels == after.labels).all()


def test_before_is_the_model_as_it_is_in_the_bundle(bundle, data):
    before, _ = features(bundle, "cta-paper", data, FOG, Look(1, 40))
    numbers = permutation(key(0, "stream"), 40)
    expected = encoded(bundle, corrupt(data.images, "fog", 5, seed=0)[numbers])
    np.testing.assert_allclose(before.projector, expected, rtol=1e-4, atol=1e-5)


def test_a_small_last_batch_counts_alone(bundle, data):
    """Though it learns with recent images."""
    few = replace(data, images=data.images[:17], labels=data.labels[:17])
    before, after = features(bundle, "cta-paper", few, FOG, Look(1, 16))
    numbers = permutation(key(0, "stream"), 17)
    expected = encoded(bundle, corrupt(few.images, "fog", 5, seed=0)[numbers])
    np.testing.assert_allclose(before.projector, expected, rtol=1e-4, atol=1e-5)
    assert (before.labels == few.labels[numbers].numpy()).all()
    assert after.encoder.shape == before.encoder.shape


def test_batch_statistics_from_the_start(bundle, data):
    before, after = features(bundle, "cta-paper", data, FOG, Look(1, 40, batch_statistics=True))
    twin = copy.deepcopy(bundle.twin)
    for module in twin.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.track_running_stats, module.running_mean, module.running_var = False, None, None
    numbers = permutation(key(0, "stream"), 40)
    seen = corrupt(data.images, "fog", 5, seed=0)[numbers]
    expected = encoded(replace(bundle, twin=twin), seen)
    np.testing.assert_allclose(before.projector, expected, rtol=1e-4, atol=1e-5)
    own, _ = features(bundle, "cta-paper", data, FOG, Look(1, 40))
    assert not np.allclose(own.projector, expected, rtol=1e-2)
    # The published step is so small that it hardly moves a feature.
    np.testing.assert_allclose(after.projector, before.projector, rtol=0.05, atol=0.05)


def test_rows_are_what_their_names_say(bundle, data):
    source = replace(data, images=data.images.flip(3))
    rows = list(semantics(bundle, "cta-paper", data, source, [FOG], Look(2, 20)))
    assert [(row.steps, row.part) for row in rows] == [
        (0, "encoder"), (0, "projector"), (2, "encoder"), (2, "projector"),
    ]  # fmt: skip
    before, after = features(bundle, "cta-paper", data, FOG, Look(2, 20))
    unit = bundle.preprocessing.unit(source.images)
    with torch.no_grad():
        known = bundle.classifier.encoder(bundle.preprocessing.normalize(unit))
    for row, found in zip(rows, [before, before, after, after]):
        values = getattr(found, row.part)
        assert row.davies_bouldin == pytest.approx(davies_bouldin(values, found.labels), rel=1e-4)
        if row.part == "encoder":
            assert np.isnan(row.drift)
            continue
        distance = 0.0
        for name in range(4):
            here = np.median(values[found.labels == name], axis=0)
            there = known[source.labels == name].numpy()
            distance += np.sqrt(((here - np.median(there, axis=0)) ** 2).sum())
        assert row.drift == pytest.approx(distance, rel=1e-4)


def test_nothing_drifts_from_itself():
    values, labels = np.random.default_rng(0).normal(size=(30, 5)), np.arange(30) % 3
    known = medians(values, labels)
    assert drift(known, known) == 0
    moved = medians(values + np.array([3.0, 4.0, 0, 0, 0]), labels)
    assert drift(moved, known) == pytest.approx(3 * 5)
    assert drift({7: known[0]}, known) == 0


@pytest.mark.parametrize("name", ["tent", "source"])
def test_methods_that_do_not_fit_are_refused(bundle, data, name):
    with pytest.raises(InputError, match="each batch anew"):
        features(bundle, name, data, FOG, Look(2))


def test_a_method_without_a_projector_is_refused(bundle_of, data):
    with pytest.raises(InputError, match="no projector"):
        features(bundle_of("nc-ttt"), "nc-ttt", data, FOG, Look(1, 20))
