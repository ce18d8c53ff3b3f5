"""What a learner moves, what it leaves alone, and what it goes back to."""

import pytest
import torch
from dotted import dotted
from fewer import few_steps
from rated import rated
from soon import searches

from acclimate.adapt import Adapter
from acclimate.errors import InputError
from acclimate.methods import METHODS

WITH_STEPS = [name for name, row in METHODS.items() if row.objective]


def adapter_of(bundle, name, **changes):
    visible = few_steps(name, 2) | {"precision": "fp32"} | rated(name, 3e-3)
    return Adapter(bundle, name, **visible | dotted(**changes))


def snapshot(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def moved(module, before):
    parameters = dict(module.named_parameters())
    return {name for name, p in parameters.items() if not torch.equal(p, before[name])}


@pytest.mark.parametrize("name", WITH_STEPS)
def test_a_temperature_is_refused_where_there_is_none(bundle_of, name):
    if name in ("tttpp", "y", "cta-c", "cta", "cta-paper", "rmt", "clipartt", "watt-p", "watt-s"):
        assert adapter_of(bundle_of(name), name, temperature=0.2)
    else:
        with pytest.raises(InputError, match=r"objective\.temperature"):
            adapter_of(bundle_of(name), name, temperature=0.2)


@pytest.mark.parametrize("name", ["cta", "nc-ttt"])
def test_learning_one_by_one_is_refused_where_one_image_teaches_nothing(bundle_of, name):
    with pytest.raises(InputError, match="cannot learn from one image"):
        adapter_of(bundle_of(name), name, one_by_one=True)


@pytest.mark.parametrize(
    ("name", "last"), [("ttt", 2), ("clust3", None), ("nc-ttt", 2), ("rec-ttt", None)]
)
def test_what_comes_after_the_tap_does_not_move(bundle_of, images, name, last):
    """The second of three stages is ``stages.1``; ClusT3 and ReC-TTT may tap the last one."""
    adapter = adapter_of(bundle_of(name), name)
    encoder = adapter.model.encoder
    before = snapshot(encoder)
    adapter(images[:9])
    names = moved(encoder, before)
    assert any("stem" in name for name in names)
    if last:
        assert names == {name for name in before if is_below(name, last, encoder)}
    counted = adapter.cost(9).moving_parameters
    of_objective = sum(
        p.numel()
        for p in adapter.objective.parameters()
        if p.requires_grad and adapter.settings.update.auxiliary
    )
    assert counted == of_objective + sum(
        p.numel() for name, p in encoder.named_parameters() if name in names
    )
    heads = [n for n, p in adapter.model.head.named_parameters() if p.requires_grad]
    assert heads == []


def is_below(name, last, encoder):
    stages = [f"stages.{number}." for number in range(last)]
    return name in dict(encoder.named_parameters()) and name.startswith(("stem", *stages))


@pytest.mark.parametrize("name", ["ttt", "ttt-online", "y"])
def test_auxiliary_moves_the_objective_s_own_parts(bundle_of, images, name):
    for auxiliary in (True, False):
        adapter = adapter_of(bundle_of(name), name, auxiliary=auxiliary)
        objective = adapter.objective
        before = snapshot(objective)
        adapter(images[:1].expand(9, -1, -1, -1) if name != "y" else images[:9])
        everything = {name for name, _ in objective.named_parameters()}
        assert moved(objective, before) == (everything if auxiliary else set())


@pytest.mark.parametrize(
    "name",
    [name for name in WITH_STEPS if not searches(name)],  # see tests/methods/test_forward.py
)
def test_a_reset_brings_back_the_objective_too(bundle_of, images, name):
    bundle = bundle_of(name)
    adapter = adapter_of(bundle, name, reset="never")
    [learner] = adapter._learners
    model = bundle.twin if METHODS[name].model == "twin" else bundle.classifier
    adapter(images[:9])
    adapter.reset()
    if name == "tpt":  # whose head's prompts begin with vectors of their own
        model = adapter_of(bundle, name)._learner.model
    assert_equal(learner.model, model)
    if bundle.objective is not None and type(learner.objective) is type(bundle.objective):
        assert_equal(learner.objective, bundle.objective)
    moments = [t for n, t in learner.state.tensors.items() if n.startswith("update.")]
    assert all(not tensor.any() for tensor in moments)
    assert moments or name in ("ttt", "ttt-online", "memo")  # whose SGD has no momentum


def assert_equal(own, source):
    own, source = own.state_dict(), source.state_dict()
    assert own.keys() == source.keys()
    assert all(torch.equal(own[name], source[name]) for name in source)


def test_buffers_of_the_objective_change_and_are_forgotten(bundle_of, images):
    """TTT++'s queue of target features: a batch of an episode must not see another's."""
    bundle = bundle_of("tttpp")
    queue = adapter_of(bundle, "tttpp", reset="never")
    [learner] = queue._learners
    queue(images[:9])
    assert learner.objective.features.filled.sum() == 9
    episodes = adapter_of(bundle, "tttpp", reset="batch")
    for batch in (images[:9], images[9:12]):
        episodes(batch)
    # Three new images are too few: the last five of before are learned from too, but no others.
    assert episodes.objective.features.filled.sum() == 8


def test_a_refused_step_leaves_the_objective_s_buffers(bundle_of, images):
    adapter = adapter_of(bundle_of("tttpp"), "tttpp", reset="never", steps=1)
    [learner] = adapter._learners
    adapter(images[:9])
    before = snapshot(learner.objective)
    next(iter(learner.moving.values())).register_hook(lambda gradient: gradient * float("nan"))
    adapter(images[9:18])
    assert adapter.refused == 1
    after = learner.objective.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize("name", ["clust3", "nc-ttt", "rec-ttt", "ttt-flow"])
def test_running_statistics_move_behind_the_tap_too(bundle_of, images, name):
    """As in the releases, whose whole network is in training mode; gradients end at the tap."""
    adapter = adapter_of(bundle_of(name), name, steps=1, learning_rate=0.0)
    before = {n: b.clone() for n, b in adapter.model.encoder.named_buffers() if "running" in n}
    adapter(images[:20])
    after = dict(adapter.model.encoder.named_buffers())
    assert all(not torch.equal(after[name], value) for name, value in before.items())
    assert torch.is_grad_enabled()


def test_temperature_of_an_objective_within_another(bundle_of):
    adapter = adapter_of(bundle_of("tttpp"), "tttpp", temperature=0.1)
    assert adapter.objective.contrastive.temperature == 0.1


def test_every_learner_counts(bundle_of, monkeypatch):
    held = []
    for threads in (1, 2):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        held.append(Adapter(bundle_of("ttt"), "ttt", device="cpu").cost().held_bytes)
    assert held[1] > 2 * held[0]
