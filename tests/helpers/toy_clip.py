"""Tiny vision-language models: those of `golden/clip.npz`, and one of open_clip's layers."""

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import normalize

from acclimate.backbones import Classifier
from acclimate.backbones.clip import Clip, as_classifier, build_clip
from acclimate.backbones.prompted import TEMPLATES, Words
from acclimate.backbones.zero_shot import ZeroShotHead, zero_shot
from acclimate.bundle import Bundle
from acclimate.preprocessing import Preprocessing

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "clip.npz")
PLAIN = Preprocessing(2, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "patch_size": 4, "width": 32, "layers": 2, "head_width": 16},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}


def golden(name):
    """An array of the file; floats in float64, texts as strings."""
    found = GOLDEN[name]
    if found.dtype.kind == "U":
        return [str(text) for text in found]
    found = torch.from_numpy(np.asarray(found))
    return found.double() if found.is_floating_point() else found


def close(found, name, rtol=1e-9, atol=1e-10):
    expected = golden(name)
    torch.testing.assert_close(found.detach().to(expected.dtype), expected, rtol=rtol, atol=atol)


class Numbers(nn.Module):
    """The numbers that images of 2 x 2 pixels carry, in float64."""

    def __init__(self, count):
        super().__init__()
        self.count = count

    def forward(self, images):
        return images.flatten(1)[:, : self.count].double()


def carried(x):
    """At most twelve numbers as images of 2 x 2 pixels."""
    return torch.cat([x, x.new_zeros(len(x), 12 - x.shape[1])], dim=1).double().view(-1, 3, 2, 2)


class WordMeans(nn.Module):
    """A text's features are the mean of its words' embeddings: no order, no start, no end."""

    positions = 32

    def __init__(self, words, embedding):
        super().__init__()
        self.words = list(words)
        rows = torch.zeros(len(words) + 3, embedding.shape[1], dtype=torch.float64)
        rows[2:-1] = embedding
        self.embedding = nn.Embedding.from_pretrained(rows, freeze=True)

    def tokenize(self, texts):
        found = [[1, *self._numbers(text), len(self.words) + 2] for text in texts]
        longest = max(map(len, found))
        return torch.tensor([row + [0] * (longest - len(row)) for row in found])

    def _numbers(self, text):
        return [self.words.index(word) + 2 for word in text.replace(".", "").split()]

    def embed(self, tokens):
        return self.embedding(tokens)

    def forward(self, embedded, tokens):
        named = ((tokens > 1) & (tokens < len(self.words) + 2)).to(embedded)[..., None]
        return (embedded * named).sum(1) / named.sum(1)


class RunningMeans(nn.Module):
    """The tiny text encoder of TPT in the golden file."""

    positions = 10

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding.from_pretrained(golden("tpt_token_embedding"))
        self.norm = nn.LayerNorm(8, dtype=torch.float64)
        for kind in ("weight", "bias"):
            getattr(self.norm, kind).data.copy_(golden(f"tpt_final_norm_{kind}"))

    def embed(self, tokens):
        return self.embedding(tokens)

    def forward(self, embedded, tokens):
        length = embedded.shape[1]
        x = embedded + golden("tpt_positional_embedding")[:length]
        means = x.cumsum(1) / torch.arange(1, length + 1, dtype=x.dtype)[:, None]
        x = self.norm(x + (means @ golden("tpt_mix_weight")).tanh())
        ends = tokens.argmax(1)[:, None, None].expand(-1, 1, x.shape[2])
        return x.gather(1, ends).squeeze(1) @ golden("tpt_text_projection")


def toy_bundle(templates):
    """The tiny pair of CLIPArTT and WATT, in float64."""
    linear = [nn.Linear(12, 16), nn.Linear(16, 8)]
    norm = nn.LayerNorm(16)
    with torch.no_grad():
        for number, layer in enumerate(linear, 1):
            layer.weight.copy_(golden(f"toy_image_weight_{number}"))
            layer.bias.copy_(golden(f"toy_image_bias_{number}"))
        norm.weight.copy_(golden("toy_image_norm_weight"))
        norm.bias.copy_(golden("toy_image_norm_bias"))
    image = nn.Sequential(Numbers(12), linear[0], norm, nn.Tanh(), linear[1]).double().eval()
    text = WordMeans(golden("toy_words"), golden("toy_word_embedding"))
    scale = float(golden("toy_logit_scale"))
    names = golden("toy_classes")
    made = zero_shot(image, text, text.tokenize, names, templates, scale=scale)
    return Bundle(made.requires_grad_(False), None, PLAIN, tuple(names), recipe="supervised")


@torch.no_grad()
def tuned_bundle():
    """The tiny text encoder of TPT, with images that carry their features."""
    words = Words(RunningMeans(), 5, (8, 1, 4, 1)).double()
    words.prompts.copy_(golden("tpt_tokens")[:, :8])
    head = ZeroShotHead(1, 5, 6, words).double()
    head.by_template.copy_(words.vectors(words.prompts)[None])
    head.class_weights.copy_(normalize(head.by_template[0], dim=1))
    head.scale.fill_(float(golden("tpt_logit_scale")))
    classifier = Classifier(Numbers(6), head).requires_grad_(False).eval()
    return Bundle(classifier, None, PLAIN, tuple("abcde"), recipe="supervised")


def clip_bundle(names, size=16):
    """A CLIP of open_clip with random weights, small and in float32."""
    config = TINY | {"vision_cfg": TINY["vision_cfg"] | {"image_size": size}}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_clip(config).requires_grad_(False)
    classifier, architecture = as_classifier(Clip(model, config), names, TEMPLATES)
    preprocessing = Preprocessing(size, (0.5, 0.4, 0.3), (0.3, 0.2, 0.25))
    return Bundle(
        classifier,
        None,
        preprocessing,
        tuple(names),
        method="clipartt",
        recipe="supervised",
        architecture=architecture,
        provenance={"settings": {}},
    )
