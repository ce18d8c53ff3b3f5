"""Throughput and memory of adapters against torch-ttt's engines.

Needs ``pip install torch-ttt einops`` (the extra ``benchmarks``).
"""

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Literal

import torch
from common import CLASSES, alternate, describe, ratio
from torch import Tensor, nn

from acclimate.adapt import Adapter
from acclimate.backbones import build, projected, split
from acclimate.bundle import Bundle
from acclimate.commands.script import finish, start
from acclimate.methods import AdapterSettings
from acclimate.objectives import ContrastiveOptions
from acclimate.parts.memory import Recent
from acclimate.parts.normalisation import BatchStatistics
from acclimate.parts.update import Adam
from acclimate.preprocessing import Preprocessing

FASTER, MEMORY = 3, 0.5
WARM = 5
"""Batches on a GPU before those that count: a graph is recorded after some."""
RATE = 1e-4
"""Learning rate of both."""
CERTAIN = 30.0
"""Factor of the head: methods select no image whose answer is as uncertain as random weights'."""
ENGINES = {
    "cta": "ttt_pp_engine.TTTPPEngine",
    "tent": "tent_engine.TentEngine",
    "eta": "eata_engine.EataEngine",  # its own Fisher weights cannot be computed: it raises
    "deyo": "deyo_engine.DeYOEngine",
}
"""torch-ttt's engine beside each method."""


@dataclass
class Options:
    """Compare both on the same model, images, batch and steps; memory in separate processes."""

    method: Literal["cta", "tent", "eta", "deyo"] = "cta"
    """Method, beside whose adapter stands the engine of `ENGINES`."""
    model: str = "acclimate:resnet14-w32"
    """Architecture, as for `acclimate.build`."""
    batch: int = 128
    """Images per batch."""
    steps: int = 20
    """Gradient steps per batch."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where both run."""
    size: int = 32
    """Height and width of the images, in pixels."""
    pairs: int = 3
    """Number of rounds, each of which times both once."""
    threads: int | None = None
    """Number of threads; None takes torch's default."""
    seed: int = 0
    """Random seed of weights, images and augmentation."""
    weigh: Literal["acclimate", "torch-ttt"] | None = None
    """Used by the benchmark itself: print the peak memory of one of the two, and nothing else."""
    infer: bool = False
    """With ``weigh``: run inference only, without adapting."""
    out: Path | None = None
    """JSON file for the result."""


def adapter(classifier: nn.Module, twin: nn.Module, options: Options) -> Adapter:
    """The method's adapter, with the given number of steps and the batch's statistics."""
    names = tuple(map(str, range(CLASSES)))
    if options.method != "cta":
        bundle = Bundle(twin, None, Preprocessing(options.size), names)
        changes = {"steps": options.steps, "update.learning_rate": RATE}
        return Adapter(bundle, options.method, device=options.device, **changes)
    settings = AdapterSettings(
        steps=options.steps,
        objective=ContrastiveOptions(),
        memory=Recent(8),
        update=Adam(RATE),
        normalisation=BatchStatistics(),
        seed=options.seed,
    )
    bundle = Bundle(classifier, twin, Preprocessing(options.size), names)
    return Adapter(bundle, "cta", settings, device=options.device)


def engine(model: nn.Module, images: Tensor, options: Options) -> Callable[[Tensor], Tensor]:
    """torch-ttt's engine, set up as in its documentation, with our steps and learning rate."""
    module, _, name = ENGINES[options.method].partition(".")
    kind = getattr(import_module(f"torch_ttt.engine.{module}"), name)
    model, normalize = model.to(options.device), Preprocessing(options.size)
    given = {"num_steps": options.steps, "lr": RATE, "optimizer_name": "adam"}
    if options.method == "cta":
        engine = kind(model, "head", optimization_parameters=given)
        loader = torch.utils.data.DataLoader(
            torch.utils.data.TensorDataset(normalize(images).contiguous()), batch_size=len(images)
        )
        engine.compute_statistics(loader)
    else:
        engine = kind(model, optimization_parameters=given)
    engine.eval()
    return lambda images: engine(normalize(images).contiguous())[0]


def runs(options: Options) -> tuple[dict[str, Callable[[Tensor], Tensor]], nn.Module, Tensor]:
    """Adapters by name, all of the same untrained model; the model; and random images."""
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads or torch.get_num_threads())
    shape = (options.batch, 3, options.size, options.size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8).to(options.device)
    classifier = split(build(options.model, classes=CLASSES)).eval()
    twin = projected(classifier).eval()
    if options.method != "cta":
        with torch.no_grad():
            twin.head.weight.mul_(CERTAIN)
    wanted = ("torch-ttt", "acclimate") if options.weigh is None else (options.weigh,)
    makers = {
        "torch-ttt": lambda: engine(copy.deepcopy(twin), images, options),
        "acclimate": lambda: adapter(classifier, twin, options),
    }
    return {name: makers[name]() for name in wanted}, twin, images


def weigh(options: Options) -> None:
    """Print the process's peak resident memory, in bytes, after one batch."""
    adapters, twin, images = runs(options)
    if options.infer:
        # The same float32 forward pass for both, after each one's own set-up.
        with torch.inference_mode():
            twin(Preprocessing(options.size)(images).contiguous())
    else:
        for run in adapters.values():
            run(images)
    print(json.dumps({"peak": _peak()}))


def _peak() -> int:
    # VmHWM is of this process only; getrusage's ru_maxrss would include the parent process.
    status = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM"))


def on_gpu(name: str, options: Options) -> dict[str, int]:
    """Peaks as `memory_above_inference` has them, of the tensors on the GPU; in this process."""
    before = torch.cuda.memory_allocated()
    adapters, twin, images = runs(replace(options, weigh=name))
    peaks = {}
    inference = torch.inference_mode()(lambda: twin(Preprocessing(options.size)(images)))
    twin.to(options.device)
    for task, run in (("inference", inference), ("adapting", lambda: adapters[name](images))):
        torch.cuda.reset_peak_memory_stats()
        for _ in range(WARM):  # a graph's memory counts while it is recorded, not in replays
            run()
        peaks[task] = torch.cuda.max_memory_allocated() - before
    return peaks | {"above": peaks["adapting"] - peaks["inference"]}


def memory_above_inference(name: str, options: Options) -> dict[str, int]:
    """Peak resident memory of adapting and of inference, and their difference, in bytes."""
    peaks = {}
    for task, flag in (("adapting", "--no-infer"), ("inference", "--infer")):
        command = [sys.executable, __file__, "--weigh", name, flag]
        for option in ("method", "model", "batch", "steps", "size", "seed"):
            command += [f"--{option}", str(getattr(options, option))]
        if options.threads:
            command += ["--threads", str(options.threads)]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        peaks[task] = json.loads(printed.splitlines()[-1])["peak"]
    return peaks | {"above": peaks["adapting"] - peaks["inference"]}


def main(options: Options) -> None:
    """Compare throughput, then memory."""
    if options.weigh:
        return weigh(options)
    adapters, _, images = runs(options)

    def timed(run: Callable[[Tensor], Tensor]) -> Callable[[int], float]:
        return lambda number: float(run(images).sum())  # waits for the device

    for run in adapters.values() if options.device == "cuda" else ():
        for _ in range(WARM):  # batches before a graph is recorded
            run(images)
    seconds = alternate({name: timed(run) for name, run in adapters.items()}, options.pairs)
    weighed = on_gpu if options.device == "cuda" else memory_above_inference
    memory = {name: weighed(name, options) for name in list(adapters)}
    faster = ratio(seconds, "torch-ttt", "acclimate")
    lighter = memory["acclimate"]["above"] / max(1, memory["torch-ttt"]["above"])
    given = f"batch {options.batch}, {options.steps} steps, {options.size} pixels"
    print(f"{options.method}, {options.model}, {given}, {options.device}")
    print(f"{'':10} {'images/s':>9} {'peak MB':>8} {'above inference':>16}")
    for name, times in seconds.items():
        peak, above = (memory[name][task] / 1e6 for task in ("adapting", "above"))
        print(f"{name:10} {options.batch / median(times):9.1f} {peak:8.0f} {above:16.0f}")
    print(f"throughput over torch-ttt: {describe(faster)} (target >= {FASTER})")
    print(f"memory above inference over torch-ttt: {lighter:.2f} (target <= {MEMORY})")
    result = {
        "benchmark": "against_torch_ttt",
        "targets": {"throughput": FASTER, "memory": MEMORY},
        "settings": {
            name: getattr(options, name)
            for name in ("method", "model", "batch", "steps", "device", "size", "pairs")
        },
        "seconds": seconds,
        "throughput_ratio": faster,
        "memory_bytes": memory,
        "memory_ratio": lighter,
    }
    return finish(result, options.seed, options.out)


if __name__ == "__main__":
    start(main, Options)
