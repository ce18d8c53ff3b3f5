"""Training of the small CLIP of `small_clip.py`, by open_clip's own model and loss."""

import math
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64
from open_clip import ClipLoss
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor, nn

from acclimate.backbones.clip import MEAN, STD, build_clip
from acclimate.backbones.prompted import TEMPLATES, filled
from acclimate.data import LabelledImages
from acclimate.preprocessing import Preprocessing
from acclimate.randomness import key, uniform
from acclimate.runtime.progress import Progress
from acclimate.storage.atomic import write_atomically
from acclimate.views import shifted_crop

CONFIG: dict[str, Any] = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 32, "patch_size": 4, "width": 64, "layers": 4, "head_width": 32},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}
"""A vision transformer of 65 tokens and a text transformer, as open_clip takes them."""
PREPROCESSING = Preprocessing(32, MEAN, STD, interpolation="bicubic")
BATCH, RATE, WARM_UP, DECAY = 128, 2e-3, 0.05, 0.05


def train(
    data: LabelledImages, path: Path, *, epochs: int, seed: int, progress: Progress
) -> nn.Module:
    """A small CLIP, from its file if it is there; resumes from the last epoch.

    Each image's caption is its class name in a template that is drawn anew. Many captions of a
    batch are the same then: the loss takes them for each other's negatives all the same.

    Args:
        data: Labelled images of 32 pixels.
        path: File of the weights. A checkpoint of the training lies beside it until it is there.
        epochs: Passes over the data.
        seed: Seed of weights, order, crops and captions.
        progress: Is told of each epoch.
    """
    torch.manual_seed(key(seed, "small clip") & (2**63 - 1))
    clip: Any = build_clip(CONFIG)
    if path.is_file():
        clip.load_state_dict(torch.load(path, weights_only=True))
        return clip
    optimizer = torch.optim.AdamW(clip.parameters(), RATE, weight_decay=DECAY, fused=True)
    checkpoint, start = path.with_suffix(".checkpoint"), 0
    if checkpoint.is_file():
        kept = torch.load(checkpoint, weights_only=True)
        clip.load_state_dict(kept["clip"])
        optimizer.load_state_dict(kept["optimizer"])
        start = kept["epochs"]
    captions = captions_of(data.classes)
    for epoch in range(start, epochs):
        loss = _epoch(clip, optimizer, data, captions, epoch, epochs, seed)
        kept = {"clip": clip.state_dict(), "optimizer": optimizer.state_dict(), "epochs": epoch + 1}
        write_atomically(checkpoint, lambda temporary, kept=kept: torch.save(kept, temporary))
        progress("train", epoch, epochs, f"loss {loss:.3f}")
    write_atomically(path, lambda temporary: torch.save(clip.state_dict(), temporary))
    checkpoint.unlink(missing_ok=True)
    return clip.eval()


def captions_of(classes: tuple[str, ...]) -> Int64[Tensor, "templates classes length"]:
    """Tokens of each class name in each template."""
    tokenize = SimpleTokenizer(context_length=CONFIG["text_cfg"]["context_length"])
    return torch.stack([tokenize(filled(template, classes)) for template in TEMPLATES])


def _epoch(
    clip: Any,
    optimizer: torch.optim.Optimizer,
    data: LabelledImages,
    captions: Tensor,
    epoch: int,
    epochs: int,
    seed: int,
) -> float:
    """One pass over the data; the mean loss."""
    loss_of, total = ClipLoss(), 0.0
    clip.train()
    generator = torch.Generator().manual_seed(key(seed, "order", epoch) & (2**63 - 1))
    order = torch.randperm(len(data.images), generator=generator)
    steps = len(order) // BATCH
    crops, drawn = key(seed, "crops", epoch), key(seed, "captions", epoch)
    every = captions.flatten(0, 1)
    for number in range(steps):
        share = (epoch * steps + number) / (epochs * steps)
        rate = RATE * min(share / WARM_UP, 0.5 + 0.5 * math.cos(math.pi * share))
        for group in optimizer.param_groups:
            group["lr"] = rate
        index = order[number * BATCH : (number + 1) * BATCH]
        images = shifted_crop(data.images[index].float() / 255, 4, key=crops, index=index)
        template = (uniform(drawn, index, 1).squeeze(1) * len(captions)).long()
        chosen = template * captions.shape[1] + data.labels[index]
        texts = clip.encode_text(every, normalize=True)[chosen]  # each caption is encoded once
        found = clip.encode_image(PREPROCESSING.normalize(images), normalize=True)
        loss = loss_of(found, texts, clip.logit_scale.exp())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            clip.logit_scale.clamp_(0, math.log(100))
        total += float(loss.detach())
    return total / steps
