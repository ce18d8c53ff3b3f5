"""What the test of several ranks runs in processes of its own."""

import os
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import torch
from rich.console import Console
from safetensors.torch import save_file

from acclimate.commands.common import make_bundle
from acclimate.data import load
from acclimate.errors import InputError
from acclimate.source import loop
from acclimate.source.loop import Run, Training
from acclimate.source.presets import STAGES, SourceSettings
from acclimate.source.train import train
from acclimate.storage.sealed import plain

RANKS = 2
# Two steps of each stage; of Adam's, the first would be as long for whatever gradient.
STEPS = Training(epochs=1, batch=8, optimizer="sgd", learning_rate=0.05, warm_up=0)
SETTINGS = SourceSettings(**dict.fromkeys(STAGES, STEPS), contrastive_temperature=0.5)


def made(method: str, architecture: str) -> dict[str, torch.Tensor]:
    """All that a method trains on sixteen images, and each stage's loss."""
    data = load("fashion-mnist-mini", "train")
    data = replace(data, images=data.images[:16], labels=data.labels[:16])
    run = Run(precision="fp32", device="cpu")
    state = train(method, architecture, data, SETTINGS, run).modules.state_dict()
    losses = [epoch["loss"] for epochs in run.history.values() for epoch in epochs]
    return plain(state) | {"losses": torch.tensor(losses)}


def as_rank(rank: int, folder: Path, tasks: list[tuple[str, str]]) -> None:
    """Train as one of several ranks, task after task; what each made becomes a file."""
    torch.set_num_threads(1)
    os.environ |= dict.fromkeys(["RANK", "LOCAL_RANK"], str(rank))  # as a launcher does
    os.environ |= dict.fromkeys(["WORLD_SIZE", "LOCAL_WORLD_SIZE"], str(RANKS))
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=RANKS,
        timeout=timedelta(minutes=3),
    )
    for number, task in enumerate(tasks):
        save_file(made(*task), folder / f"{number}-{rank}.safetensors")
    given: dict = {"seed": 0, "device": "cpu", "memory_limit": None, "batches": {}}
    given |= {"images": torch.empty(0), "guard": 0}
    make_bundle(lambda run: Written(rank), folder / "written", Console(quiet=True), **given)
    (folder / f"refusal-{rank}").write_text(refusal())
    torch.distributed.destroy_process_group()


@dataclass
class Written:
    """Stands for a bundle: says who saved it."""

    rank: int

    def save(self, path: Path) -> None:
        """Add a line for each time that it is saved."""
        with path.open("a") as file:
            file.write(f"{self.rank}\n")


def refusal() -> str:
    """What is said of a batch that two ranks cannot share evenly."""
    module, settings = torch.nn.Linear(1, 1), replace(STEPS, batch=7)
    try:
        loop.train("odd", module, no_loss, settings, Run(device="cpu"), count=16, identity=None)
    except InputError as error:
        return str(error)
    return "nothing"


def no_loss(*_: object) -> torch.Tensor:
    """Never called."""
    raise AssertionError
