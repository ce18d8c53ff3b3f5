"""What the test of killed training runs in processes of its own."""

from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from trials import few_trials

from acclimate.data import load
from acclimate.source import train as source
from acclimate.source.loop import Run, Training
from acclimate.source.presets import SourceSettings

STEPS = {"supervised": 4 * 6, "contrastive": 3 * 6, "align": 3 * 6}
"""Of each stage: a twin learns from the images that are not held out."""
SETTINGS = SourceSettings(
    supervised=Training(epochs=6, batch=48, optimizer="sgd", learning_rate=0.05, warm_up=1),
    contrastive=Training(epochs=6, batch=48, learning_rate=1e-3, warm_up=1),
    align=Training(epochs=6, batch=48, learning_rate=1e-3, warm_up=1),
    contrastive_temperature=0.5,
)


def train(folder: Path, sender: Connection) -> None:
    """All stages of a small CTA; each step is reported, the bundle is the last thing written."""
    torch.set_num_threads(1)
    data = load("fashion-mnist-mini", "train")
    data = replace(data, images=data.images[:200], labels=data.labels[:200])
    run = Run(
        seed=3,
        folder=folder,
        precision="fp32",
        device="cpu",
        progress=lambda stage, done, *_: sender.send((stage, done)) if stage in STEPS else None,
    )
    with few_trials():
        bundle = source.train("cta", "acclimate:resnet8-w8", data, SETTINGS, run)
    bundle.save(folder / "bundle")
