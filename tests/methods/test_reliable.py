"""ETA, EATA, SAR and DeYO against what their releases compute (`golden/online.npz`).

Inputs and tolerances are those of the releases. Where ours follows the equation, both are compared.
"""

from dataclasses import replace

import pytest
import torch
from loose import loose
from torch import nn
from torch.nn.functional import cosine_similarity
from toy import adapter_of, bundle_of, carried, close, golden, learn, spied, toy

import acclimate
from acclimate.adapt import Adapter
from acclimate.backbones import build
from acclimate.methods import METHODS, changed
from acclimate.methods.reliable import RELIABLE
from acclimate.objectives import Destroyed, Outcome, shuffled_patches
from acclimate.objectives.destroyed import probability_drops
from acclimate.objectives.entropy import entropies
from acclimate.parts.penalty import FisherPenalty, Unpenalised
from acclimate.parts.reset import AtLowLoss
from acclimate.parts.selection import weighted_mean
from acclimate.parts.update import SGD
from acclimate.source.loop import Run

NORM = ("weight", "bias")
FISHER = {f"classifier.fisher.encoder.1.{n}": golden(f"eata_fisher_{n}") for n in NORM}
EATA = changed(
    METHODS["eata"].settings,
    {
        "update": SGD(0.01, momentum=0.9, parameters="norm"),
        "selection.similarity": float(golden("eata_settings")[1]),
        "selection.mean_of_kept": True,
        "penalty.weight": 2000.0,
    },
)
SAR = changed(METHODS["sar"].settings, {"update.learning_rate": 0.01, "normalisation": "source"})
DEYO = changed(METHODS["deyo"].settings, {"update.learning_rate": 0.01, "selection.drop": 0.2})


def norm_of(adapter):
    return adapter.model.encoder[1]


def test_eata_is_the_release(monkeypatch):
    adapter = adapter_of(monkeypatch, toy(nn.BatchNorm1d(6), FISHER), EATA)
    running = adapter._learner.selection
    assert running.mean.dtype == torch.float64
    weights, reliable, selected = spied(adapter), 0, 0
    for t, x in enumerate(golden("eata_x"), 1):
        before = running.mean.clone()
        logits, step = learn(adapter, carried(x))
        close(logits, f"eata_logits_{t}", rtol=1e-6, atol=1e-6)  # answers are float32
        close(weights[-1], f"eata_weights_{t}")
        kept = golden(f"eata_selected_mask_{t}")
        assert torch.equal(weights[-1] != 0, kept)
        assert int(step.images) == int(kept.sum())
        close(step.loss, f"eata_loss_{t}")
        exact = golden(f"eata_logits_{t}")
        close(entropies(exact), f"eata_entropy_{t}")
        certain = entropies(exact) < running.margin
        assert torch.equal(certain, golden(f"eata_reliable_mask_{t}"))
        reliable, selected = reliable + int(certain.sum()), selected + int(step.images)
        if t > 1:
            cosine = cosine_similarity(before, exact.softmax(1), dim=1)
            close(torch.where(certain, cosine, torch.nan), f"eata_cosine_{t}")
        close(running.mean, f"eata_running_probabilities_after_{t}_as_released")
        close(norm_of(adapter).weight, f"eata_norm_weight_{t}")
        close(norm_of(adapter).bias, f"eata_norm_bias_{t}")
    assert [reliable, selected] == golden("eata_counts").tolist()


def test_eata_s_penalty_is_the_release_s():
    for t in (2, 3):
        moving = {f"model.encoder.1.{n}": golden(f"toy_norm_{n}").double() for n in NORM}
        fisher = {f"encoder.1.{n}": golden(f"eata_fisher_{n}") for n in NORM}
        penalty = FisherPenalty(2000.0).build(moving, fisher=fisher)
        for name, tensor in moving.items():
            tensor.copy_(golden(f"eata_norm_{name.rpartition('.')[2]}_{t - 1}"))
        close(penalty(torch.zeros(())), f"eata_penalty_{t}")
    assert golden("eata_penalty_1") == 0


def test_eata_s_mean_is_the_paper_s_by_default(monkeypatch):
    """Over the whole batch, and not the kept images alone."""
    settings = changed(EATA, {"selection.mean_of_kept": False})
    adapter = adapter_of(monkeypatch, toy(nn.BatchNorm1d(6), FISHER), settings)
    learn(adapter, carried(golden("eata_x")[0]))
    close(adapter._learner.selection.mean, "eata_running_probabilities_after_1")
    assert not METHODS["eata"].settings.selection.mean_of_kept


def test_eta_is_eata_without_its_penalty():
    eta, eata = METHODS["eta"].settings, METHODS["eata"].settings
    assert replace(eata, penalty=Unpenalised()) == eta
    assert eata.source_statistics == ("fisher",) and eta.source_statistics == ()


def test_sar_is_the_release(monkeypatch):
    adapter = adapter_of(monkeypatch, toy(nn.LayerNorm(6)), SAR)
    weights, average, points = spied(adapter), adapter._learner.reset, []
    norm_of(adapter).register_forward_pre_hook(
        lambda norm, _: points.append({n: p.detach().clone() for n, p in norm.named_parameters()})
    )
    for t, x in enumerate(golden("sar_x"), 1):
        logits, step = learn(adapter, carried(x))
        close(logits, f"sar_logits_{t}", rtol=1e-6, atol=1e-6)
        first, second = weights[-2:]
        assert torch.equal(first != 0, golden(f"sar_reliable_mask_{t}"))
        assert torch.equal((first * second) != 0, golden(f"sar_second_mask_{t}"))
        exact = entropies(golden(f"sar_logits_{t}"))
        close(weighted_mean(exact, first), f"sar_first_loss_{t}")
        for name in ("weight", "bias"):
            close(points[-1][name], f"sar_perturbed_{name}_{t}")
            close(norm_of(adapter).get_parameter(name), f"sar_norm_{name}_{t}")
        close(step.loss, f"sar_second_loss_{t}")
        close(average.average, f"sar_ema_{t}")


def test_sar_without_a_reliable_image_skips_the_step(monkeypatch):
    """The release moves on by its momentum; an empty selection moves nothing here."""
    adapter = adapter_of(monkeypatch, toy(nn.LayerNorm(6)), SAR)
    source = norm_of(adapter).weight.clone()
    learn(adapter, carried(golden("sar_x")[0]))
    close(norm_of(adapter).weight, "sar_empty_after_norm_weight_before_as_released")
    drift = 0.9 * (norm_of(adapter).weight - source)
    close(norm_of(adapter).weight + drift, "sar_empty_after_norm_weight_after_as_released")
    before = adapter.snapshot().tensors
    _, step = learn(adapter, carried(torch.zeros(8, 6)))
    assert step.skipped and step.reason == "no image was selected"
    after = adapter.snapshot().tensors
    changes = [name for name, tensor in before.items() if not torch.equal(after[name], tensor)]
    assert changes == ["counts"]
    assert adapter._learner.counts.tolist() == [1, 1, 0] and adapter.refused == 0


def test_a_reset_on_a_signal_brings_the_source_back(monkeypatch):
    adapter = adapter_of(monkeypatch, toy(nn.LayerNorm(6)), replace(SAR, reset=AtLowLoss(9.0)))
    learn(adapter, carried(golden("sar_x")[0]))
    assert torch.equal(norm_of(adapter).weight, golden("toy_norm_weight").double())
    assert adapter._learner.reset.average.isnan()
    assert adapter._learner.counts.tolist() == [1, 0, 0]


class Double(nn.Module):
    def forward(self, x):
        return x.double()


class Flat(nn.Module):
    def forward(self, x):
        return x.flatten(1)


def deyo_bundle():
    norm, head = nn.BatchNorm2d(3), nn.Linear(192, 10)
    with torch.no_grad():
        for module, name in ((norm, "norm"), (head, "head")):
            module.weight.copy_(golden(f"deyo_{name}_weight"))
            module.bias.copy_(golden(f"deyo_{name}_bias"))
    return bundle_of(nn.Sequential(Double(), norm, Flat()), head, 8)


def of_kept_alone(kept):
    """The release's form: the kept images are destroyed, and are a batch of their own."""

    def forward(self, model, views, order):
        logits = model(views)
        with torch.no_grad():
            destroyed = torch.full_like(logits, torch.nan)
            destroyed[kept] = model(shuffled_patches(views[kept], order[kept]))
        self.seen = logits, destroyed
        return Outcome(entropies(logits), logits, drops=probability_drops(logits, destroyed))

    return forward


def test_deyo_is_the_release(monkeypatch):
    adapter = adapter_of(monkeypatch, deyo_bundle(), DEYO)
    margin = adapter._learner.selection.margin
    assert (margin, 0.2, adapter._learner.selection.reference) == pytest.approx(
        golden("deyo_settings")[[0, 2, 1]].tolist()
    )
    weights = spied(adapter)
    for t, x in enumerate(golden("deyo_x"), 1):
        kept = golden(f"deyo_entropy_mask_{t}")
        order = golden(f"deyo_patch_permutation_{t}").long().clamp_min(0)
        monkeypatch.setattr(Destroyed, "draw", lambda *_, x=x, order=order: (x.double(), order))
        monkeypatch.setattr(Destroyed, "forward", of_kept_alone(kept))
        logits, step = learn(adapter, x.double())
        close(logits, f"deyo_logits_{t}", rtol=1e-6, atol=1e-6)
        exact, destroyed = adapter.objective.seen
        assert torch.equal(entropies(exact) < margin, kept)
        close(destroyed, f"deyo_shuffled_logits_{t}")
        close(probability_drops(exact, destroyed), f"deyo_plpd_{t}")
        assert torch.equal(weights[-1] != 0, golden(f"deyo_selected_mask_{t}"))
        close(weights[-1], f"deyo_weights_{t}")
        close(step.loss, f"deyo_loss_{t}")
        close(norm_of(adapter).weight, f"deyo_norm_weight_{t}")
        close(norm_of(adapter).bias, f"deyo_norm_bias_{t}")


def test_deyo_s_destroyed_batch_is_whole(monkeypatch):
    """Ours passes all images at once, so that no shape depends on values; without batch norm the
    drops are the release's."""
    adapter = adapter_of(monkeypatch, deyo_bundle(), replace(DEYO, normalisation=SAR.normalisation))
    x = golden("deyo_x")[0].double()
    order = torch.rand(24, 16, generator=torch.Generator().manual_seed(0)).argsort(1)
    objective = Destroyed(None, None)
    model = adapter.model
    with torch.no_grad():
        whole = objective(model, x, order).drops
        each = [objective(model, x[i : i + 1], order[i : i + 1]).drops for i in range(24)]
    torch.testing.assert_close(whole, torch.cat(each), rtol=1e-9, atol=1e-12)


def test_deyo_keeps_running_statistics_of_destroyed_images_out(bundle_of, images):
    given = {"normalisation": "running"} | loose("deyo")
    adapter = Adapter(bundle_of("tent"), "deyo", device="cpu", **given)
    plain = Adapter(bundle_of("tent"), "tent", device="cpu", normalisation="running")
    adapter(images[:20]), plain(images[:20])
    for name, tensor in plain._learner.norms.state().items():
        torch.testing.assert_close(adapter._learner.norms.state()[name], tensor)


@pytest.mark.parametrize("name", RELIABLE)
@pytest.mark.parametrize("model", ["acclimate:resnet8-w8-gn", "acclimate:vit2-w32-p4"])
def test_they_run_without_batch_norm(name, model, images):
    """GroupNorm and LayerNorm: the source's statistics do not matter, and the norms move."""
    torch.manual_seed(0)
    run = Run(device="cpu", precision="fp32")
    bundle = acclimate.wrap(build(model, classes=4), images[:20], run=run)
    adapter = Adapter(bundle, name, device="cpu", precision="fp32", **loose(name))
    before = {key: value.clone() for key, value in adapter._learner.moving.items()}
    assert adapter(images[:20]).isfinite().all() and bool(adapter.steps[0].taken)
    moving = adapter._learner.moving
    assert any(not torch.equal(value, before[key]) for key, value in moving.items())


@pytest.mark.parametrize("name", RELIABLE)
def test_they_run_on_images_and_their_state_is_whole(bundle_of, images, name):
    """A snapshot brings back the same future: nothing that learning changes lies outside it."""
    adapter = Adapter(bundle_of(name), name, device="cpu", precision="fp32", **loose(name))
    source = adapter.snapshot()
    adapter(images[:20])
    assert all(step.taken for step in adapter.steps)
    snapshot = adapter.snapshot()
    future = [adapter(batch) for batch in images[20:60].split(20)]
    adapter.restore(snapshot)
    assert all(torch.equal(adapter(b), f) for b, f in zip(images[20:60].split(20), future))
    adapter.reset()
    first = adapter.snapshot().tensors
    for key, tensor in source.tensors.items():
        torch.testing.assert_close(first[key], tensor, rtol=0, atol=0, equal_nan=True)
    assert any(not torch.equal(snapshot.tensors[n], t) for n, t in source.tensors.items())


def test_eata_stays_nearer_to_the_source_than_eta(bundle_of, images):
    def far(name, **changes):
        adapter = Adapter(bundle_of("eata"), name, device="cpu", **loose(name), **changes)
        sources = adapter._learner.state.sources
        for batch in images.split(20):
            adapter(batch)
        return sum(
            float(((value - sources[key]) ** 2).sum().detach())
            for key, value in adapter._learner.moving.items()
        )

    assert far("eata", penalty={"weight": 1e6}) < far("eata") <= 1.01 * far("eta")


def test_what_cannot_be_is_said_in_a_sentence(bundle_of, images):
    bundle = bundle_of("eata")
    with pytest.raises(acclimate.InputError, match=r"nothing of 'encoder.*parameters to norm"):
        Adapter(bundle, "eata", device="cpu", update={"parameters": "all"})
    with pytest.raises(acclimate.InputError, match="choose the objective destroyed"):
        Adapter(bundle, "tent", device="cpu", selection="reliable-shape")(images[:8])
    with pytest.raises(acclimate.InputError, match="patches must be 2 or more"):
        Adapter(bundle, "deyo", device="cpu", objective={"patches": 1})
    with pytest.raises(acclimate.InputError, match="eata needs statistics of source images"):
        Adapter(replace(bundle, statistics={}), "eata", device="cpu")
    for selection in ({"margin": -1.0}, {"similarity": float("nan")}):
        with pytest.raises(acclimate.InputError, match=next(iter(selection))):
            Adapter(bundle, "eata", device="cpu", selection=selection)
