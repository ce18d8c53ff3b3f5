"""The one training loop: any module, any loss, killed and resumed to the same bits."""

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from jaxtyping import Int64
from torch import Tensor, nn

from acclimate.errors import InputError, unknown_name
from acclimate.randomness import key, permutation
from acclimate.runtime.precision import Precision, autocast, resolve
from acclimate.runtime.progress import Progress, silent
from acclimate.runtime.ranks import agree
from acclimate.storage import sealed


@dataclass(frozen=True)
class Training:
    """How long and with which optimiser a stage trains. The defaults are CTA's."""

    epochs: int = 50
    """Passes over the images; 0 skips the stage."""
    batch: int = 256
    """Images a step, over all ranks; an epoch's incomplete last batch is left out."""
    optimizer: Literal["adam", "sgd"] = "adam"
    """Adam, or SGD with Nesterov momentum 0.9."""
    learning_rate: float = 5e-4
    """The peak, after warm-up."""
    final_learning_rate: float = 1e-6
    """Where the cosine ends."""
    warm_up: float = 2.0
    """Epochs in which the learning rate rises linearly."""
    weight_decay: float = 0.0
    """L2 penalty's factor."""


@dataclass(frozen=True)
class Run:
    """Where and how a stage runs."""

    seed: int = 0
    """The same seed gives the same weights, on the same machine with the same threads."""
    folder: Path | None = None
    """Where checkpoints go, one file a stage; none are written without it."""
    precision: Precision = "auto"
    """bf16 where the device multiplies it natively, or as told."""
    progress: Progress = silent
    """Called with the stage's name, steps done, all steps, and a remark."""
    device: Literal["cpu"] | None = None
    """``"cpu"`` keeps training off a GPU that is there."""
    history: dict[str, list[dict[str, float]]] = field(default_factory=dict, compare=False)
    """Filled by each stage: loss, learning rate and seconds of each epoch."""


def check_training(stage: str, settings: Training) -> None:
    """Refuse settings that cannot be meant.

    Raises:
        InputError: a number that is negative, not finite or not whole, or an unknown optimiser.
    """
    for name, least in (("epochs", 0), ("batch", 1)):
        value = getattr(settings, name)
        if not isinstance(value, int) or value < least:
            raise InputError(f"{stage}.{name} must be a whole number from {least}, not {value}.")
    for name in ("learning_rate", "final_learning_rate", "warm_up", "weight_decay"):
        value = getattr(settings, name)
        if not (math.isfinite(value) and value >= 0):
            raise InputError(f"{stage}.{name} must be a finite number, 0 or more, not {value}.")
    if settings.optimizer not in ("adam", "sgd"):
        raise unknown_name(f"{stage}.optimizer", settings.optimizer, ("adam", "sgd"))


Loss = Callable[[nn.Module, Int64[Tensor, " batch"], int], Tensor]
"""(module as prepared for its device, image numbers, key of this epoch) -> mean loss."""


def train(
    name: str,
    module: nn.Module,
    loss: Loss,
    settings: Training,
    run: Run,
    *,
    count: int,
    identity: object = None,
) -> None:
    """Train a module's parameters that require gradients, in place.

    A checkpoint is written after each epoch; where one of the same stage is found, training goes on
    from it and ends in the same bits as if it had never stopped.

    Args:
        name: The stage's name, and its checkpoint's.
        module: On return: trained, on the run's device, in training mode.
        loss: The batch's mean loss.
        settings: Length and optimiser.
        run: Seed, checkpoints, device, progress.
        count: How many images there are.
        identity: Whatever else the loss depends on (JSON-able): images, frozen networks, its own
            settings. A checkpoint made with another identity, seed, settings, precision, kind of
            device or initial weights is refused.

    Raises:
        InputError: impossible settings, a batch that cannot be shared evenly among the processes,
            a checkpoint that is damaged or belongs to another run, or a loss that is not finite.
    """
    check_training(name, settings)
    # Of a frozen or tapped network not every parameter has a gradient.
    ranks = DistributedDataParallelKwargs(find_unused_parameters=True)
    accelerator = Accelerator(cpu=run.device == "cpu", kwargs_handlers=[ranks])
    _check_shares(min(settings.batch, count), accelerator.num_processes)
    module.to(accelerator.device).to(memory_format=torch.channels_last)
    optimizer = make_optimizer([p for p in module.parameters() if p.requires_grad], settings)
    path = run.folder / f"{name}.safetensors" if run.folder else None
    precision = resolve(run.precision, accelerator.device)
    where = [run.seed, accelerator.device.type, precision]
    stamp = _stamp(name, module, settings, [*where, count, identity]) if path else ""
    history = run.history[name] = []
    if path and path.exists():
        history[:] = _resume(path, module, optimizer, stamp)
    prepared = accelerator.prepare_model(module) if accelerator.num_processes > 1 else module
    prepared.train()
    for epoch in range(len(history), settings.epochs):
        started = time.perf_counter()
        mean = _epoch(name, prepared, optimizer, loss, settings, run, accelerator, epoch, count)
        seconds = time.perf_counter() - started
        history.append({"epoch": epoch + 1, "loss": mean, "seconds": round(seconds, 3)})
        if path and accelerator.is_main_process:
            _checkpoint(path, module, optimizer, stamp, history)
        accelerator.wait_for_everyone()
    # Batch norm's statistics are of each rank's own images; the first one's are in the checkpoint.
    agree(module.buffers())
    optimizer.zero_grad(set_to_none=True)  # as large as the module


def _check_shares(batch: int, processes: int) -> None:
    if batch % processes:
        raise InputError(
            f"a batch of {batch} images cannot be shared evenly among {processes} processes; "
            f"choose a batch that is a multiple of {processes}."
        )


def _epoch(name, prepared, optimizer, loss, settings, run, accelerator, epoch, count) -> float:
    """One pass over the images; returns the mean loss."""
    epoch_key = key(run.seed, name, epoch)
    # Dropout and stochastic depth draw from the global generator.
    torch.manual_seed((epoch_key + accelerator.process_index) & (2**63 - 1))
    batch = min(settings.batch, count)
    steps = count // batch
    order = permutation(epoch_key, count)
    total = torch.zeros((), device=accelerator.device)
    for step in range(steps):
        rate = learning_rate(settings, epoch + step / steps, 1 / steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        numbers = order[step * batch : (step + 1) * batch]
        numbers = numbers[accelerator.process_index :: accelerator.num_processes]
        optimizer.zero_grad(set_to_none=True)
        with autocast(accelerator.device, run.precision):
            value = loss(prepared, numbers, epoch_key)
        accelerator.backward(value)
        optimizer.step()
        total += value.detach()
        run.progress(name, epoch * steps + step + 1, settings.epochs * steps, f"epoch {epoch + 1}")
    mean = accelerator.reduce(total, "mean").item() / steps
    if not math.isfinite(mean):
        raise InputError(
            f"the {name} loss became {mean} in epoch {epoch + 1}; lower the learning rate."
        )
    return mean


def learning_rate(settings: Training, epoch: float, step: float = 0.0) -> float:
    """Linear warm-up, then a cosine from the peak to the final rate.

    Args:
        settings: Peak, end, warm-up and length.
        epoch: Epochs done, as a fraction.
        step: Length of a step in epochs; the warm-up's first step already moves.
    """
    if epoch < settings.warm_up:
        return settings.learning_rate * min(1.0, (epoch + step) / settings.warm_up)
    through = (epoch - settings.warm_up) / max(settings.epochs - settings.warm_up, 1e-9)
    low, high = settings.final_learning_rate, settings.learning_rate
    return low + (high - low) * 0.5 * (1 + math.cos(math.pi * min(through, 1.0)))


def make_optimizer(parameters: list[nn.Parameter], settings: Training) -> torch.optim.Optimizer:
    """Adam, or SGD with Nesterov momentum 0.9; fused, which is the fastest on CPU and GPU."""
    if settings.optimizer == "adam":
        return torch.optim.Adam(
            parameters, settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
    return torch.optim.SGD(
        parameters,
        settings.learning_rate,
        momentum=0.9,
        nesterov=True,
        weight_decay=settings.weight_decay,
        fused=True,
    )


def _stamp(name: str, module: nn.Module, settings: Training, rest: list[object]) -> str:
    """A hash of all that determines a stage's result."""
    begin = sealed.digest(module.state_dict(), "")
    parts = [name, begin, asdict(settings), *rest]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _checkpoint(path, module, optimizer, stamp, history) -> None:
    tensors = {f"module.{name}": value for name, value in module.state_dict().items()}
    for number, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            if value is not None:  # SGD has no buffer before its first step
                tensors[f"optimizer.{number}.{name}"] = value
    sealed.save(path, tensors, {"stamp": stamp, "history": history})


def _resume(path, module, optimizer, stamp) -> list[dict[str, float]]:
    tensors, record = sealed.load(path)
    if record["stamp"] != stamp:
        raise InputError(
            f"{path} is a checkpoint of a run with other settings or data; choose another --out "
            f"or delete it."
        )
    prefix = "module."
    module.load_state_dict(
        {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    )
    parameters = optimizer.param_groups[0]["params"]
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, number, part = name.split(".")
            parameter = parameters[int(number)]
            if value.shape == parameter.shape:
                # The fused optimisers walk raw memory: a state must be laid out as its parameter.
                value = torch.empty_like(parameter).copy_(value)
            else:
                value = value.to(parameter.device)
            optimizer.state[parameter][part] = value
    return record["history"]
