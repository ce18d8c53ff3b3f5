"""Losses of CLIPArTT and WATT, and TPT's views; parity is in `tests/methods`."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize
from toy_clip import clip_bundle

from acclimate.errors import InputError
from acclimate.objectives import (
    ConfidentViews,
    ConfidentViewsOptions,
    LikelyClassesOptions,
    TemplateTurns,
    TemplateTurnsOptions,
)
from acclimate.objectives.confident_views import most_certain
from acclimate.objectives.similar_prompts import similarity_losses, similarity_targets

NAMES = ("ant", "bee", "cat", "dog")


@pytest.fixture(scope="module")
def bundle():
    return clip_bundle(NAMES)


def pair(batch, seed):
    generator = torch.Generator().manual_seed(seed)
    one, other = torch.randn(2, batch, 5, generator=generator, dtype=torch.float64)
    return normalize(one, dim=1), normalize(other, dim=1)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(0, 99), st.floats(0.01, 1))
def test_targets_and_losses_are_plain_loops(batch, seed, temperature):
    images, texts = pair(batch, seed)
    targets = similarity_targets(images, texts, temperature)
    torch.testing.assert_close(targets.sum(1), torch.ones(batch, dtype=torch.float64))
    logits = 10 * images @ texts.T
    losses = similarity_losses(logits, targets)
    for i in range(batch):
        row = [images[i] @ images[j] + texts[i] @ texts[j] for j in range(batch)]
        own = (torch.stack(row) / 2 / temperature).softmax(0)
        torch.testing.assert_close(targets[i], own)
        torch.testing.assert_close(losses[i], -(own * logits[i].log_softmax(0)).sum())
    assert batch > 1 or losses.item() == 0  # a single image has nothing to learn


def test_each_template_has_its_turns(bundle):
    objective = TemplateTurns(bundle.classifier, bundle.preprocessing, templates=3, steps=2)
    head, features = bundle.classifier.head, normalize(torch.randn(5, 16), dim=1)
    for number in range(13):
        found = objective.prompts(head, features)
        texts = head.by_template[number // 2 % 3]
        best = [int((features[i] @ texts.T).argmax()) for i in range(5)]
        assert torch.equal(found, texts[best])


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 20), st.floats(0.05, 1), st.integers(0, 99))
def test_the_most_certain_views(views, share, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(2, views, 4, generator=generator)
    chosen = most_certain(logits, share)
    count = max(1, int(share * views))
    assert chosen.shape == (2, count)
    for image, mine in zip(logits, chosen):
        p = image.softmax(1)
        entropy = -(p * p.log()).sum(1)
        assert torch.equal(mine.sort().values, entropy.argsort()[:count].sort().values)


def test_the_first_view_is_the_image(bundle):
    images, index = torch.rand(3, 3, 16, 16), torch.tensor([4, 5, 9])
    objective = ConfidentViews(bundle.classifier, bundle.preprocessing, views=5)
    (views,) = objective.draw(images, 7, index)
    views = views.unflatten(0, (3, 5))
    assert torch.equal(views[:, 0], images)
    assert not torch.equal(views[:, 1], images)
    (alone,) = objective.draw(images[1:2], 7, index[1:2])
    torch.testing.assert_close(alone, views[1])


@pytest.mark.parametrize(
    "options",
    [
        ConfidentViewsOptions(views=1),
        ConfidentViewsOptions(share=0.0),
        ConfidentViewsOptions(smallest_crop=0.0),
        LikelyClassesOptions(top=0),
        LikelyClassesOptions(temperature=0.0),
        TemplateTurnsOptions(templates=0),
        TemplateTurnsOptions(steps=0),
    ],
)
def test_impossible_options(options):
    with pytest.raises(InputError) as caught:
        options.check()
    assert "\n" not in str(caught.value)
