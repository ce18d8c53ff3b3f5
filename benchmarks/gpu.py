r"""What a GPU does with its time: training steps, views, adapted batches, corruptions.

    python benchmarks/gpu.py --out after.json
    PYTHONPATH=ANOTHER_VERSION python benchmarks/gpu.py --label before --out before.json

The script uses only what versions of this package have in common, so that two of them can be
measured one after the other on one GPU. A kernel's share is the time in kernels, as the profiler
counts it, over the time of a step without a profiler.
"""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import torch
from bare import Bare
from common import CLASSES
from hot_path import Options as HotPath
from hot_path import settings_of

from acclimate.adapt import Adapter
from acclimate.backbones import build, split
from acclimate.commands.script import finish, start
from acclimate.data.corruptions import PUBLISHED, corrupt
from acclimate.methods import RECIPES
from acclimate.preprocessing import Preprocessing
from acclimate.source.images import SourceImages
from acclimate.source.loop import Run
from acclimate.source.presets import PRESETS, with_epochs
from acclimate.source.stages import STAGES
from acclimate.source.train import begin, untrained
from acclimate.views import SimCLRViews, simclr_views

STAGES_OF = {"cta": ("supervised", "contrastive", "align"), "ttt": ("joint",)}
NAMES = {"acclimate:resnet26-w32": "acclimate:preact26"}
"""The network of the joint stage in place of a twin's."""


@dataclass
class Options:
    """Time everything once on the GPU."""

    models: tuple[str, ...] = ("acclimate:resnet26-w32", "acclimate:resnet50-cifar")
    """Networks that are trained."""
    recipes: tuple[str, ...] = ("cta", "ttt")
    """Recipes whose stages are timed."""
    batch: int = 256
    """Images of a training step."""
    steps: int = 40
    """Steps of an epoch; there are two, and the second is timed."""
    methods: tuple[str, ...] = ("ptbn", "tent", "cta")
    """Methods whose adapted batch is timed."""
    adapted: int = 128
    """Images of an adapted batch."""
    corrupted: int = 1000
    """Images of 32 pixels that are corrupted."""
    label: str = "after"
    """Name of the version."""
    seed: int = 0
    out: Path | None = None
    """A JSON file."""


class Watch:
    """Called after each step: times half of the second of two epochs, and profiles the rest."""

    def __init__(self):
        self.step_ms = self.kernel_ms = self._began = 0.0
        self._profiler = None

    def __call__(self, name: str, done: int, total: int, remark: str = "") -> None:
        """See `acclimate.runtime.progress`."""
        steps = total // 2
        first, last, until = steps + 3, steps + 3 + (steps - 3) // 2, total
        if done not in (first, last, until):
            return
        torch.cuda.synchronize()
        if done == first:
            self._began = time.perf_counter()
        elif done == last:
            self.step_ms = 1e3 * (time.perf_counter() - self._began) / (last - first)
            self._profiler = profiler()
            self._profiler.start()
        elif self._profiler:
            self._profiler.stop()
            self.kernel_ms = in_kernels(self._profiler) / (until - last)


def profiler() -> torch.profiler.profile:
    """A profiler of the GPU alone."""
    return torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA])


def in_kernels(profiled: torch.profiler.profile) -> float:
    """Milliseconds in kernels."""
    return sum(event.self_device_time_total for event in profiled.key_averages()) / 1e3


def kernels(run: Callable[[], object], times: int = 5) -> float:
    """Milliseconds in kernels of one run."""
    run()
    with profiler() as profiled:
        for _ in range(times):
            run()
        torch.cuda.synchronize()
    return in_kernels(profiled) / times


def wall(run: Callable[[], object], times: int = 20) -> float:
    """Milliseconds of one run, the median of several."""
    for _ in range(5):
        run()
    found = []
    for _ in range(times):
        torch.cuda.synchronize()
        began = time.perf_counter()
        run()
        torch.cuda.synchronize()
        found.append(1e3 * (time.perf_counter() - began))
    return median(found)


def waits(run: Callable[[], object]) -> int:
    """How often one run waits for the GPU."""
    run()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            run()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("a synchronizing CUDA operation" in str(each.message) for each in caught)


def training(model: str, recipe: str, options: Options) -> list[dict]:
    """Each stage of a recipe on random images."""
    model = NAMES.get(model, model) if recipe == "ttt" else model
    count = options.batch * options.steps
    images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8)
    source = SourceImages(images, Preprocessing(32), torch.randint(0, CLASSES, (count,)))
    settings = with_epochs(PRESETS["paper"], 2)
    chosen = {
        name: replace(getattr(settings, name), batch=options.batch, learning_rate=1e-4)
        for name in STAGES_OF[recipe]
    }
    run = Run(seed=options.seed)
    classifier = split(build(model, classes=CLASSES))
    work = begin(RECIPES[recipe], classifier, source, replace(settings, **chosen), run)
    rows = []
    for stage in STAGES_OF[recipe]:
        watch = Watch()
        work.run = replace(run, progress=watch)
        began = time.perf_counter()
        STAGES[stage](work)
        row = {
            "model": model,
            "stage": stage,
            "step_ms": round(watch.step_ms, 3),
            "kernel_ms": round(watch.kernel_ms, 3),
            "kernels_share": round(watch.kernel_ms / watch.step_ms, 3),
            "epochs_seconds": [each["seconds"] for each in run.history[stage]],
            "seconds": round(time.perf_counter() - began, 2),
        }
        print(row, flush=True)
        rows.append(row)
    return rows


def views(options: Options) -> dict:
    """Two views of a batch."""
    images = torch.rand(options.batch, 3, 32, 32, device="cuda")
    index = torch.arange(options.batch, device="cuda")

    def run() -> torch.Tensor:
        return simclr_views(images, SimCLRViews(), key=1, index=index, count=2)

    row = {"wall_ms": wall(run), "kernel_ms": kernels(run), "waits": waits(run)}
    print("views", row, flush=True)
    return row


def adapted(name: str, model: str, options: Options) -> dict:
    """An adapted batch over the bare passes, these in turn and as a graph."""
    hot = HotPath(seed=options.seed)
    bundle = untrained("cta", model, 32)
    settings = settings_of(name, hot)
    images = torch.randint(0, 256, (options.adapted, 3, 32, 32), dtype=torch.uint8, device="cuda")
    adapter = Adapter(bundle, name, settings, device="cuda")
    row = {"method": name, "model": model, "steps": settings.steps}
    row["adapter_ms"] = wall(lambda: adapter(images))
    row["adapter_kernel_ms"] = kernels(lambda: adapter(images))
    row["waits"] = waits(lambda: adapter(images))
    if settings.steps:
        bare = Bare(bundle, name, settings, "bf16", device="cuda")
        row["bare_ms"] = wall(lambda: bare(images))
        row["bare_kernel_ms"] = kernels(lambda: bare(images))
    if settings.steps and find_spec("acclimate.runtime.graphs"):  # some versions lack it
        from acclimate.runtime.graphs import Recorder

        recorder = Recorder("the bare passes", torch.device("cuda"))
        row["bare_graph_ms"] = wall(lambda: recorder(lambda x: (bare(x),), images))
        row["bare_graph_obstacle"] = recorder.obstacle
        row["adapter_obstacle"] = adapter._learner.recorder.obstacle
    print(row, flush=True)
    return row


def plain_noise(images: torch.Tensor) -> torch.Tensor:
    """Gaussian noise at severity 5 in the fewest operations of torch."""
    unit = images.float() / 255
    return ((unit + 0.1 * torch.randn_like(unit)).clamp(0, 1) * 255).to(torch.uint8)


def corruptions(options: Options) -> dict:
    """Milliseconds an image of each corruption at severity 5, on the GPU and on the CPU."""
    count = options.corrupted
    images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8)
    here, few = images.cuda(), images[:100]
    rows = {"plain gaussian noise": {"gpu": wall(lambda: plain_noise(here), 5) / count}}
    for name in PUBLISHED:

        def run(given: torch.Tensor, name: str = name) -> torch.Tensor:
            return corrupt(given, name, 5, seed=0)

        began = time.perf_counter()
        run(few)
        on_cpu = 1e3 * (time.perf_counter() - began) / len(few)
        rows[name] = {
            "gpu": wall(lambda run=run: run(here), 5) / count,
            "gpu kernels": kernels(lambda run=run: run(here), 2) / count,
            "cpu": on_cpu,
            "waits": waits(lambda run=run: run(here)),
        }
        print(name, rows[name], flush=True)
    return rows


def main(options: Options) -> None:
    """Measure everything."""
    torch.manual_seed(options.seed)
    result: dict = {"benchmark": "gpu", "label": options.label}
    result["training"] = [
        row
        for model in options.models
        for recipe in options.recipes
        if recipe != "ttt" or model in NAMES
        for row in training(model, recipe, options)
    ]
    result["views"] = views(options)
    result["adapted"] = [adapted(name, options.models[0], options) for name in options.methods]
    result["corruptions_ms_an_image"] = corruptions(options)
    finish(result, options.seed, options.out)


if __name__ == "__main__":
    start(main, Options)
