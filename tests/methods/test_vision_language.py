"""TPT, CLIPArTT and WATT against what their releases compute (`golden/clip.npz`)."""

import pytest
import torch
from torch.nn.functional import normalize
from toy_clip import carried, clip_bundle, close, golden, toy_bundle, tuned_bundle

from acclimate.adapt import Adapter
from acclimate.adapt.loop import adapt
from acclimate.errors import InputError
from acclimate.methods import METHODS, changed, check_settings
from acclimate.objectives import marginal_entropies
from acclimate.objectives.confident_views import most_certain
from acclimate.objectives.similar_prompts import similarity_losses, similarity_targets

FIRST = ["a photo of a {}"]
RELEASED = {"objective.released": True}


def adapter_of(bundle, name, **changes):
    return Adapter(bundle, name, device="cpu", precision="fp32", **changes)


def stepped(adapter, images):
    """The answer, and the report of each step, on images in float64."""
    with torch.no_grad():
        logits, steps = adapt(adapter._learner, images, torch.arange(len(images)))
    assert adapter.refused == 0
    return logits[-1], steps


def toy_images():
    return carried(golden("toy_x"))


def norm_of(adapter):
    return adapter.model.encoder[2]


# TPT


def test_tpt_selects_and_loses_as_the_release():
    logits = golden("tpt_logits").requires_grad_()
    chosen = most_certain(logits[None].detach(), 0.1)[0]
    assert torch.equal(chosen, golden("tpt_selected_index"))
    loss = marginal_entropies(logits[chosen][None])[0]
    close(loss, "tpt_loss")
    loss.backward()
    close(logits.grad, "tpt_loss_grad_logits")


def tpt_adapter(**changes):
    """An adapter whose views are those of the file."""
    share, rate, decay, *_ = golden("tpt_settings").tolist()
    settings = METHODS["tpt"].settings
    assert (settings.objective.share, settings.update.learning_rate) == (share, rate)
    assert settings.update.weight_decay == decay
    adapter = adapter_of(tuned_bundle(), "tpt", **changes)
    views = carried(golden("tpt_image_features"))
    adapter._learner.objective.draw = lambda images, key, index: (views,)
    return adapter, views


def test_tpt_reads_prompts_as_the_release():
    adapter, views = tpt_adapter()
    head = adapter.model.head
    close(head.context, "tpt_context")
    words = head.frozen.words
    close(words.with_context(head.context), "tpt_text_features")
    close(adapter.model(views), "tpt_model_logits")
    close(head(views.flatten(1)[:1, :6]), "tpt_view0_logits_before")
    chosen = most_certain(adapter.model(views)[None], 0.1)[0]
    assert torch.equal(chosen, golden("tpt_model_selected_index"))


def test_tpt_takes_the_release_s_step():
    adapter, views = tpt_adapter()
    learner, gradients = adapter._learner, []
    learner.moving["model.head.context"].register_hook(gradients.append)
    logits, [step] = stepped(adapter, views[:1])
    close(step.loss, "tpt_model_loss")
    close(gradients[0], "tpt_context_grad")
    close(adapter.model.head.context, "tpt_context_after_1")
    close(logits, "tpt_view0_logits_after_1", rtol=1e-6, atol=1e-6)


def test_tpt_takes_two_steps_on_the_first_step_s_selection(monkeypatch):
    """The release selects once; where the same views come again, the choice is the same here."""
    adapter, views = tpt_adapter(steps=2)
    logits, steps = stepped(adapter, views[:1])
    losses = torch.stack([step.loss for step in steps])
    close(losses, "tpt_model_losses_2_steps")
    close(adapter.model.head.context, "tpt_context_after_2")
    close(logits, "tpt_view0_logits_after_2", rtol=1e-6, atol=1e-6)


# The tiny pair


def test_the_tiny_pair_is_the_release_s():
    bundle = toy_bundle(FIRST)
    head, encoder = bundle.classifier.head, bundle.classifier.encoder
    close(encoder(toy_images()), "toy_image_features")
    expected = normalize(golden("toy_class_text_features"), dim=1)
    torch.testing.assert_close(head.class_weights, expected)
    similarity = bundle.classifier(toy_images()).softmax(1)
    close(similarity, "clipartt_similarity")


# CLIPArTT


def features_of(adapter):
    """Features of images and their prompts, of length 1; gradients reach those of images."""
    images = normalize(adapter.model.encoder(toy_images()), dim=1)
    with torch.no_grad():
        texts = adapter.objective.prompts(adapter.model.head, images)
    return images, texts


def test_clipartt_prompts_are_the_release_s():
    adapter = adapter_of(toy_bundle(FIRST), "clipartt")
    head, objective = adapter.model.head, adapter.objective
    images, texts = features_of(adapter)
    likely = head(images).topk(3, dim=1).indices
    assert torch.equal(likely, golden("clipartt_topk"))
    encoder = head.words.encoder
    tokens = head.words.joined(likely, objective.length)
    assert torch.equal(tokens, encoder.tokenize(golden("clipartt_prompts")))
    close(texts, "clipartt_prompt_features")
    close(head.compared(images, texts).T, "clipartt_logits_text_by_image")


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_clipartt_loss_with_each_of_its_targets(number):
    adapter = adapter_of(toy_bundle(FIRST), "clipartt", objective={"released": True})
    images, texts = features_of(adapter)
    given = [(images, texts), (images, 0 * texts), (0 * images, texts)]
    targets = similarity_targets(*given[number - 1], 0.01) if number < 4 else torch.eye(10).double()
    close(targets, f"clipartt_targets_{number}")
    loss = similarity_losses(adapter.model.head.compared(images, texts), targets.T).mean()
    close(loss, f"clipartt_loss_{number}_as_released")
    found = torch.autograd.grad(loss, [norm_of(adapter).weight, norm_of(adapter).bias])
    for gradient, kind in zip(found, ("weight", "bias")):
        close(gradient, f"clipartt_grad_norm_{kind}_{number}_as_released")
    if number == 1:
        own = adapter.objective(adapter.model, toy_images()).mean()
        again = torch.autograd.grad(own, [norm_of(adapter).weight, norm_of(adapter).bias])
        for gradient, other in zip(again, found):
            torch.testing.assert_close(gradient, other)


def test_clipartt_learns_from_each_image_s_own_targets():
    adapter = adapter_of(toy_bundle(FIRST), "clipartt")
    loss = adapter.objective(adapter.model, toy_images()).mean()
    close(loss, "clipartt_loss_rowwise")
    found = torch.autograd.grad(loss, [norm_of(adapter).weight, norm_of(adapter).bias])
    for gradient, kind in zip(found, ("weight", "bias")):
        close(gradient, f"clipartt_grad_norm_{kind}_rowwise")


def test_clipartt_transposed_without_gradients_through_targets():
    adapter = adapter_of(toy_bundle(FIRST), "clipartt")
    images, texts = features_of(adapter)
    targets = similarity_targets(images.detach(), texts, 0.01).T
    loss = similarity_losses(adapter.model.head.compared(images, texts), targets).mean()
    found = torch.autograd.grad(loss, [norm_of(adapter).weight, norm_of(adapter).bias])
    for gradient, kind in zip(found, ("weight", "bias")):
        close(gradient, f"clipartt_grad_norm_{kind}_fixed_targets")


def test_clipartt_takes_the_release_s_ten_steps(monkeypatch):
    adapter = adapter_of(toy_bundle(FIRST), "clipartt", objective={"released": True})
    words, chosen = adapter.model.head.words, []
    joined = words.joined
    monkeypatch.setattr(words, "joined", lambda *g: (chosen.append(g[0]), joined(*g))[1])
    logits, steps = stepped(adapter, toy_images())
    losses = torch.stack([step.loss for step in steps])
    close(losses, "clipartt_losses_10_steps_as_released")
    assert torch.equal(torch.stack(chosen), golden("clipartt_topk_10_steps_as_released"))
    close(norm_of(adapter).weight, "clipartt_norm_weight_after_10_as_released")
    close(norm_of(adapter).bias, "clipartt_norm_bias_after_10_as_released")
    close(logits.softmax(1), "clipartt_probabilities_after_10_as_released", rtol=1e-5, atol=1e-6)


# WATT


def watt(kind, rounds, released=True):
    settings = METHODS[f"watt-{kind}"].settings
    changes = {"objective.templates": 3, "aftermath.0.templates": 3, "steps": 6 * rounds}
    changes |= {"objective.released": released, "update.learning_rate": 1e-3}
    if released:
        changes["aftermath.0.released"] = True
    bundle = toy_bundle(golden("watt_templates"))
    return adapter_of(bundle, f"watt-{kind}", settings=changed(settings, changes))


def test_watt_s_texts_are_the_release_s():
    rate, each, _ = golden("watt_settings").tolist()
    settings = METHODS["watt-s"].settings
    assert (settings.update.learning_rate, settings.objective.steps) == (rate, each)
    head = toy_bundle(golden("watt_templates")).classifier.head
    close(head.by_template, "watt_text_features")
    close(head.class_weights, "watt_average_text_features")


@pytest.mark.parametrize("rounds", [1, 2])
@pytest.mark.parametrize("kind", ["parallel", "sequential"])
def test_watt_takes_the_release_s_steps(monkeypatch, kind, rounds):
    adapter = watt(kind[0], rounds)
    name = f"watt_{kind}_m{rounds}"
    [average] = adapter._learner.aftermath
    ends, taken = [], []

    def spy(step_taken):
        taken.append(1)
        if len(taken) % 2 == 0:
            norm = norm_of(adapter)
            ends.append([norm.weight.detach().clone(), norm.bias.detach().clone()])
        average(step_taken)

    adapter._learner.aftermath[0] = spy
    logits, steps = stepped(adapter, toy_images())
    losses = torch.stack([step.loss for step in steps]).view(rounds, 3, 2)
    close(losses, f"{name}_losses_as_released")
    for place, part in enumerate(("weight", "bias")):
        last = torch.stack([end[place] for end in ends[-3:]])
        close(last, f"{name}_last_round_norm_{part}_as_released")
        close(getattr(norm_of(adapter), part), f"{name}_norm_{part}_as_released")
    close(logits.softmax(1), f"{name}_probabilities_as_released", rtol=1e-5, atol=1e-6)
    assert torch.equal(logits.argmax(1), golden(f"{name}_prediction_as_released"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"objective.templates": 4}, "4 templates with 2 steps each, .* over 8 with 2"),
        ({"aftermath.0.steps": 3}, "8 templates with 2 steps each, .* over 8 with 3"),
        ({"objective": "entropy"}, "choose the objective template-turns"),
    ],
)
def test_an_average_over_turns_that_are_not_taken_is_refused(changes, said):
    with pytest.raises(InputError, match=said):
        check_settings(changed(METHODS["watt-s"].settings, changes))


@pytest.mark.parametrize("name", ["watt-p", "watt-s"])
def test_steps_that_end_within_a_round_are_refused(name):
    """They would count for nothing in watt-p, and for single templates in watt-s."""
    for steps in (1, 8, 20):
        with pytest.raises(InputError, match=f"a multiple of 16, not {steps}") as caught:
            check_settings(changed(METHODS[name].settings, {"steps": steps}))
        assert "\n" not in str(caught.value)
    for steps in (0, 16, 32):
        check_settings(changed(METHODS[name].settings, {"steps": steps}))


# Many images at once


def test_tpt_on_32_images_at_once_is_one_after_another():
    bundle = clip_bundle(("ant", "bee", "cat", "dog"))
    images = torch.randint(256, (32, 3, 16, 16), dtype=torch.uint8)
    together, singly = (adapter_of(bundle, "tpt") for _ in range(2))
    found = together(images)
    each = torch.cat([singly(image) for image in images.split(1)])
    assert (found - Adapter(bundle, "source", device="cpu")(images)).abs().max() > 1e-2
    torch.testing.assert_close(found, each, rtol=1e-4, atol=1e-4)
    assert together.steps[0].images.tolist() == [1] * 32
