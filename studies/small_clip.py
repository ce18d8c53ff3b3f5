r"""Methods of vision-language models on a small CLIP that is trained here, under 15 corruptions.

    python studies/small_clip.py --data cifar10.zip --out runs/clip --results results/clip

The model and its loss are open_clip's; the captions are class names in WATT's eight templates. The
training takes about a quarter of an hour on one core. It and the measurements go on where they were
interrupted, and ``--plan`` says how long these take. Two bundles have the same weights: texts of
`one` are those of a single template, those of `eight` averages. What the frozen `eight` gains over
the frozen `one` is what averaging texts gives alone. `twin` is `eight` with a twin of its image
encoder, aligned with its features from unlabelled images: does CTA carry over? ``--model`` and
``--weights`` measure another CLIP, by its name for ``acclimate zero-shot``.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import anchor
import small_clip_training as training
import torch
from claims import CORRUPTED, difference
from methods import publish, run_all
from ours import test
from rich.console import Console
from rich.table import Table

import acclimate
from acclimate.backbones.clip import Clip, as_classifier
from acclimate.backbones.prompted import TEMPLATES
from acclimate.bundle import Bundle
from acclimate.commands.script import finish, recorded_options, start, write_table
from acclimate.data import LabelledImages, load, subset
from acclimate.data.corruptions import PUBLISHED
from acclimate.evaluate.cell import CLEAN
from acclimate.evaluate.grid_run import GridRun
from acclimate.evaluate.task import Grid
from acclimate.evaluate.variant import Variant
from acclimate.report.measured import RowKey, read_grid
from acclimate.runtime.memory import keep_freed_memory
from acclimate.runtime.progress import live
from acclimate.source.aligned import align
from acclimate.source.loop import Run
from acclimate.source.presets import PRESETS
from acclimate.source.zero_shot import bundled

TEXTS = {"one": TEMPLATES[:1], "eight": TEMPLATES}
"""Templates of the bundles."""
RELEASED = "objective.released=true"
METHODS = ("source", "tent", "sar", "roid")
"""Methods of both bundles."""
TENT = "tent:reset=batch,steps=10"
CLIPARTT = ("source", TENT, "clipartt", f"clipartt:{RELEASED}")
"""Those of many steps, and TENT with as many."""
WATT = ("watt-s", f"watt-s:{RELEASED}")
"""Those of `eight` alone, which has the templates that they need."""
TWIN = "twin"
OF_TWIN = ("source", "tent", "aligned", "cta")
"""Methods of the bundle with a twin; without batch norm, `aligned-bn` would be `aligned`."""


@dataclass(frozen=True)
class Arguments:
    """Data, folders, and how much is measured."""

    data: str
    """CIFAR-10 as train/CLASS/IMAGE and test/CLASS/IMAGE: a folder or a zip."""
    out: Path
    """Folder for the model, bundles and measurements."""
    results: Path | None = None
    """Folder for the results that are kept."""
    model: str = "small"
    """The small CLIP that is trained here, or one as for acclimate zero-shot."""
    weights: Path | None = None
    """Weights of a model by name."""
    epochs: int = 12
    """Passes over the training images."""
    images: int = 1000
    """Test images under each corruption."""
    turns: int = 1000
    """Test images for the many steps of CLIPArTT and WATT-S."""
    few: int = 200
    """Test images for TPT."""
    parallel: int = 128
    """Test images for WATT-P, and for WATT-S with the model's own temperature."""
    rounds: int = 5
    """Rounds of WATT-P, of 16 steps each; 50 are published."""
    aligned: int = 8000
    """Unlabelled training images that the twin is aligned with; 0 leaves the twin out."""
    alignment: int = 3
    """Epochs of the alignment, after one of the contrastive stage."""
    batch: int = 128
    """Images that arrive together."""
    corruptions: tuple[str, ...] = PUBLISHED
    """Corruptions at severity 5."""
    workers: int = 2
    """Processes, each with one thread."""
    plan: bool = False
    """Only say what is to be measured, and how long it takes; trains all the same."""


def main(arguments: Arguments) -> None:
    """Train, measure, and write what is kept."""
    keep_freed_memory()
    make(arguments)
    if arguments.aligned:
        make_twin(arguments)
    folder = arguments.out / "grid"
    run_all(grids(arguments), folder, workers=arguments.workers, only_plan=arguments.plan)
    if arguments.plan:
        return
    keep(arguments, folder)
    if arguments.results:
        publish(folder, arguments.results)
        record = {"options": recorded_options(arguments), "texts": texts(arguments.out / "eight")}
        if arguments.aligned:
            record["twin"] = Bundle.load(arguments.out / TWIN).provenance["agreement"]
        finish(record, 0, arguments.results / "settings.json")


def make(arguments: Arguments) -> None:
    """Train the small CLIP, if that is wanted, and make both bundles, unless that was done."""
    for label, templates in TEXTS.items():
        path = arguments.out / label
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        data = load(arguments.data, "train")
        if arguments.model == "small":
            bundle = small(arguments, data, templates)
        else:
            names, weights = data.classes, arguments.weights
            bundle = acclimate.zero_shot(arguments.model, names, templates, weights=weights)
        bundle.save(path)


def small(arguments: Arguments, data: LabelledImages, templates: tuple[str, ...]) -> Bundle:
    """A bundle of the small CLIP."""
    torch.set_num_threads(max(1, arguments.workers))
    with live() as progress:
        weights = arguments.out / "clip.pt"
        clip = training.train(data, weights, epochs=arguments.epochs, seed=0, progress=progress)
    model = Clip(clip.eval().requires_grad_(False), training.CONFIG)
    made = as_classifier(model, data.classes, templates)
    return bundled(*made, training.PREPROCESSING, data.classes, templates)


def make_twin(arguments: Arguments) -> None:
    """Align a twin of the image encoder of `eight`, unless that was done. No label is used."""
    path = arguments.out / TWIN
    if path.exists():
        return
    images = subset(load(arguments.data, "train"), arguments.aligned).images
    preset = PRESETS["small"]
    stages = {"contrastive": replace(preset.contrastive, epochs=1)}
    stages["align"] = replace(preset.align, epochs=arguments.alignment)
    settings = replace(preset, **stages)
    with live() as progress:
        run = Run(0, path.with_name(f"{TWIN}.stages"), progress=progress)
        align(Bundle.load(arguments.out / "eight"), images, settings=settings, run=run).save(path)


def grids(arguments: Arguments) -> Iterator[GridRun]:
    """The grids: methods on both bundles, on the twin, and the slow ones on fewer images."""
    corruptions = (CLEAN, *arguments.corruptions)
    steps, matched = 16 * arguments.rounds, own_temperature(arguments)
    parts = (
        (("one", "eight"), METHODS, arguments.images),
        ((TWIN,) if arguments.aligned else (), OF_TWIN, arguments.images),
        (("one", "eight"), (*CLIPARTT, f"clipartt:{matched}"), arguments.turns),
        (("eight",), WATT, arguments.turns),
        (("one",), ("source", "tpt"), arguments.few),  # TPT's prompts are those of one template
        (("eight",), ("source", "watt-s", f"watt-p:steps={steps}"), arguments.parallel),
        (("eight",), (f"watt-s:{matched}",), arguments.parallel),
    )
    for labels, methods, count in parts:
        if not labels:
            continue
        grid = Grid(corruptions, methods=methods, batch=arguments.batch, curve=False)
        bundles = {label: arguments.out / label for label in labels}
        yield GridRun(grid, bundles, (partial(test, arguments.data, count),))


def texts(path: Path) -> dict[str, float]:
    """How alike texts are, as cosine similarities, and the factor of these in the logits."""
    head: Any = Bundle.load(path).classifier.head
    by_template, classes = head.by_template, head.class_weights
    count, names = len(by_template), len(classes)
    same = torch.einsum("scd,tcd->st", by_template, by_template) / names
    other = classes @ classes.T
    return {
        "one class in two templates": round(float(same.triu(1).sum()) / math.comb(count, 2), 5),
        "two classes": round(float(other.triu(1).sum()) / math.comb(names, 2), 5),
        "scale": round(float(head.scale), 3),
    }


def own_temperature(arguments: Arguments) -> str:
    """The temperature of targets that goes with the model's logits, as 0.01 with CLIP's of 100."""
    return f"objective.temperature={1 / texts(arguments.out / 'eight')['scale']:.3f}"


def claims(arguments: Arguments) -> Iterator[tuple[str, RowKey, RowKey]]:
    """Differences of interest, and the two rows of which each is one."""

    def row(label: str, method: str) -> RowKey:
        return label, Variant.parse(method)

    none, parallel = row("one", "source"), f"watt-p:steps={16 * arguments.rounds}"
    averaged = row("eight", "source")
    yield "averaged texts alone", averaged, none
    for method in ("clipartt", "watt-s", parallel):
        mine = row("eight", method)
        yield f"averaged texts and {method}", mine, none
        yield f"{method}, with averaged texts before and after", mine, averaged
    for label, method in (("one", "clipartt"), ("eight", "clipartt"), ("eight", "watt-s")):
        first, second = row(label, f"{method}:{RELEASED}"), row(label, method)
        yield f"{method} of {label}: the released form over the equation", first, second
        matched = row(label, f"{method}:{own_temperature(arguments)}")
        yield f"{method} of {label}: the model's own temperature over 0.01", matched, second
    for first, second in (("watt-s", "clipartt"), ("watt-s", TENT), ("clipartt", TENT)):
        yield f"{first} over {second}", row("eight", first), row("eight", second)
    for first, second in (("aligned", "source"), ("cta", "aligned"), ("cta", "tent")):
        yield f"{first} over {second}", row(TWIN, first), row(TWIN, second)


def keep(arguments: Arguments, folder: Path) -> None:
    """Print the mean over the corruptions of each method, and the differences; write both."""
    measured, results = read_grid(folder)[0], arguments.results
    rows = anchor.summary(measured)
    rows = [{"called": row["method"]} | row for row in rows]
    shown = ("bundle", "method", "images", "clean", "corrupted", "gain", "gain_low", "gain_high")
    table = Table(*shown)
    for row in rows:
        table.add_row(*(str(row[column]) for column in shown))
    Console(width=160).print(table)
    found = (difference(measured, *claim, CORRUPTED) for claim in claims(arguments))
    compared = [asdict(each) for each in found if each]
    table = Table("claim", "images", "difference", "low", "high")
    for each in compared:
        table.add_row(*(str(each[column.header]) for column in table.columns))
    Console(width=160).print(table)
    if results:
        results.mkdir(parents=True, exist_ok=True)
        write_table(results / "summary.csv", rows)
        write_table(results / "claims.csv", compared)


if __name__ == "__main__":
    start(main, Arguments)
