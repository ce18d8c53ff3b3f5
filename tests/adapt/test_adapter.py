import copy
import gc
from dataclasses import replace

import pytest
import torch
from dotted import dotted
from fewer import few_steps, few_views
from loose import loose
from rated import rated
from soon import banked, soon
from torch import nn

from acclimate.adapt import Adapter
from acclimate.bundle import Bundle
from acclimate.errors import InputError
from acclimate.methods import METHODS, AdapterSettings, changed
from acclimate.objectives import (
    Clustering,
    Entropy,
    Flow,
    Information,
    LikelyClasses,
    NoiseContrastive,
    Reconstruction,
    TemplateTurns,
)
from acclimate.parts.normalisation import BatchStatistics
from acclimate.parts.update import SGD, Adam
from acclimate.randomness import key
from acclimate.storage.sealed import digest
from acclimate.views import SimCLRViews, simclr_views

WITH_STEPS = [name for name, row in METHODS.items() if row.objective]


def with_resets(names):
    """Every method that remembers; of those that forget, with less to bring back, one is enough."""
    forgetful = [pytest.param(name, "batch", marks=pytest.mark.slow) for name in names]
    forgetful[names.index("cta")] = ("cta", "batch")
    return pytest.mark.parametrize(
        ("name", "forget"), [*((name, "never") for name in names), *forgetful]
    )


def settings_of(name, **changes):
    return changed(METHODS[name].settings, dotted(**{"precision": "fp32"} | changes))


def short(name, **changes):
    """A method's settings with steps that are few and visible in the answer."""
    if name not in WITH_STEPS:
        return settings_of(name)
    if METHODS[name].settings.one_by_one:  # as many steps again for each image
        changes = {"steps": 1} | changes
    given = few_steps(name, 3) | rated(name, 3e-3) | loose(name) | soon(name, 20) | few_views(name)
    return settings_of(name, **given | dotted(**changes))


# What the adapter does, as a plain loop: one image list, one deep copy, one autograd step at a time


def plain_loss(features, temperature):
    """NT-Xent, an anchor at a time."""
    features = features / features.norm(dim=1, keepdim=True)
    images = len(features) // 2
    total = 0.0
    for i in range(2 * images):
        others = torch.cat([features[:i], features[i + 1 :]])
        partner = features[(i + images) % (2 * images)]
        total = total + torch.logsumexp(others @ features[i] / temperature, 0)
        total = total - features[i] @ partner / temperature
    return total / (2 * images)


def norms_train(model, on):
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train(on)


class PlainBlend(nn.Module):
    """Batch norm by n : prior parts of the batch's and the source's statistics."""

    def __init__(self, norm, source, prior):
        super().__init__()
        self.norm, self.source, self.prior = norm, source, prior

    def forward(self, x):
        own = len(x) / (len(x) + self.prior)
        mean = x.mean((0, 2, 3)) * own + self.source.running_mean * (1 - own)
        variance = x.var((0, 2, 3), unbiased=False) * own + self.source.running_var * (1 - own)
        scale = self.norm.weight / (variance + self.norm.eps).sqrt()
        shift = self.norm.bias - mean * scale
        return x * scale[:, None, None] + shift[:, None, None]


def blend_norms(model, source, prior):
    prior = 16 if prior is None else prior  # of a bundle of few classes, where nothing was measured
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            model.set_submodule(name, PlainBlend(module, source.get_submodule(name), prior))


def plain_adapt(bundle, settings, batches, *, skip=()):
    """Answers for each batch; steps whose number over all batches is in ``skip`` are not taken."""
    mean = torch.tensor(bundle.preprocessing.mean).view(1, 3, 1, 1)
    std = torch.tensor(bundle.preprocessing.std).view(1, 3, 1, 1)
    views = SimCLRViews(**bundle.options["views"])
    model = optimizer = None
    seen, answers, taken = torch.empty(0), [], 0
    for batch in batches:
        fresh = batch.float() / 255
        seen = torch.cat([seen, fresh]) if len(seen) else fresh
        context = seen[-max(8, len(fresh)) :]
        if settings.reset.always or model is None:
            model = copy.deepcopy(bundle.twin).eval()
            model.encoder.requires_grad_(True)
            kind = {Adam: torch.optim.Adam, SGD: torch.optim.SGD}[type(settings.update)]
            optimizer = kind(model.encoder.parameters(), settings.update.learning_rate)
        for step in range(settings.steps if len(context) > 1 else 0):
            if taken not in skip:
                index = torch.arange(len(seen) - len(context), len(seen))
                drawn = simclr_views(
                    context, views, key=key(settings.seed, "adapt", step), index=index, count=2
                )
                norms_train(model, settings.normalisation.uses_batch)
                loss = plain_loss(
                    model.encoder((drawn - mean) / std), settings.objective.temperature
                )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            taken += 1
        answerer = copy.deepcopy(model)
        norms_train(answerer, False)
        if isinstance(settings.normalisation, BatchStatistics):
            blend_norms(answerer, bundle.twin, settings.normalisation.prior)
        with torch.no_grad():
            answers.append(answerer((context - mean) / std)[-len(fresh) :])
    return answers


def batches_of(images, sizes):
    return list(images[: sum(sizes)].split(list(sizes)))


@pytest.mark.parametrize(
    ("name", "changes", "sizes"),
    [
        ("cta", {}, (12, 12)),
        ("cta", {"learning_rate": 1e-3}, (20, 3)),
        ("cta", {"learning_rate": 1e-3}, (1, 1, 1)),
        ("cta", {"learning_rate": 1e-3, "reset": "never"}, (12, 9, 3)),
        ("cta", {"learning_rate": 1e-2, "update": "sgd"}, (12, 12)),
        ("cta", {"learning_rate": 1e-3, "normalisation": "source"}, (12,)),
        ("cta-paper", {}, (12, 5)),
        ("cta-paper", {"steps": 3, "reset": "never", "seed": 7}, (12, 5)),
        ("cta", {"steps": 1}, (128,)),
    ],
)
def test_adapter_equals_a_plain_loop(bundle, images, name, changes, sizes):
    settings = settings_of(name, **changes)
    batches = batches_of(images, sizes)
    adapter = Adapter(bundle, name, settings)
    found = [adapter(batch) for batch in batches]
    for own, plain in zip(found, plain_adapt(bundle, settings, batches), strict=True):
        torch.testing.assert_close(own, plain, atol=2e-5, rtol=1e-5)


def test_the_steps_of_that_comparison_are_visible(bundle, images):
    stepped = Adapter(bundle, "cta", settings_of("cta", learning_rate=1e-3))(images[:20])
    frozen = Adapter(bundle, "aligned-bn", settings_of("aligned-bn"))(images[:20])
    assert (stepped - frozen).abs().max() > 1e-3  # 50 times the tolerance


def test_learning_rate_zero_is_aligned_bn(bundle, images):
    still = Adapter(bundle, "cta", settings_of("cta", learning_rate=0.0))
    frozen = Adapter(bundle, "aligned-bn", settings_of("aligned-bn"))
    for batch in images.split(64):
        assert torch.equal(still(batch), frozen(batch))


def test_trace_starts_without_steps_and_ends_in_the_answer(bundle, images):
    settings = short("cta")
    trace = Adapter(bundle, "cta", settings)
    called = Adapter(bundle, "cta", settings)
    for batch in (images[:20], images[20:40]):
        answers = trace.trace(batch)
        assert answers.shape == (4, 20, 4)
        assert torch.equal(answers[-1], called(batch))
        fewer = [replace(settings, steps=steps) for steps in (1, 2)]
        if batch is images[:20]:
            for step, few in enumerate(fewer, start=1):
                assert torch.equal(answers[step], Adapter(bundle, "cta", few)(batch))
        aligned = Adapter(bundle, "aligned-bn", settings_of("aligned-bn"))(batch)
        assert torch.equal(answers[0], aligned)


@with_resets([*METHODS])
def test_reset_is_a_new_adapter(bundle_of, images, name, forget):
    bundle = bundle_of(name)
    settings = short(name, reset=forget)
    used, new = Adapter(bundle, name, settings), Adapter(bundle, name, settings)
    for batch in batches_of(images, (20, 3)):
        used(batch)
    used.reset()
    assert used.refused == 0
    for batch in batches_of(images.flip(0), (3, 20, 20)):
        assert torch.equal(used(batch), new(batch))


def test_reset_never_remembers_and_reset_batch_does_not(bundle, images):
    def second_answer(forget):
        adapter = Adapter(bundle, "cta", short("cta", reset=forget))
        adapter(images[:20])
        adapter._learner.seen.zero_()  # so that only what was learned can differ
        return adapter(images[20:40])

    fresh = Adapter(bundle, "cta", short("cta"))(images[20:40])
    assert torch.equal(second_answer("batch"), fresh)
    assert not torch.equal(second_answer("never"), fresh)


@with_resets(WITH_STEPS)
def test_restore_brings_back_the_same_future(bundle_of, images, name, forget):
    bundle = bundle_of(name)
    adapter = Adapter(bundle, name, short(name, reset=forget))
    future = batches_of(images[40:], (20, 3, 5))
    adapter(images[:20])
    adapter(images[20:23])
    snapshot = adapter.snapshot()
    first = [adapter(batch) for batch in future]
    adapter.restore(snapshot)
    assert all(torch.equal(adapter(batch), own) for batch, own in zip(future, first))
    adapter.restore(snapshot)  # it was not consumed
    assert torch.equal(adapter(future[0]), first[0])


def test_restore_of_a_state_before_the_first_step(bundle, images):
    adapter = Adapter(bundle, "cta", short("cta", reset="never"))
    snapshot = adapter.snapshot()
    first = [adapter(batch) for batch in images[:40].split(20)]
    adapter.restore(snapshot)
    assert all(torch.equal(adapter(b), own) for b, own in zip(images[:40].split(20), first))


def test_restore_in_another_adapter_of_the_same_kind(bundle, images):
    """As a service does after a restart: Adam's averages must come along."""
    settings = short("cta", reset="never")
    adapter, other = Adapter(bundle, "cta", settings), Adapter(bundle, "cta", settings)
    adapter(images[:20])
    other.restore(adapter.snapshot())
    assert torch.equal(other(images[20:40]), adapter(images[20:40]))


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_works_in_every_grad_mode(saved, images, context):
    settings = short("cta")
    outside = Adapter(Bundle.load(saved), "cta", settings)(images[:20])
    with context():
        modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        adapter = Adapter(Bundle.load(saved), "cta", settings)
        inside = adapter((images[:20].float() / 255).clone())
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == modes
        with pytest.raises(InputError):
            adapter(images[0])
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == modes
        snapshot = adapter.snapshot()
    assert torch.equal(inside, outside)
    assert not inside.is_inference()
    assert not inside.requires_grad
    scale = torch.ones((), requires_grad=True)
    (inside * scale).sum().backward()  # an inference tensor could not take part
    adapter.restore(snapshot)
    adapter(images[:20])


@pytest.mark.parametrize("name", METHODS)
def test_the_bundle_stays_as_it_was(bundle_of, images, name):
    bundle = bundle_of(name)

    def state():
        models = bundle.modules.values()
        flags = [[p.requires_grad for p in m.parameters()] for m in models]
        modes = [[part.training for part in m.modules()] for m in models]
        return [digest(m.state_dict(), "") for m in models], flags, modes

    before = state()
    Adapter(bundle, name, short(name))(images[:20])
    assert state() == before


def test_the_caller_s_images_and_generator_stay_as_they_were(bundle, images):
    mine = images[:20].float() / 255
    kept, generator = mine.clone(), torch.get_rng_state()
    Adapter(bundle, "cta", short("cta"))(mine)
    assert torch.equal(mine, kept)
    assert torch.equal(torch.get_rng_state(), generator)


@pytest.mark.parametrize("name", WITH_STEPS)
def test_one_seed_one_answer(bundle_of, images, name):
    bundle = bundle_of(name)

    def answer(seed):
        count = 40 if banked(name) else 20  # a bank's steps follow the answers
        return Adapter(bundle, name, short(name, seed=seed))(images[:count])

    first = answer(0)
    assert torch.equal(first, answer(0))
    draws_nothing = (
        METHODS[name].objective
        in (
            Entropy,
            Clustering,
            Information,
            NoiseContrastive,
            Reconstruction,
            Flow,
            LikelyClasses,
            TemplateTurns,
        )
        # Such an answer comes before any draw, but for CoTTA's teacher, which answers for views.
        or (METHODS[name].settings.answer.fixed and name != "cotta")
        or getattr(METHODS[name].settings.objective, "consistency", None) == 0  # no view
    )
    assert torch.equal(first, answer(1)) == draws_nothing


@pytest.mark.parametrize("name", METHODS)
def test_uint8_and_float_agree(bundle_of, images, name):
    bundle = bundle_of(name)

    def answer(given):
        return Adapter(bundle, name, short(name))(given)

    expected = answer(images[:12])
    assert expected.dtype == torch.float32
    assert expected.shape == (12, 4)
    assert torch.equal(answer(images[:12].float() / 255), expected)
    torch.testing.assert_close(answer(images[:12].double() / 255), expected)


def test_other_sizes_are_resized_and_cropped(bundle, images):
    larger = nn.functional.interpolate(images[:12].float() / 255, size=(24, 32))
    resized = nn.functional.interpolate(larger, size=(16, 21), mode="bilinear", antialias=True)
    expected = resized[..., 2:18]  # the middle of 21 columns, as torchvision rounds it
    adapter = Adapter(bundle, "ptbn", settings_of("ptbn"))
    torch.testing.assert_close(adapter(larger), adapter(expected), atol=1e-4, rtol=1e-4)


UNIT = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def spoiled(value):
    images = UNIT.clone()
    images[1, 2, 3, 4] = value
    return images


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(spoiled(float("nan")), id="NaN"),
        pytest.param(spoiled(float("inf")), id="infinity"),
        pytest.param(spoiled(-float("inf")), id="minus infinity"),
        pytest.param(spoiled(-0.01), id="negative"),
        pytest.param(spoiled(1.01), id="above 1"),
        pytest.param(UNIT * 255, id="0..255 as float"),
        pytest.param((UNIT * 255).int(), id="int32"),
        pytest.param(UNIT > 0.5, id="bool"),
        pytest.param(UNIT.to(torch.complex64), id="complex"),
        pytest.param(UNIT[0], id="no batch"),
        pytest.param(UNIT[:, :1], id="grey"),
        pytest.param(UNIT.permute(0, 2, 3, 1), id="channels last"),
        pytest.param(UNIT[:0], id="no image"),
        pytest.param(UNIT[..., :0], id="no pixel"),
        pytest.param(UNIT.numpy(), id="numpy"),
        pytest.param(None, id="None"),
    ],
)
def test_what_is_no_batch_of_images_is_refused(bundle, images, bad):
    adapter = Adapter(bundle, "cta", short("cta", reset="never"))
    untouched = Adapter(bundle, "cta", short("cta", reset="never"))
    with pytest.raises(InputError, match="images"):
        adapter(bad)
    assert torch.equal(adapter(images[:20]), untouched(images[:20]))


@pytest.mark.parametrize("forget", ["batch", "never"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("normalisation", ["batch", "running", "source"])
def test_absurd_learning_rates_end_in_finite_answers(
    bundle, images, optimizer, normalisation, forget
):
    settings = short(
        "cta",
        learning_rate=1e38,
        update=optimizer,
        normalisation=normalisation,
        reset=forget,
    )
    adapter = Adapter(bundle, "cta", settings)
    for batch in batches_of(images, (20, 1, 20)):
        assert torch.isfinite(adapter(batch)).all()


def test_an_answer_that_blew_up_comes_from_the_source_weights(bundle, images):
    adapter = Adapter(bundle, "cta", short("cta", learning_rate=1e38, reset="never"))
    frozen = Adapter(bundle, "aligned-bn", settings_of("aligned-bn"))
    for batch in images[:60].split(20):
        before = adapter.refused
        assert torch.equal(adapter(batch), frozen(batch))
        assert adapter.refused > before
    adapter.reset()
    assert adapter.refused == 0


def poison(adapter, steps):
    """Let the loss of the steps with these numbers, over all batches, be NaN."""
    count = 0

    def hook(encoder, inputs, features):
        nonlocal count
        if not torch.is_grad_enabled():
            return features
        count += 1
        return features * float("nan") if count - 1 in steps else features

    return adapter.model.encoder.register_forward_hook(hook)


@pytest.mark.parametrize("forget", ["batch", "never"])
@pytest.mark.parametrize("normalisation", ["batch", "running"])
def test_a_step_with_a_nan_loss_is_undone(bundle, images, normalisation, forget):
    settings = short("cta", learning_rate=1e-3, normalisation=normalisation, reset=forget)
    adapter = Adapter(bundle, "cta", settings)
    poison(adapter, {1, 5})
    batches = images[:60].split(20)
    found = [adapter(batch) for batch in batches]
    assert adapter.refused == 2
    for own, plain in zip(found, plain_adapt(bundle, settings, batches, skip={1, 5}), strict=True):
        torch.testing.assert_close(own, plain, atol=2e-5, rtol=1e-5)


def moments(adapter):
    tensors = adapter.snapshot().tensors
    return {name: tensor for name, tensor in tensors.items() if name.startswith("update.")}


def test_refused_steps_leave_parameters_buffers_and_adam_untouched(bundle, images):
    adapter = Adapter(bundle, "cta", short("cta", normalisation="running", reset="never"))
    adapter(images[:20])
    before = copy.deepcopy(adapter.model.state_dict())
    averages = moments(adapter)
    handle = poison(adapter, range(3))
    assert torch.isfinite(adapter(images[20:40])).all()
    assert adapter.refused == 3
    after = adapter.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(torch.equal(moments(adapter)[name], value) for name, value in averages.items())
    handle.remove()
    adapter(images[20:40])
    assert not all(torch.equal(after[name], value) for name, value in before.items())


def test_gradients_that_are_not_finite_are_refused_too(bundle, images):
    adapter = Adapter(bundle, "cta", short("cta"))
    weight = adapter.model.encoder.get_parameter("projector.weight")
    weight.register_hook(lambda gradient: gradient * float("inf"))
    adapter(images[:20])
    assert adapter.refused == 3


@pytest.mark.parametrize("name", METHODS)
def test_nothing_that_a_batch_allocates_stays(bundle_of, images, name):
    bundle = bundle_of(name)
    gc.freeze()  # what was there before need not be looked at
    adapter = Adapter(bundle, name, short(name, reset="never"))

    def tensors():
        gc.collect()
        found = [item for item in gc.get_objects() if issubclass(type(item), torch.Tensor)]
        return len(found), sum(tensor.nbytes for tensor in found)

    for batch in images[:60].split(20):
        adapter(batch)
    before = tensors()
    for batch in images[60:100].split(20):
        adapter(batch)
    assert tensors() == before
    gc.unfreeze()
    assert all(parameter.grad is None for parameter in adapter.model.parameters())


@pytest.mark.parametrize(
    ("parameters", "moves"),
    [
        ("all", lambda name: True),
        ("norm", lambda name: ".norm" in name or "stem.1" in name or "shortcut.1" in name),
        (r"stages\.2|projector", lambda name: "stages.2" in name or "projector" in name),
        ("bias$", lambda name: name.endswith("bias")),
    ],
)
@pytest.mark.parametrize("kind", ["bundle", "group_norm_bundle"])
def test_only_the_chosen_parameters_move(request, images, kind, parameters, moves):
    bundle = request.getfixturevalue(kind)
    adapter = Adapter(bundle, "cta", short("cta", parameters=parameters))
    adapter(images[:20])
    before = dict(bundle.twin.named_parameters())
    moved = {n for n, p in adapter.model.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {n for n in before if not n.startswith("head.") and moves(n)}


def test_group_norm_learns_and_ignores_normalisation(group_norm_bundle, images):
    answers = {
        mode: Adapter(group_norm_bundle, "cta", short("cta", normalisation=mode))(images[:20])
        for mode in ("source", "batch", "running")
    }
    plain = plain_adapt(group_norm_bundle, short("cta"), [images[:20]])[0]
    for answer in answers.values():
        torch.testing.assert_close(answer, plain, atol=1e-4, rtol=1e-4)
    frozen = Adapter(group_norm_bundle, "aligned", settings_of("aligned"))(images[:20])
    assert not torch.allclose(plain, frozen, atol=1e-3)


def test_bf16_is_near_fp32(bundle, images):
    exact = Adapter(bundle, "cta", short("cta"))(images[:20])
    half = Adapter(bundle, "cta", short("cta", precision="bf16"))(images[:20])
    assert half.dtype == torch.float32
    assert not torch.equal(half, exact)
    torch.testing.assert_close(half, exact, atol=0.2, rtol=0.1)


@pytest.mark.parametrize(
    "bad",
    [
        {"steps": -1},
        {"steps": float("nan")},
        {"steps": float("inf")},
        {"steps": 1.5},
        {"learning_rate": float("nan")},
        {"learning_rate": float("inf")},
        {"learning_rate": -1e-3},
        {"prior": -1.0},
        {"prior": float("nan")},
        {"temperature": 0.0},
        {"temperature": -0.5},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"update": "adamax"},
        {"normalisation": "instance"},
        {"reset": "sometimes"},
        {"precision": "fp16"},
        {"parameters": "no such name"},
        {"parameters": "("},
    ],
    ids=str,
)
def test_impossible_settings_are_refused(bundle, bad):
    (name,) = bad
    with pytest.raises(
        InputError, match=name if name != "parameters" else "encoder|parameters"
    ) as error:
        Adapter(bundle, "cta", **dotted(**bad))
    assert str(error.value)[-1] in ".?"


def test_methods_that_do_not_fit_are_refused(bundle):
    with pytest.raises(InputError, match=r"did you mean .*cta"):
        Adapter(bundle, "ctaa")
    with pytest.raises(InputError, match="steps to 0"):
        Adapter(bundle, "aligned", AdapterSettings(steps=1))
    alone = replace(bundle, twin=None)
    with pytest.raises(InputError, match="no aligned twin"):
        Adapter(alone, "cta")
    assert Adapter(alone, "ptbn").settings == METHODS["ptbn"].settings
    assert Adapter(replace(bundle, method="aligned-bn")).settings.steps == 0


def test_a_bundle_with_a_nan_weight_is_refused(bundle):
    spoiled = copy.deepcopy(bundle)
    with torch.no_grad():
        spoiled.twin.head.weight[0, 0] = float("nan")
    with pytest.raises(InputError, match="NaN"):
        Adapter(spoiled, "cta")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["cta", "tent", "ttt"])
def test_the_caller_s_autocast_changes_nothing(bundle_of, images, name, precision):
    """Torch keeps cast weights until the outermost autocast ends: steps would go unseen."""
    bundle, settings = bundle_of(name), short(name, precision=precision)
    outside = Adapter(bundle, name, settings)(images[:20])
    with torch.autocast("cpu", torch.bfloat16):
        inside = Adapter(bundle, name, settings)
        found = inside(images[:20])
        assert torch.is_autocast_enabled("cpu")
    assert torch.equal(found, outside)


def test_steps_in_bf16_reach_the_answer(bundle, images):
    """Weights that were cast before a step must not answer after it."""
    exact, half, frozen = (
        Adapter(bundle, "cta", short("cta", **changes))(images[:20])
        for changes in ({}, {"precision": "bf16"}, {"steps": 0})
    )
    assert (half - exact).abs().max() < 0.5 * (frozen - exact).abs().max()
