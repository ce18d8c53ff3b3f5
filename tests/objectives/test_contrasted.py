"""RMT's loss against the release's (`golden/online.npz`) and a plain loop."""

import pytest
import torch
from golden_values import assert_golden, golden
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cosine_similarity

from acclimate.adapt import Adapter
from acclimate.backbones import Classifier
from acclimate.errors import InputError
from acclimate.objectives import ContrastedStudent, group_contrast


class Given(nn.Module):
    """An encoder whose features are given, those of images first and those of views then."""

    def __init__(self, *features):
        super().__init__()
        self.features = [*features]

    def forward(self, images):
        return self.features.pop(0)


def objective_of(means, images=None, **options):
    """An objective for the toy head's ten classes."""
    model = Classifier(nn.Identity(), nn.Linear(means.shape[1], 10).double())
    images = torch.ones(len(means)) if images is None else images
    return ContrastedStudent(
        model, None, prototypes={"mean": means, "images": images, "variance": means}, **options
    )


@pytest.mark.parametrize("form", ["identity", "mlp"])
def test_rmt_is_the_release(form):
    """Loss, gradients and answer, without and with a projector."""
    objective = objective_of(golden("rmt_source_prototypes"), projection=6 * (form == "mlp"))
    if form == "mlp":
        for layer, number in ((objective.projector[0], 1), (objective.projector[2], 2)):
            layer.weight.data = golden(f"rmt_projector_weight_{number}")
            layer.bias.data = golden(f"rmt_projector_bias_{number}")
    features, others = (golden(f"rmt_{n}features").requires_grad_() for n in ("", "augmented_"))
    head = nn.Linear(8, 10, bias=False).double()
    head.weight.data = golden("rmt_head_weight")
    objective.teacher = lambda model, images: golden("rmt_teacher_logits")
    assert_golden(objective.nearest(features), "rmt_nearest_prototype")
    assert_golden(objective.contrasts(features, others).mean(), f"rmt_contrastive_{form}")
    outcome = objective(Classifier(Given(features, others), head), torch.zeros(24, 3, 2, 2))
    assert outcome.losses.shape == (12,)
    assert_golden(outcome.losses.mean(), f"rmt_loss_{form}")
    assert_golden(outcome.logits, "rmt_prediction")
    outcome.losses.mean().backward()
    assert_golden(features.grad, f"rmt_loss_{form}_grad_features")
    assert_golden(others.grad, f"rmt_loss_{form}_grad_augmented_features")
    objective.contrast = 0.0
    outcome = objective(Classifier(Given(features, others), head), torch.zeros(24, 3, 2, 2))
    assert_golden(outcome.losses.mean(), "rmt_self_training_loss")


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(2, 4), st.floats(0.05, 2))
def test_the_contrast_is_a_plain_loop_s(seed, batch, count, temperature):
    generator = torch.Generator().manual_seed(seed)
    groups = torch.randn(count, batch, 3, generator=generator).double()
    found = group_contrast([*groups], temperature=temperature)
    every = [(g, i) for g in range(count) for i in range(batch)]
    for image in range(batch):
        losses = []
        for g in range(count):
            anchor = groups[g, image]
            weights = {
                v: (cosine_similarity(anchor, groups[v], dim=0) / temperature).exp()
                for v in every
                if v != (g, image)
            }
            for other in range(count):
                if other != g:
                    losses.append(-(weights[other, image] / sum(weights.values())).log())
        torch.testing.assert_close(found[image], sum(losses) / len(losses))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 6))
def test_the_contrast_knows_no_order(seed, batch):
    generator = torch.Generator().manual_seed(seed)
    groups = torch.randn(3, batch, 4, generator=generator).double()
    found = group_contrast([*groups], temperature=0.1)
    order = torch.randperm(batch, generator=generator)
    torch.testing.assert_close(group_contrast([*groups[:, order]], temperature=0.1), found[order])
    scaled = group_contrast([groups[2] * 3, groups[0], groups[1] / 2], temperature=0.1)
    torch.testing.assert_close(scaled, found)  # lengths do not count
    assert (group_contrast([groups[0]] * 3, temperature=0.1) > 0).all()


def test_a_class_without_source_images_is_nobody_s_nearest():
    means = torch.eye(4).double()[:, :3]
    objective = objective_of(means, images=torch.tensor([3.0, 0.0, 1.0, 2.0]))
    features = torch.eye(3).double()
    assert objective.nearest(features)[0] == 0 and objective.nearest(features)[2] == 2
    assert (objective.nearest(torch.randn(50, 3).double()) != 1).all()


def test_the_projector_is_the_seed_s_alone():
    means = torch.rand(4, 3)
    first, again, other = (objective_of(means, seed=seed).projector for seed in (0, 0, 1))
    assert torch.equal(first[0].weight, again[0].weight)
    assert not torch.equal(first[0].weight, other[0].weight)
    assert first[0].weight.abs().max() <= 3**-0.5 and first[2].bias.abs().max() <= 128**-0.5


def test_the_means_are_the_source_s_own(bundle_of, images):
    """The objective of an adapter has those of the bundle, and its projector moves."""
    bundle = bundle_of("rmt")
    adapter = Adapter(bundle, "rmt", device="cpu", precision="fp32")
    assert torch.equal(adapter.objective.means, bundle.statistics["classifier.prototypes.mean"])
    before = {name: p.clone() for name, p in adapter._learner.moving.items()}
    assert {n.split(".")[0] for n in before} == {"model", "objective"}
    assert any(name.startswith("model.head.") for name in before)
    adapter(images[:16])
    assert all(not torch.equal(p, before[n]) for n, p in adapter._learner.moving.items())
    adapter.reset()
    assert all(torch.equal(p, before[n]) for n, p in adapter._learner.moving.items())


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"aftermath": ()}, "add Teacher to aftermath"),
        ({"objective": {"contrast": -1.0}}, "contrast must be a finite number"),
        ({"objective": {"temperature": 0.0}}, "temperature must be a finite number above 0"),
        ({"objective": {"projection": -1}}, "projection must be 0 to 10000"),
    ],
)
def test_what_cannot_be_meant_is_refused(bundle_of, changes, match):
    with pytest.raises(InputError, match=match):
        Adapter(bundle_of("rmt"), "rmt", device="cpu", **changes)
