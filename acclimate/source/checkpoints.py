"""Checkpoints of a training stage: what resuming needs, and what it belongs to."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from acclimate.errors import InputError
from acclimate.storage import sealed


def stamp_of(name: str, module: nn.Module, settings: Any, rest: list[object]) -> str:
    """A hash of everything that determines a stage's result."""
    initial = sealed.digest(module.state_dict(), "")
    parts = [name, initial, asdict(settings), *rest]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def save(
    path: Path,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    stamp: str,
    history: list[dict[str, float]],
) -> None:
    """Write the weights, the optimiser's state and the history of a stage."""
    tensors = {f"module.{name}": value for name, value in module.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            if value is not None:  # SGD has no buffer before its first step
                tensors[f"optimizer.{index}.{name}"] = value
    sealed.save(path, tensors, {"stamp": stamp, "history": history})


def resume(
    path: Path, module: nn.Module, optimizer: torch.optim.Optimizer, stamp: str
) -> list[dict[str, float]]:
    """Take over the weights and the optimiser's state of a checkpoint; returns its history.

    Raises:
        InputError: the file is damaged, or of a run with another stamp.
    """
    tensors, record = sealed.load(path)
    if record["stamp"] != stamp:
        raise InputError(
            f"{path} is a checkpoint of a run with other settings or data; choose another --out "
            "or delete it."
        )
    prefix = "module."
    own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    module.load_state_dict(sealed.with_versions(own, module))
    parameters = optimizer.param_groups[0]["params"]
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, part = name.split(".")
            parameter = parameters[int(index)]
            if value.shape == parameter.shape:
                # Fused optimisers need a state in the memory layout of its parameter.
                value = torch.empty_like(parameter).copy_(value)
            else:
                value = value.to(parameter.device)
            optimizer.state[parameter][part] = value
    return record["history"]
