"""ROID, CMF and SHOT-IM: published settings, and whole batches against bare loops."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cosine_similarity

from acclimate.adapt import Adapter
from acclimate.methods import METHODS, Method, changed
from acclimate.objectives import InformationOptions, LikelihoodRatio, LikelihoodRatioOptions
from acclimate.parts.aftermath import PullToSource
from acclimate.parts.answer import After, Before
from acclimate.parts.correction import Prior
from acclimate.parts.diverse import CertainAndDiverse
from acclimate.parts.kalman import KalmanFilter
from acclimate.parts.memory import Recent
from acclimate.parts.normalisation import BatchStatistics, RunningStatistics
from acclimate.parts.reset import Never
from acclimate.parts.update import SGD, Adam
from acclimate.randomness import key

ROWS = ("roid", "cmf", "shot-im")
NORMS = (nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm)
CPU = {"device": "cpu", "precision": "fp32"}


@pytest.fixture(params=["batch", "group", "layer"])
def any_norm(request, bundle, group_norm_bundle, bundle_of):
    made = {"batch": bundle, "group": group_norm_bundle, "layer": None}[request.param]
    return made or bundle_of("ttt-mae")  # a vision transformer


def test_the_published_settings():
    roid, cmf, shot = (METHODS[name].settings for name in ROWS)
    assert (roid.steps, roid.objective) == (1, LikelihoodRatioOptions(0.99, 1.0))
    assert roid.selection == CertainAndDiverse(temperature=1 / 3, momentum=0.9)
    assert roid.update == Adam(1e-3, parameters="norm")
    assert roid.aftermath == (PullToSource(0.01),)
    assert (roid.answer, roid.correction, roid.reset) == (Before(), Prior(), Never())
    assert roid.normalisation == BatchStatistics()
    assert cmf == changed(roid, {"aftermath": (KalmanFilter(0.99, 0.005, 0.89, 0.99),)})
    assert (shot.objective, shot.update) == (InformationOptions(), SGD(1e-3, momentum=0.9))
    assert (shot.normalisation, shot.reset) == (RunningStatistics(), Never())


def filtered(name, moving, hidden, source, variance):
    """The weights after a step: ROID's way back to the source, or CMF's filter."""
    if name == "roid":
        for p, s in zip(moving, source):
            p.copy_(0.99 * p + 0.01 * s)
        return variance
    q = 0.005 * sum(p.numel() for p in moving) / 38_400
    variance = 0.99**2 * variance + q
    beta = max(0.89, (1 - q) / (variance + 1 - q))
    beta = beta if beta < 0.9999 else 1.0
    for p, h, s in zip(moving, hidden, source):
        h.copy_(0.99 * h + 0.01 * s)
        h.copy_(beta * h + (1 - beta) * p)
        p.copy_(0.99 * p + 0.01 * h)
    return beta * variance


def bare(name, bundle, batches, rate):
    """The release's loop, with rows picked by masks; gives answers and weights."""
    model = copy.deepcopy(bundle.classifier).eval()
    norms = [m for m in model.encoder.modules() if isinstance(m, NORMS)]
    for norm in norms:
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean = norm.running_var = None
    moving = [p.requires_grad_() for m in norms for p in m.parameters(recurse=False)]
    source = [p.detach().clone() for p in moving]
    hidden = [s.clone() for s in source]
    optimizer = torch.optim.Adam(moving, rate)
    mean, variance, seen, answers = torch.full((4,), 0.25), 0.0, 0, []
    for images in batches:
        unit, index = images.float() / 255, torch.arange(seen, seen + len(images))
        views = LikelihoodRatio(None, None).draw(unit, key(0, "adapt", 0), index)[0]
        plain, other = (model(v) for v in bundle.preprocessing.normalize(views).chunk(2))
        p, q = plain.softmax(1), other.softmax(1)
        diversity = 1 - cosine_similarity(mean[None], p.detach(), dim=1)
        diversity = (diversity - diversity.min()) / (diversity.max() - diversity.min())
        certainty = (p * p.log()).sum(1).detach()
        certainty = (certainty - certainty.min()) / (certainty.max() - certainty.min())
        kept = diversity >= diversity.mean()
        weights = (3 * diversity * certainty).exp()[kept]
        mean = 0.9 * mean + 0.1 * p.detach().mean(0)
        clipped = p.clamp(max=0.99)
        ratio = -(clipped * (clipped / (1 - clipped) + 1e-5).log()).sum(1)[kept]
        both = -0.5 * (p * q.log() + q * p.log()).sum(1)[kept]
        optimizer.zero_grad()
        ((weights * (ratio + both)).sum() / len(images)).backward()
        optimizer.step()
        with torch.no_grad():
            variance = filtered(name, moving, hidden, source, variance)
            prior = p.mean(0)
            smooth = max(1 / len(p), 1 / 4) / prior.max()
            corrected = p * (prior + smooth) / (1 + 4 * smooth)
            answers.append(corrected / corrected.sum(1, keepdim=True))
        seen += len(images)
    return answers, moving


@pytest.mark.parametrize("name", ["roid", "cmf"])
def test_batches_are_learned_from_as_by_a_bare_loop(any_norm, images, name):
    batches = images[:60].split(20)
    adapter = Adapter(any_norm, name, **CPU, update={"learning_rate": 1e-2})
    expected, weights = bare(name, any_norm, batches, 1e-2)
    for batch, answer in zip(batches, expected):
        found = adapter(batch).softmax(1)
        torch.testing.assert_close(found, answer, rtol=2e-3, atol=1e-4)
        assert [step.reason for step in adapter.steps] == [""]
    found = torch.cat([p.flatten() for p in adapter._learner.moving.values()])
    start = Adapter(any_norm, name, **CPU)._learner.moving.values()
    start = torch.cat([p.flatten() for p in start])
    expected = torch.cat([p.detach().flatten() for p in weights])
    assert (found - start).norm() > 1e-2
    assert (found - expected).norm() < 0.05 * (found - start).norm()


def test_shot_im_is_a_bare_loop(bundle, images):
    adapter = Adapter(bundle, "shot-im", **CPU, update={"learning_rate": 1e-2})
    model = copy.deepcopy(bundle.classifier)
    moving = [p.requires_grad_() for p in model.encoder.parameters()]
    optimizer = torch.optim.SGD(moving, 1e-2, momentum=0.9)
    for batch in images[:60].split(20):
        x = bundle.preprocessing.normalize(batch.float() / 255)
        model.train()
        p = model(x).softmax(1)
        loss = -(p * p.log()).sum(1).mean() + (p.mean(0) * p.mean(0).log()).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.eval()
        with torch.no_grad():
            torch.testing.assert_close(adapter(batch), model(x), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(adapter.steps[0].loss, loss.detach(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ROWS)
def test_one_image_and_identical_images_are_answered_and_nothing_is_nan(any_norm, images, name):
    """The releases of ROID and CMF divide 0 by 0 there."""
    adapter = Adapter(any_norm, name, **CPU)
    for batch in (images[:1], images[:1].expand(6, -1, -1, -1), images[:12]):
        assert adapter(batch).isfinite().all()
    assert adapter.refused == 0
    assert all(tensor.isfinite().all() for tensor in adapter.snapshot().tensors.values())


OURS = {
    "steps": 1,
    "objective": LikelihoodRatioOptions(consistency=0.0),
    "memory": Recent(8),
    "selection": CertainAndDiverse(),
    "update": Adam(3e-3, parameters="norm"),
    "aftermath": (PullToSource(0.001),),
    "normalisation": BatchStatistics(prior=16.0),
    "answer": After(flip=True),
    "reset": Never(),
}


@pytest.mark.parametrize("correction", ["none", "prior", "laplacian", "supports"])
@pytest.mark.parametrize(
    "change", [{}, {"answer": Before()}, {"aftermath": (KalmanFilter(), PullToSource(0.001))}]
)
def test_the_parts_compose_on_the_twin(monkeypatch, bundle, images, correction, change):
    """The ingredients of a default: any of them together, on batches of any size."""
    parts = OURS | {"correction": correction} | change
    settings = changed(METHODS["aligned-bn"].settings, parts)
    monkeypatch.setitem(METHODS, "new", Method("", "", "cta", settings, "twin"))
    adapter = Adapter(bundle, "new", **CPU)
    adapter(images[:20])
    assert all(step.taken for step in adapter.steps)
    snapshot = adapter.snapshot()
    sizes = [1, 5, 20]
    future = [adapter(batch) for batch in images[20:46].split(sizes)]
    assert [len(logits) for logits in future] == sizes
    assert all(logits.isfinite().all() for logits in future) and adapter.refused == 0
    adapter.restore(snapshot)
    for batch, logits in zip(images[20:46].split(sizes), future):
        assert torch.equal(adapter(batch), logits)
