"""Throughput and memory of adapters against torch-ttt's engines.

Needs ``pip install torch-ttt einops`` (the extra ``benchmarks``). Both do the same work: thresholds
of EATA and DeYO keep every image, and MEMO makes as many views.
"""

import copy
import io
import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from statistics import median
from types import MethodType
from typing import Any, Literal

import torch
from common import CLASSES, alternate, clock_of, describe, ratio
from torch import Tensor, nn

from acclimate.adapt import Adapter
from acclimate.backbones import build, projected, split
from acclimate.bundle import Bundle
from acclimate.commands.script import finish, start
from acclimate.methods import AdapterSettings
from acclimate.objectives import ContrastiveOptions
from acclimate.parts.memory import Recent
from acclimate.parts.normalisation import BatchStatistics
from acclimate.parts.update import Adam, norm_parameters
from acclimate.preprocessing import Preprocessing

FASTER, MEMORY = 3, 0.5
WARM = 5
"""Batches on a GPU before those that count: a graph is recorded after some."""
RATE = 1e-4
"""Learning rate of both."""
VIEWS = 32
"""Views of MEMO."""
ENGINES = {
    "cta": "ttt_pp_engine.TTTPPEngine",
    "tent": "tent_engine.TentEngine",
    "eata": "eata_engine.EataEngine",
    "deyo": "deyo_engine.DeYOEngine",
    "memo": "memo_engine.MemoEngine",
}
"""torch-ttt's engine beside each method."""
STEPS = {"cta": 20}
"""Gradient steps; 1 of all others, as published."""
EVERY = {"margin": 2.0}
"""Threshold of entropy, in logarithms of the number of classes, that keeps every image."""
CHANGES: dict[str, dict[str, Any]] = {
    "tent": {},
    "eata": {"selection": EVERY | {"similarity": 2.0}},
    "deyo": {"selection": EVERY | {"drop": -1.0}, "update": Adam(RATE, parameters="norm")},
    "memo": {"update": Adam(RATE, head=True), "objective": {"views": VIEWS}},
}
"""What the adapters of published methods have in common with the engines."""
Method = Literal["cta", "tent", "eata", "deyo", "memo"]


@dataclass
class Options:
    """Compare both on the same model, images, batch and steps; memory in separate processes."""

    methods: tuple[Method, ...] = ("cta", "tent", "eata", "deyo", "memo")
    """Methods, beside whose adapters stand the engines of `ENGINES`."""
    model: str = "acclimate:resnet14-w32"
    """Architecture, as for `acclimate.build`."""
    batch: int = 128
    """Images per batch."""
    alone: int = 8
    """Images for memo, which adapts to each image alone."""
    steps: int | None = None
    """Gradient steps per batch; None takes 20 for cta, and 1 for the others, as published."""
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


def given(options: Options, method: Method) -> tuple[int, int]:
    """Numbers of steps and of images."""
    steps = options.steps or STEPS.get(method, 1)
    return steps, options.alone if method == "memo" else options.batch


def adapter(bundle: Bundle, method: Method, steps: int, options: Options) -> Adapter:
    """The method's adapter, with the given number of steps and the batch's statistics."""
    device = options.device
    if method != "cta":
        changes = {"steps": steps, "update": {"learning_rate": RATE}} | CHANGES[method]
        return Adapter(bundle, method, device=device, **changes)
    settings = AdapterSettings(
        steps=steps,
        objective=ContrastiveOptions(),
        memory=Recent(8),
        update=Adam(RATE),
        normalisation=BatchStatistics(),
        seed=options.seed,
    )
    return Adapter(bundle, "cta", settings, device=device)


def engine(
    bundle: Bundle, method: Method, steps: int, images: Tensor, options: Options
) -> Callable[[Tensor], Tensor]:
    """torch-ttt's engine, set up as in its documentation, with our steps and learning rate."""
    module, _, name = ENGINES[method].partition(".")
    kind = getattr(import_module(f"torch_ttt.engine.{module}"), name)
    twin = bundle.twin or bundle.classifier
    model, normalize = copy.deepcopy(twin).to(options.device), bundle.preprocessing
    optimiser = {"num_steps": steps, "lr": RATE, "optimizer_name": "adam"}
    more: dict[str, Any] = {}
    if method == "eata":  # its own function for Fisher weights raises: it is given some
        weights = dict(model.named_parameters())
        prefix = "classifier.fisher."
        fisher = {n.removeprefix(prefix): f for n, f in bundle.statistics.items() if prefix in n}
        fishers = {
            n: (f.to(options.device), weights[n].detach().clone()) for n, f in fisher.items()
        }
        more = {"e_margin": 10.0, "d_margin": 2.0, "fisher_alpha": 1.0, "fishers": fishers}
    if method == "deyo":
        more = {"e_margin": 10.0, "plpd_thresh": -1.0}
    if method == "memo":
        more = {"n_augmentations": VIEWS}
    engine = kind(model, *(["head"] if method == "cta" else []), optimiser, **more)
    if method == "cta":
        data = torch.utils.data.TensorDataset(normalize(images).contiguous())
        engine.compute_statistics(torch.utils.data.DataLoader(data, batch_size=len(images)))
    if method == "memo":
        _bind(model)
    engine.eval()
    if method != "memo":
        return lambda images: engine(normalize(images).contiguous())[0]

    def alone(images: Tensor) -> Tensor:
        normal = normalize(images).contiguous()
        with redirect_stdout(io.StringIO()):  # it prints each loss
            return torch.cat([engine(image)[0] for image in normal.split(1)])

    return alone


def _bind(model: nn.Module) -> None:
    """Let batch norm run: the engine gives each layer a function in place of a method."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.forward = MethodType(module.forward, module)  # type: ignore[method-assign]


def runs(
    options: Options, method: Method
) -> tuple[dict[str, Callable[[Tensor], Tensor]], nn.Module, Tensor]:
    """Adapters by name, all of the same untrained model; the model; and random images."""
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads or torch.get_num_threads())
    steps, count = given(options, method)
    shape = (count, 3, options.size, options.size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8)
    classifier = split(build(options.model, classes=CLASSES)).eval()
    names = tuple(map(str, range(CLASSES)))
    bundle = Bundle(classifier, None, Preprocessing(options.size), names)
    if method == "cta":
        bundle = replace(bundle, twin=projected(classifier).eval())
    if method == "eata":
        # Any values: measuring them would take more memory than what is weighed.
        weights = norm_parameters(classifier.encoder)
        names = [f"classifier.fisher.encoder.{name}" for name in weights]
        ones = map(torch.ones_like, weights.values())
        bundle = replace(bundle, statistics=dict(zip(names, ones)))
    images = images.to(options.device)
    wanted = ("torch-ttt", "acclimate") if options.weigh is None else (options.weigh,)
    makers = {
        "torch-ttt": lambda: engine(bundle, method, steps, images, options),
        "acclimate": lambda: adapter(bundle, method, steps, options),
    }
    made = {name: makers[name]() for name in wanted}
    return made, copy.deepcopy(bundle.twin or classifier), images


def weigh(options: Options, method: Method) -> None:
    """Print the process's peak resident memory, in bytes, after one batch."""
    adapters, model, images = runs(options, method)
    if options.infer:
        # The same float32 forward pass for both, after each one's own set-up.
        with torch.inference_mode():
            model(Preprocessing(options.size)(images).contiguous())
    else:
        for run in adapters.values():
            run(images)
    print(json.dumps({"peak": _peak()}))


def _peak() -> int:
    # VmHWM is of this process only; getrusage's ru_maxrss would include the parent process.
    status = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM"))


def on_gpu(name: str, options: Options, method: Method) -> dict[str, int]:
    """Peaks as `memory_above_inference` has them, of the tensors on the GPU; in this process."""
    before = torch.cuda.memory_allocated()
    adapters, model, images = runs(replace(options, weigh=name), method)
    peaks = {}
    inference = torch.inference_mode()(lambda: model(Preprocessing(options.size)(images)))
    model.to(options.device)
    for task, run in (("inference", inference), ("adapting", lambda: adapters[name](images))):
        torch.cuda.reset_peak_memory_stats()
        for _ in range(WARM):  # a graph's memory counts while it is recorded, not in replays
            run()
        peaks[task] = torch.cuda.max_memory_allocated() - before
    return peaks | {"above": peaks["adapting"] - peaks["inference"]}


def memory_above_inference(name: str, options: Options, method: Method) -> dict[str, int]:
    """Peak resident memory of adapting and of inference, and their difference, in bytes."""
    peaks = {}
    for task, flag in (("adapting", "--no-infer"), ("inference", "--infer")):
        command = [sys.executable, __file__, "--weigh", name, flag, "--methods", method]
        for option in ("model", "batch", "alone", "steps", "size", "threads", "seed"):
            value = getattr(options, option)
            command += [] if value is None else [f"--{option}", str(value)]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        peaks[task] = json.loads(printed.splitlines()[-1])["peak"]
    return peaks | {"above": peaks["adapting"] - peaks["inference"]}


def compared(options: Options, method: Method) -> dict[str, Any]:
    """Compare throughput, then memory."""
    adapters, _, images = runs(options, method)

    def timed(run: Callable[[Tensor], Tensor]) -> Callable[[int], float]:
        return lambda number: float(run(images).sum())  # waits for the device

    for run in adapters.values() if options.device == "cuda" else ():
        for _ in range(WARM):  # batches before a graph is recorded
            run(images)
    clock = clock_of(torch.get_num_threads(), options.device)
    seconds = alternate({name: timed(run) for name, run in adapters.items()}, options.pairs, clock)
    weighed = on_gpu if options.device == "cuda" else memory_above_inference
    memory = {name: weighed(name, options, method) for name in list(adapters)}
    faster = ratio(seconds, "torch-ttt", "acclimate")
    ours, theirs = (memory[name]["above"] for name in ("acclimate", "torch-ttt"))
    lighter = max(0, ours) / max(1, theirs)  # a set-up may take more than a small batch
    steps, count = given(options, method)
    print(f"{method}, {options.model}, {count} images, {steps} steps, {options.size} pixels")
    print(f"{'':10} {'images/s':>9} {'peak MB':>8} {'above inference':>16}")
    for name, times in seconds.items():
        peak, above = (memory[name][task] / 1e6 for task in ("adapting", "above"))
        print(f"{name:10} {count / median(times):9.1f} {peak:8.0f} {above:16.0f}")
    print(f"throughput over torch-ttt: {describe(faster)} (target >= {FASTER})")
    print(f"memory above inference over torch-ttt: {lighter:.2f} (target <= {MEMORY})", flush=True)
    return {
        "method": method,
        "steps": steps,
        "images": count,
        "seconds": seconds,
        "throughput_ratio": faster,
        "memory_bytes": memory,
        "memory_ratio": lighter,
    }


def main(options: Options) -> None:
    """Each method in turn."""
    if options.weigh:
        return weigh(options, options.methods[0])
    rows = [compared(options, method) for method in options.methods]
    result = {
        "benchmark": "against_torch_ttt",
        "targets": {"throughput": FASTER, "memory": MEMORY},
        "settings": {name: getattr(options, name) for name in ("model", "device", "size", "pairs")},
        "rows": rows,
    }
    return finish(result, options.seed, options.out)


if __name__ == "__main__":
    start(main, Options)
