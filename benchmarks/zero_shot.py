"""Methods of zero-shot classifiers: CLIPArTT and WATT over bare passes, TPT's images together."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from common import alternate, clock_of, describe, ratio
from torch import Tensor
from torch.nn.functional import normalize

from acclimate.adapt import Adapter
from acclimate.backbones.prompted import TEMPLATES
from acclimate.bundle import Bundle
from acclimate.commands.script import finish, start
from acclimate.parts.update import norm_parameters
from acclimate.runtime.memory import keep_freed_memory
from acclimate.source.train import untrained

NAMES = ("clipartt", "watt-s")
TOLERANCE = 0.1
"""Largest difference of float32 logits, as a share of what the steps move them by. Where a gradient
is nearly 0, rounding decides which way Adam goes."""


@dataclass
class Options:
    """Time CLIPArTT and WATT-S against a plain loop, and TPT on images at once and in turn."""

    model: str = "acclimate:vit6-w192-p4"
    """The image encoder."""
    batch: int = 64
    """Images of CLIPArTT and WATT."""
    steps: int = 4
    """Steps of CLIPArTT. WATT-S takes a round: twice its templates."""
    alone: int = 32
    """Images of TPT."""
    views: int = 64
    """Views of each image of TPT."""
    size: int = 32
    """Side of the images, in pixels."""
    classes: int = 10
    pairs: int = 5
    """Number of rounds."""
    threads: int = 1
    seed: int = 0
    out: Path | None = None
    """A JSON file."""


class Bare:
    """The steps of CLIPArTT, or with templates a round of WATT-S, in plain torch.

    Args:
        bundle: A zero-shot classifier.
        steps: Number of steps.
        templates: Whether each image's text is that of its first class in the template whose turn
            it is.
    """

    def __init__(self, bundle: Bundle, steps: int, templates: bool):
        self.model = copy.deepcopy(bundle.classifier).to(memory_format=torch.channels_last).eval()
        self.model.requires_grad_(False)
        self.moving = list(norm_parameters(self.model.encoder).values())
        for parameter in self.moving:
            parameter.requires_grad_(True)
        self.source = [parameter.detach().clone() for parameter in self.moving]
        self.preprocessing, self.steps, self.templates = bundle.preprocessing, steps, templates
        self.length = self.model.head.words.longest_joined(3)

    def __call__(self, images: Tensor) -> Tensor:
        """Adapt to a batch, and answer."""
        with torch.no_grad():
            torch._foreach_copy_(self.moving, self.source)
        optimizer = torch.optim.Adam(self.moving, 1e-3, fused=True)
        images, ends = self.preprocessing(images), []
        for number in range(self.steps):
            features = normalize(self.model.encoder(images), dim=1)
            with torch.no_grad():
                texts = self._texts(features, number)
                near = (features @ features.T + texts @ texts.T) / 2 / 0.01
                targets = near.softmax(1)
            logits = self.model.head.scale * features @ texts.T
            loss = -(targets * logits.log_softmax(1)).sum(1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if self.templates and number % 2:
                ends.append([parameter.detach().clone() for parameter in self.moving])
        with torch.no_grad():
            if ends:
                torch._foreach_copy_(self.moving, [torch.stack(at).mean(0) for at in zip(*ends)])
            return self.model(images)

    def _texts(self, features: Tensor, number: int) -> Tensor:
        head: Any = self.model.head
        if self.templates:
            texts = head.by_template[number // 2 % len(head.by_template)]
            return texts[(features @ texts.T).argmax(1)]
        likely = (features @ head.class_weights.T).topk(3, dim=1).indices
        return head.words.vectors(head.words.joined(likely, self.length))


def main(options: Options) -> None:
    """Check that answers are equal, then time."""
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    bundle = untrained("tpt", options.model, options.size, classes=options.classes)
    shape = (3, options.size, options.size)
    images = torch.randint(256, (max(options.batch, options.alone), *shape), dtype=torch.uint8)
    rows = [over_bare(name, bundle, images[: options.batch], options) for name in NAMES]
    rows.append(together(bundle, images[: options.alone], options))
    finish({"rows": rows}, options.seed, options.out)


def over_bare(name: str, bundle: Bundle, images: Tensor, options: Options) -> dict[str, Any]:
    """The adapter's time over that of the plain loop, in float32."""
    templates = name != "clipartt"
    steps = 2 * len(TEMPLATES) if templates else options.steps
    made = Adapter(bundle, name, device="cpu", precision="fp32", steps=steps)
    bare = Bare(bundle, steps, templates)
    check(name, made(images), bare(images), Adapter(bundle, "source", device="cpu")(images))
    runs = {"adapter": partial(made, images), "bare": partial(bare, images)}
    return timed(name, runs, "adapter", "bare", options)


def together(bundle: Bundle, images: Tensor, options: Options) -> dict[str, Any]:
    """The time of TPT's images in turn over that of all at once."""
    settings = {"precision": "fp32", "objective": {"views": options.views}}
    first, second = (Adapter(bundle, "tpt", device="cpu", **settings) for _ in range(2))

    def in_turn() -> Tensor:
        return torch.cat([second(image) for image in images.split(1)])

    check("tpt", first(images), in_turn(), Adapter(bundle, "source", device="cpu")(images))
    runs = {"at once": partial(first, images), "in turn": in_turn}
    return timed("tpt", runs, "in turn", "at once", options)


def check(name: str, found: Tensor, expected: Tensor, frozen: Tensor) -> None:
    """Both must do the same work, and visibly."""
    difference = float((found - expected).abs().max())
    moved = float((found - frozen).abs().max())
    if not difference < TOLERANCE * moved:
        raise SystemExit(f"{name}: logits differ by {difference:.2g}; steps moved them {moved:.2g}")


def timed(
    name: str, runs: dict[str, Callable[[], Any]], above: str, below: str, options: Options
) -> dict[str, Any]:
    """Times of two ways in alternation, printed with their ratio."""
    rounds = {label: (lambda _, run=run: run()) for label, run in runs.items()}
    seconds = alternate(rounds, options.pairs, clock_of(options.threads))
    found = ratio(seconds, above, below)
    for label, times in seconds.items():
        print(f"{name + ': ' + label:24} {median(times):8.3f}")
    print(f"{name}: {above} over {below} {describe(found)}")
    return {"method": name, "seconds": seconds, f"{above} over {below}": found}


if __name__ == "__main__":
    start(main, Options)
