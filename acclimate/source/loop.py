"""The training loop: any module, any loss; a resumed run ends bit-identical."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from jaxtyping import Float, Int64
from torch import Tensor, nn

from acclimate.backbones.recompute import Thrift
from acclimate.errors import InputError, unknown_name
from acclimate.randomness import Key, MovingKey, key, permutation
from acclimate.runtime.budget import parse_bytes
from acclimate.runtime.graphs import Recorder
from acclimate.runtime.precision import Precision, autocast, resolve
from acclimate.runtime.progress import Progress, silent
from acclimate.runtime.ranks import agree
from acclimate.source import checkpoints
from acclimate.source.room import room_for


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


Loss = Callable[[nn.Module, Int64[Tensor, " batch"], Key], Tensor]
"""Function of (module, image indices on its device, key of the epoch) to the mean loss."""


def train(
    name: str,
    module: nn.Module,
    loss: Loss,
    settings: Training,
    run: Run,
    *,
    count: int,
    identity: object = None,
    replayable: bool = True,
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
        replayable: Whether the loss may be recorded on a GPU, see `acclimate.runtime.graphs`.

    Raises:
        InputError: the settings are invalid, the batch cannot be divided evenly among the
            processes, the checkpoint is damaged or belongs to another run, or the loss becomes
            infinite or nan, or a step does not fit into the memory.
    """
    check_training(name, settings)
    accelerator = _accelerator(run)
    batch = _share(min(settings.batch, count), accelerator.num_processes)
    module.to(accelerator.device).to(memory_format=torch.channels_last)
    optimizer = make_optimizer([p for p in module.parameters() if p.requires_grad], settings)
    path = run.folder / f"{name}.safetensors" if run.folder else None
    where = [run.seed, accelerator.device.type, resolve(run.precision, accelerator.device)]
    stamp = checkpoints.stamp_of(name, module, settings, [*where, count, identity]) if path else ""
    history = run.history[name] = []
    if path and path.exists():
        history[:] = checkpoints.resume(path, module, optimizer, stamp)
    prepared = accelerator.prepare_model(module) if accelerator.num_processes > 1 else module
    prepared.train()
    left = range(len(history), settings.epochs)
    thrift = _thrift(name, module, loss, run, batch, count) if left else Thrift()
    epochs = _Epochs(
        name, prepared, optimizer, loss, settings, run, accelerator, count, thrift, replayable
    )
    for epoch in left:
        history.append(epochs.run(epoch))
        if path and accelerator.is_main_process:
            checkpoints.save(path, module, optimizer, stamp, history)
        accelerator.wait_for_everyone()
    # Each process has batch-norm statistics of its own images; the checkpoint has the first's.
    agree(module.buffers())
    optimizer.zero_grad(set_to_none=True)  # frees as much memory as the module takes


def _accelerator(run: Run) -> Accelerator:
    """The device, and the other processes."""
    # In a frozen or tapped network, some parameters have no gradient.
    ranks = DistributedDataParallelKwargs(find_unused_parameters=True)
    return Accelerator(cpu=run.device == "cpu", kwargs_handlers=[ranks])


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


@dataclass
class _Epochs:
    """Passes over the images."""

    name: str
    module: nn.Module
    optimizer: torch.optim.Optimizer
    loss: Loss
    settings: Training
    given: Run
    accelerator: Accelerator
    count: int
    thrift: Thrift
    replayable: bool

    def __post_init__(self) -> None:
        self.device = self.accelerator.device
        self.batch = min(self.settings.batch, self.count)
        self.total = torch.zeros((), device=self.device)
        self.recorder = Recorder(f"training of the stage {self.name}", self.device)
        if self.thrift.modules or self.accelerator.num_processes > 1 or not self.replayable:
            self.recorder.obstacle = "its steps are not the same operations each time"
        self.key: Key = MovingKey(0, self.device) if self.device.type == "cuda" else 0

    def run(self, epoch: int) -> dict[str, float]:
        """One pass over the images; returns its number, mean loss and seconds."""
        started = time.perf_counter()
        epoch_key = key(self.given.seed, self.name, epoch)
        # For dropout and stochastic depth, which draw from the global generator.
        torch.manual_seed((epoch_key + self.accelerator.process_index) & (2**63 - 1))
        steps = self.count // self.batch
        order = permutation(epoch_key, self.count)[: steps * self.batch].view(steps, self.batch)
        order = order[:, self.accelerator.process_index :: self.accelerator.num_processes]
        order = order.to(self.device)
        rates = self._rates(epoch, steps)
        self.total.zero_()
        if isinstance(self.key, MovingKey):
            self.key.change(epoch_key)
        else:
            self.key = epoch_key
        with self.thrift.applied():
            for number in range(steps):
                self.recorder(self._step, order[number], rates[number])
                self._progress(epoch, number + 1, steps)
        mean = float(self.accelerator.reduce(self.total.clone(), "mean")) / steps  # type: ignore
        if not math.isfinite(mean):
            raise InputError(
                f"the {self.name} loss became {mean} in epoch {epoch + 1}; lower the learning rate."
            )
        seconds = round(time.perf_counter() - started, 3)
        return {"epoch": epoch + 1, "loss": mean, "seconds": seconds}

    def _step(self, index: Tensor, rate: Tensor) -> tuple[()]:
        """Learn from the images of some indices."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate if rate.is_cuda else float(rate)
        self.optimizer.zero_grad(set_to_none=True)
        with autocast(self.device, self.given.precision):
            value = self.loss(self.module, index, self.key)
        self.accelerator.backward(value)
        self.optimizer.step()
        self.total += value.detach()
        return ()

    def _rates(self, epoch: int, steps: int) -> Float[Tensor, " steps"]:
        """The learning rate of each step, where the optimiser reads it."""
        rates = [
            learning_rate(self.settings, epoch + step / steps, 1 / steps) for step in range(steps)
        ]
        exact = torch.tensor(rates, dtype=torch.float64)
        return exact.to(self.device, torch.float32) if self.device.type == "cuda" else exact

    def _progress(self, epoch: int, done: int, steps: int) -> None:
        total = self.settings.epochs * steps
        self.given.progress(self.name, epoch * steps + done, total, f"epoch {epoch + 1}")


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
            parameters,
            settings.learning_rate,
            weight_decay=settings.weight_decay,
            fused=True,
            capturable=parameters[0].is_cuda,
        )
    return torch.optim.SGD(
        parameters,
        settings.learning_rate,
        momentum=0.9,
        nesterov=True,
        weight_decay=settings.weight_decay,
        fused=True,
    )
