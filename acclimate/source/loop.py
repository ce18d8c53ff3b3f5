"""The training loop: any module, any loss; a resumed run ends bit-identical."""

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

from acclimate.backbones.recompute import Thrift
from acclimate.errors import InputError, unknown_name
from acclimate.randomness import key, permutation
from acclimate.runtime.budget import parse_bytes
from acclimate.runtime.precision import Precision, autocast, resolve
from acclimate.runtime.progress import Progress, silent
from acclimate.runtime.ranks import agree
from acclimate.source.room import room_for
from acclimate.storage import sealed


@dataclass(frozen=True)
class Training:
    """Number of epochs and optimiser of a stage. The defaults are CTA's.

    ```python
    settings = replace(PRESETS["small"], align=Training(epochs=20, learning_rate=1e-3))
    ```
    """

    epochs: int = 50
    """Number of passes over the images; 0 skips the stage."""
    batch: int = 256
    """Number of images per step, over all processes; an incomplete last batch is dropped."""
    optimizer: Literal["adam", "sgd"] = "adam"
    """Adam, or SGD with Nesterov momentum 0.9."""
    learning_rate: float = 5e-4
    """Peak learning rate, after warm-up."""
    final_learning_rate: float = 1e-6
    """Learning rate at the end of the cosine schedule."""
    warm_up: float = 2.0
    """Number of epochs during which the learning rate rises linearly."""
    weight_decay: float = 0.0
    """Factor of the L2 penalty."""


@dataclass(frozen=True)
class Run:
    """Seed, checkpoints, precision, device and progress of a training run.

    ```python
    run = Run(seed=1, folder=Path("checkpoints"))
    bundle = acclimate.train("cta", "acclimate:resnet26", data, run=run)
    print(run.history["align"][-1]["loss"])
    ```
    """

    seed: int = 0
    """Random seed. It determines the weights, on one machine with the same number of threads."""
    folder: Path | None = None
    """Folder of the checkpoints, one file per stage; None writes none."""
    precision: Precision = "auto"
    """Precision of the forward passes; auto takes bf16 where the device supports it natively."""
    progress: Progress = silent
    """Function called with the stage's name, steps done, total steps, and a remark."""
    device: Literal["cpu"] | None = None
    """Device to train on: ``"cpu"``, or None for a GPU if there is one."""
    memory_limit: str | int | None = None
    """The most memory that the process may hold, such as ``"4GB"``; None goes by what the machine
    has free. Where a step would take more, activations are computed anew instead of kept: the
    same weights up to rounding."""
    history: dict[str, list[dict[str, float]]] = field(default_factory=dict, compare=False)
    """Mean loss and seconds of each epoch, by stage; filled during training."""


def check_training(stage: str, settings: Training) -> None:
    """Check the settings of a stage.

    Raises:
        InputError: a number is negative, not finite or not an integer where one is needed, or the
            optimiser is unknown.
    """
    for name, least in (("epochs", 0), ("batch", 1)):
        value = getattr(settings, name)
        if not isinstance(value, int) or value < least:
            raise InputError(f"{stage}.{name} must be an integer of at least {least}, not {value}.")
    for name in ("learning_rate", "final_learning_rate", "warm_up", "weight_decay"):
        value = getattr(settings, name)
        if not (math.isfinite(value) and value >= 0):
            raise InputError(f"{stage}.{name} must be a finite number, 0 or more, not {value}.")
    if settings.optimizer not in ("adam", "sgd"):
        raise unknown_name(f"{stage}.optimizer", settings.optimizer, ("adam", "sgd"))


Loss = Callable[[nn.Module, Int64[Tensor, " batch"], int], Tensor]
"""Function of (module on its device, image indices, key of the epoch) to the mean loss."""


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

    A checkpoint is written after each epoch. If the run's folder holds a checkpoint of this stage,
    training resumes from it; the result is bit-identical to that of an uninterrupted run.

    Args:
        name: Name of the stage and of its checkpoint.
        module: On return trained, on the run's device, in training mode.
        loss: The mean loss of a batch.
        settings: Number of epochs, and optimiser.
        run: Seed, checkpoints, device, progress.
        count: Number of images.
        identity: Everything else that the loss depends on, serialisable as JSON: images, frozen
            networks, its own settings. A checkpoint of another identity, seed, settings,
            precision, kind of device or initial weights is rejected.

    Raises:
        InputError: the settings are invalid, the batch cannot be divided evenly among the
            processes, the checkpoint is damaged or belongs to another run, or the loss becomes
            infinite or nan, or a step does not fit into the memory.
    """
    check_training(name, settings)
    # In a frozen or tapped network, some parameters have no gradient.
    ranks = DistributedDataParallelKwargs(find_unused_parameters=True)
    accelerator = Accelerator(cpu=run.device == "cpu", kwargs_handlers=[ranks])
    batch = _share(min(settings.batch, count), accelerator.num_processes)
    module.to(accelerator.device).to(memory_format=torch.channels_last)
    optimizer = make_optimizer([p for p in module.parameters() if p.requires_grad], settings)
    path = run.folder / f"{name}.safetensors" if run.folder else None
    where = [run.seed, accelerator.device.type, resolve(run.precision, accelerator.device)]
    stamp = _stamp(name, module, settings, [*where, count, identity]) if path else ""
    history = run.history[name] = []
    if path and path.exists():
        history[:] = _resume(path, module, optimizer, stamp)
    prepared = accelerator.prepare_model(module) if accelerator.num_processes > 1 else module
    prepared.train()
    left = range(len(history), settings.epochs)
    thrift = _thrift(name, module, loss, run, batch, count) if left else Thrift()
    for epoch in left:
        started = time.perf_counter()
        with thrift.applied():
            mean = _epoch(name, prepared, optimizer, loss, settings, run, accelerator, epoch, count)
        seconds = time.perf_counter() - started
        history.append({"epoch": epoch + 1, "loss": mean, "seconds": round(seconds, 3)})
        if path and accelerator.is_main_process:
            _checkpoint(path, module, optimizer, stamp, history)
        accelerator.wait_for_everyone()
    # Each process has batch-norm statistics of its own images; the checkpoint has the first's.
    agree(module.buffers())
    optimizer.zero_grad(set_to_none=True)  # frees as much memory as the module takes


def _thrift(name: str, module: nn.Module, loss: Loss, run: Run, batch: int, count: int) -> Thrift:
    """How steps keep within the memory."""
    limit = None if run.memory_limit is None else parse_bytes(run.memory_limit)
    return room_for(
        name, module, loss, batch=batch, count=count, precision=run.precision, limit=limit
    )


def _share(batch: int, processes: int) -> int:
    """How many images of a batch each process takes."""
    if batch % processes:
        raise InputError(
            f"a batch of {batch} images cannot be divided evenly among {processes} processes; "
            f"choose a batch that is a multiple of {processes}."
        )
    return batch // processes


def _epoch(name, prepared, optimizer, loss, settings, run, accelerator, epoch, count) -> float:
    """One pass over the images; returns the mean loss."""
    epoch_key = key(run.seed, name, epoch)
    # For dropout and stochastic depth, which draw from the global generator.
    torch.manual_seed((epoch_key + accelerator.process_index) & (2**63 - 1))
    batch = min(settings.batch, count)
    steps = count // batch
    order = permutation(epoch_key, count)
    total = torch.zeros((), device=accelerator.device)
    for step in range(steps):
        rate = learning_rate(settings, epoch + step / steps, 1 / steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        index = order[step * batch : (step + 1) * batch]
        index = index[accelerator.process_index :: accelerator.num_processes]
        optimizer.zero_grad(set_to_none=True)
        with autocast(accelerator.device, run.precision):
            value = loss(prepared, index, epoch_key)
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
    """The learning rate: linear warm-up, then a cosine from the peak to the final rate.

    Args:
        settings: Peak and final learning rate, warm-up, and number of epochs.
        epoch: Number of epochs done, with its fraction.
        step: Length of a step in epochs; added during warm-up, so that the first rate is not 0.
    """
    if epoch < settings.warm_up:
        return settings.learning_rate * min(1.0, (epoch + step) / settings.warm_up)
    through = (epoch - settings.warm_up) / max(settings.epochs - settings.warm_up, 1e-9)
    low, high = settings.final_learning_rate, settings.learning_rate
    return low + (high - low) * 0.5 * (1 + math.cos(math.pi * min(through, 1.0)))


def make_optimizer(parameters: list[nn.Parameter], settings: Training) -> torch.optim.Optimizer:
    """Adam, or SGD with Nesterov momentum 0.9, in the fused version, the fastest on CPU and GPU."""
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
    """A hash of everything that determines a stage's result."""
    initial = sealed.digest(module.state_dict(), "")
    parts = [name, initial, asdict(settings), *rest]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _checkpoint(path, module, optimizer, stamp, history) -> None:
    tensors = {f"module.{name}": value for name, value in module.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            if value is not None:  # SGD has no buffer before its first step
                tensors[f"optimizer.{index}.{name}"] = value
    sealed.save(path, tensors, {"stamp": stamp, "history": history})


def _resume(path, module, optimizer, stamp) -> list[dict[str, float]]:
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
