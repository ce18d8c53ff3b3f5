"""Zero-shot heads and prompts, against open_clip's own text encoder and tokenizer."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import SimpleTokenizer
from torch.nn.functional import normalize
from toy_clip import TINY

from acclimate.backbones import class_weights, moving_parameters
from acclimate.backbones.clip import (
    Clip,
    as_classifier,
    build_clip,
    construct,
    load_clip,
    tokenizer,
)
from acclimate.backbones.clip_text import TextEncoder
from acclimate.backbones.prompted import TEMPLATES, filled, tokens_of, words_of
from acclimate.backbones.zero_shot import ContextHead, words_in
from acclimate.errors import InputError

NAMES = ["cat", "red panda", "St. Bernard", "dog"]


@pytest.fixture(scope="module")
def clip():
    torch.manual_seed(0)
    return build_clip(TINY).requires_grad_(False)


@pytest.fixture(scope="module")
def words(clip):
    return words_of(TextEncoder(clip), tokenizer(), NAMES)


def by_clip(clip, texts):
    """Features of open_clip's own way, over all positions."""
    length = TINY["text_cfg"]["context_length"]
    return clip.encode_text(SimpleTokenizer()(texts, context_length=length), normalize=True)


def test_logits_are_open_clip_s(clip):
    classifier, _ = as_classifier(Clip(clip, TINY), NAMES, TEMPLATES[:3])
    images = torch.randn(5, 3, 16, 16)
    each = [by_clip(clip, filled(template, NAMES)) for template in TEMPLATES[:3]]
    texts = normalize(torch.stack(each).mean(0), dim=1)
    expected = clip.logit_scale.exp() * clip.encode_image(images, normalize=True) @ texts.T
    torch.testing.assert_close(classifier(images), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(classifier.head.by_template, torch.stack(each))


def test_what_follows_a_text_s_end_changes_nothing(clip, words):
    """Prompts are cut to the longest; open_clip computes all positions."""
    texts = [f"a photo of a {name}." for name in NAMES]
    assert words.prompts.shape[1] < TINY["text_cfg"]["context_length"]
    torch.testing.assert_close(words.vectors(words.prompts), by_clip(clip, texts))
    torch.testing.assert_close(words.with_context(words.start()), by_clip(clip, texts))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.permutations(range(4)).map(lambda p: p[:3]), min_size=1, max_size=5))
def test_joined_prompts_are_the_tokenizer_s(words, chosen):
    tokens = words.joined(torch.tensor(chosen), words.longest_joined(3))
    texts = ["a photo of a " + " or ".join(NAMES[c] for c in row) for row in chosen]
    assert torch.equal(tokens, SimpleTokenizer()(texts, context_length=tokens.shape[1]))


def test_a_context_moves_alone(clip):
    classifier, _ = as_classifier(Clip(clip, TINY), NAMES, TEMPLATES[:1])
    features = torch.randn(2, 16)
    head = ContextHead(classifier.head)
    assert list(moving_parameters(head)) == ["context"]
    head(features).sum().backward()
    assert head.context.grad.abs().sum() > 0
    assert all(p.grad is None for name, p in head.named_parameters() if name != "context")


def test_the_rows_of_a_head_are_its_texts(clip):
    classifier, _ = as_classifier(Clip(clip, TINY), NAMES, TEMPLATES)
    assert class_weights(classifier.head) is classifier.head.class_weights
    assert class_weights(torch.nn.Sequential()) is None


def test_a_recorded_classifier_is_built_anew(clip):
    classifier, name = as_classifier(Clip(clip, TINY), NAMES, TEMPLATES)
    again = construct(name, len(NAMES))
    shapes = {n: t.shape for n, t in classifier.state_dict().items()}
    assert {n: t.shape for n, t in again.state_dict().items()} == shapes
    again.load_state_dict(classifier.state_dict())
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(again.eval()(images), classifier(images))


@pytest.mark.parametrize("damaged", ["{", '{"clip": {}}', '{"clip": [], "templates": 1}'])
def test_a_damaged_record_is_refused(damaged):
    with pytest.raises(InputError, match="damaged"):
        construct(f"openclip:{damaged}", 3)


def test_a_model_without_names_is_refused():
    with pytest.raises(InputError, match="acclimate zero-shot"):
        construct("openclip:ViT-B-32", 3)


@pytest.mark.parametrize("template", ["a photo", "{} and {}", ""])
def test_a_template_has_one_place(template):
    with pytest.raises(InputError, match=r"must have \{\} once"):
        filled(template, NAMES)


def test_a_text_that_is_too_long_is_named(words):
    long = " ".join(["very"] * 40)
    with pytest.raises(InputError, match="longer than the 24 tokens"):
        tokens_of(tokenizer(), ["short", long], words.positions)


@pytest.mark.parametrize("change", [{"vocab_size": 100}, {"hf_tokenizer_name": "x"}])
def test_other_tokenizers_are_refused(clip, change):
    config = TINY | {"text_cfg": TINY["text_cfg"] | change}
    with pytest.raises(InputError, match="CLIP's tokenizer"):
        as_classifier(Clip(clip, config), NAMES, TEMPLATES)


@pytest.mark.parametrize("change", [{"no_causal_mask": True}, {"pool_type": "last"}])
def test_text_encoders_of_another_kind_are_refused(change):
    config = TINY | {"text_cfg": TINY["text_cfg"] | change, "custom_text": True}
    with pytest.raises(InputError, match="is not CLIP's"):
        TextEncoder(build_clip(config))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("openclip:ViT-B-23", "did you mean|choose one of"),
        ("openclip:ViT-B-32", "random weights"),
        ("timm:resnet18", "no zero-shot classifier"),
        ("hf-clip:nowhere", "there is no"),
    ],
)
def test_models_that_cannot_be_loaded(name, message):
    with pytest.raises(InputError, match=message) as caught:
        load_clip(name, None)
    assert "\n" not in str(caught.value)


def test_a_head_without_words(clip):
    classifier, _ = as_classifier(Clip(clip, TINY), NAMES, TEMPLATES)
    classifier.head.words = None
    with pytest.raises(InputError, match="no text encoder"):
        words_in(classifier.head)
