"""MEMO as an adapter: against a plain loop over images, and what its paper claims of it."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import batch_norm

from acclimate.adapt import Adapter
from acclimate.backbones.batch_norm import batch_norms
from acclimate.errors import InputError
from acclimate.methods import METHODS
from acclimate.preprocessing import Preprocessing
from acclimate.randomness import key
from acclimate.source.wrapped import wrap
from acclimate.views import augmix_views

EXACT = {"device": "cpu", "precision": "fp32"}


def blended(norm):
    """A layer's forward pass with 16/17 of the source's statistics, as MEMO's release has it."""

    def forward(x):
        values = x.detach().transpose(0, 1).flatten(1)
        mean = (16 * norm.running_mean + values.mean(1)) / 17
        variance = (16 * norm.running_var + values.var(1)) / 17
        return batch_norm(x, mean, variance, norm.weight, norm.bias, eps=norm.eps)

    return forward


def by_a_plain_loop(bundle, images, rate, views):
    """One image at a time: a copy of the classifier, its views, one step of SGD, the answer."""
    preprocessing, answers = bundle.preprocessing, []
    for number, image in enumerate(images.float() / 255):
        model = copy.deepcopy(bundle.classifier).requires_grad_()
        for norm in batch_norms(model):
            norm.forward = blended(norm)
        optimizer = torch.optim.SGD(model.parameters(), rate)
        index = torch.tensor([number])
        drawn = augmix_views(image[None], key=key(0, "adapt", 0), index=index, count=views)
        mean = model(preprocessing.normalize(drawn)).softmax(1).mean(0)
        (-(mean * mean.log()).sum()).backward()
        optimizer.step()
        with torch.no_grad():
            answers.append(model(preprocessing.normalize(image[None])))
    return torch.cat(answers)


@pytest.mark.parametrize("norm", ["bn", "gn", "ln"])
def test_memo_is_a_plain_loop(bundle, group_norm_bundle, bundle_of, images, norm):
    given = {"bn": bundle, "gn": group_norm_bundle, "ln": bundle_of("ttt-mae")}[norm]
    changes = {"update": {"learning_rate": 0.05}, "objective": {"views": 8}}
    adapter = Adapter(given, "memo", **changes, **EXACT)
    found = adapter(images[:5])
    frozen = Adapter(given, "memo", steps=0, **EXACT)(images[:5])
    assert (found - frozen).abs().max() > 1e-3
    expected = by_a_plain_loop(given, images[:5], 0.05, 8)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_it_moves_every_parameter_and_forgets(bundle, images):
    adapter = Adapter(bundle, "memo", **EXACT)
    learner = adapter._learner
    parameters = dict(learner.model.named_parameters())
    assert learner.moving.keys() == {f"model.{name}" for name in parameters}
    before = adapter.snapshot().tensors
    adapter(images[:2])
    assert any(not torch.equal(before[name], learner.state.tensors[name]) for name in before)
    learner.state.forget()
    for name in learner.moving:
        assert torch.equal(before[name], learner.state.tensors[name])


def test_an_answer_depends_on_no_other_image(bundle, images):
    """Nor do batch norm's statistics: without steps, too."""
    for steps in (0, 1):
        adapter = Adapter(bundle, "memo", steps=steps, objective={"views": 4}, **EXACT)
        together = adapter(images[:3])[:1]
        adapter.reset()
        torch.testing.assert_close(together, adapter(images[:1]), atol=1e-5, rtol=1e-5)


def test_statistics_of_one_pixel_are_the_source_s(images):
    """At 32 pixels a ResNet-18's last maps have a single one."""
    torch.manual_seed(0)
    network = nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(4), nn.Flatten()),
        nn.Linear(4, 3),
    ).eval()
    bundle = wrap(network, preprocessing=Preprocessing(16), classes=list("abc"))
    adapter = Adapter(bundle, "memo", **EXACT)
    assert adapter(images[:2]).isfinite().all() and adapter.refused == 0
    assert [bool(step.taken.all()) for step in adapter.steps] == [True]


def test_the_published_settings():
    settings = METHODS["memo"].settings
    assert (settings.objective.views, settings.steps) == (32, 1)
    assert (settings.update.learning_rate, settings.update.momentum) == (0.005, 0.0)
    assert settings.alone


@pytest.mark.parametrize("views", [0, 1001])
def test_views_that_cannot_be_drawn_are_refused(bundle, views):
    with pytest.raises(InputError, match=f"views must be 1 to 1000, not {views}"):
        Adapter(bundle, "memo", objective={"views": views})
