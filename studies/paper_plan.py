"""What `paper` trains and measures, how much of it, and how long that takes."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from bundles import PLAIN
from packed import images

from acclimate.data import LabelledImages
from acclimate.data.corruptions import PUBLISHED
from acclimate.evaluate.fitting import variants_of
from acclimate.evaluate.grid_run import GridRun
from acclimate.evaluate.task import Grid
from acclimate.methods import METHODS, RECIPES
from acclimate.methods.method import Method
from acclimate.parts.banks import Balanced, Reservoir
from acclimate.source.loop import Training
from acclimate.source.presets import PRESETS, SourceSettings, with_epochs

Part = Literal[
    "train-cta",
    "measure-cta",
    "train-rivals",
    "measure-rivals",
    "train-ttt",
    "measure-ttt",
    "train-oracles",
    "measure-oracles",
    "gradients",
]
REFERENCES = ("source", "ptbn", "bn-adapt")
"""Methods that are measured with each bundle. The others that fit any classifier are measured with
CTA's alone: there are many by now."""


@dataclass(frozen=True)
class Arguments:
    """Data, folders, the parts to run, and their size.

    The parts in their order, each with what it needs and writes, and its time on one H100 at
    5 ms a training step:

    train-cta (150 s): bundles cta and supervised, the same classifier, by the preset "paper":
    batches of 256, Adam from 5e-4 to 1e-6, temperatures 0.01 and 0.5. The paper's ImageNet weights
    are not at hand: the twin starts as a copy of the trained classifier, as in its introduction.

    measure-cta (60 s; needs train-cta): clean images and the corruptions at severity 5 in batches
    of 128, all methods that need no other training. Of cta-paper, with 20 steps a batch, fewer
    images, and the accuracy after each step.

    train-rivals (150 s), measure-rivals (40 s): the same for TTT++ and the Y model, trained by the
    same settings.

    train-ttt (150 s): bundle ttt, TTT's ResNet-26 with group norm and the rotation task; SGD from
    0.1 in batches of 128, with a cosine in place of the paper's two drops.

    measure-ttt (100 s; needs train-ttt): joint training, ttt-online and ttt.

    train-oracles (over an hour; resume it), measure-oracles (30 s): UDA-SS for each corruption.

    gradients (needs train-ttt, and no GPU: run it at home with --state): whether TTT gains where
    its gradients agree; writes OUT/grid/analyses/gradients.json.
    """

    data: str
    """Labelled data set: a file of packed.py, a name, or a folder or zip of split/class/image."""
    out: Path
    """Folder of the study: checkpoints, bundles, measurements."""
    results: Path | None = None
    """Folder for tables, settings and pieces of the state."""
    parts: tuple[Part, ...] = ("train-cta", "measure-cta")
    """Parts to run, in this order."""
    seconds: float = 440
    """Time after which the study stops at the next checkpoint."""
    plan: bool = False
    """Only print how much work each part is, and about how long it takes."""
    state: Path | None = None
    """Folder with the pieces of the state that an earlier run left, to go on from."""
    model: str = "acclimate:resnet26-w32"
    """Classifier of CTA and its rivals."""
    ttt_model: str = "acclimate:preact26"
    """Classifier of TTT and UDA-SS."""
    epochs: int = 30
    """Epochs of each stage; CTA has 50, TTT 150."""
    start: Literal["copy", "separate"] = "copy"
    """Initial weights of the twin: a copy of the trained classifier, or random ones."""
    rivals: tuple[str, ...] = ("tttpp", "y")
    """Recipes of the rivals, trained by the same settings."""
    train_images: int = 50_000
    """Number of training images, evenly spaced, like those below."""
    images: int = 10_000
    """Number of test images per corruption for methods of at most one step a batch."""
    paper_images: int = 2000
    """Number of test images for methods of many steps a batch, or of decisions image by image, and
    what they are compared with."""
    online_images: int = 500
    """Number of test images for ttt-online, and what it is compared with."""
    single_images: int = 100
    """Number of test images for ttt, and for each set of the gradients."""
    corruptions: tuple[str, ...] = PUBLISHED
    """Corruptions at severity 5, in addition to clean images."""
    oracles: int = 15
    """Number of corruptions that UDA-SS is trained for."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of order, corruptions and views; training has the first."""
    workers: int = 6
    """Number of processes that measure, on one GPU."""
    step_ms: float = 5.0
    """Milliseconds of a training step on 256 images, for the estimates."""
    commit: str | None = None
    """Commit to record, where the code is no git checkout."""
    published: Path | None = None
    """Table of a paper, to stand beside the summary."""

    @property
    def unpacked(self) -> Path:
        """The decoded images of a packed file."""
        return self.out / "images.safetensors"

    def test(self, count: int) -> Callable[[], LabelledImages]:
        """A function that loads test images; it can be pickled."""
        return partial(images, self.data, self.unpacked, "test", count)

    def bundle(self, label: str) -> Path:
        """Folder of a bundle."""
        return self.out / "bundles" / label


def settings_of(arguments: Arguments, recipe: str = "cta") -> SourceSettings:
    """Settings of all stages: those of CTA's paper, or of TTT's."""
    settings = with_epochs(PRESETS["paper"], arguments.epochs)
    if recipe == "cta":
        return replace(settings, start=arguments.start)
    sgd = Training(
        arguments.epochs, 128, "sgd", 0.1, final_learning_rate=1e-4, warm_up=1, weight_decay=5e-4
    )
    return replace(settings, joint=sgd)


def grids(
    arguments: Arguments, bundles: Mapping[str, Path], corruptions: tuple[str, ...]
) -> Iterator[GridRun]:
    """Grids of all methods that fit the bundles: the costly ones on fewer images, with the others.

    An accuracy over steps is recorded on fewer images only, for it doubles the cost.
    """
    fitting = {v.method for variants in variants_of(bundles).values() for v in variants}
    names = [name for name in METHODS if name in fitting and (PLAIN in bundles or own(name))]
    for count, chosen in sizes(arguments, names).items():
        grid = Grid(
            ("none", *corruptions),
            seeds=arguments.seeds,
            methods=tuple(chosen),
            curve=count < arguments.images,
        )
        yield GridRun(grid, bundles, (arguments.test(count),))


def sizes(arguments: Arguments, names: list[str]) -> dict[int, list[str]]:
    """The methods that are measured on each number of images, the largest number first."""
    limits = {name: limit_of(METHODS[name], arguments) for name in names}
    counts = {min(limit, arguments.images) for limit in limits.values()}
    if any(METHODS[name].oracle for name in names):  # to compare with ttt-online
        counts.add(min(arguments.online_images, arguments.images))
    return {
        count: [name for name, limit in limits.items() if limit >= count]
        for count in sorted(counts, reverse=True)
    }


def own(name: str) -> bool:
    """Whether a method is measured with every bundle that it fits."""
    return name in REFERENCES or METHODS[name].recipe != PLAIN


def limit_of(row: Method, arguments: Arguments) -> int:
    """The number of images that a method is measured on."""
    if row.settings.alone:
        return arguments.single_images
    if row.settings.one_by_one:
        return arguments.online_images
    banked = isinstance(row.settings.memory, Balanced | Reservoir)  # decides image by image
    return arguments.paper_images if row.settings.steps > 1 or banked else arguments.images


def estimate(part: Part, arguments: Arguments) -> str:
    """The work of a part in steps, and the time that this takes on one GPU, roughly."""
    action, _, what = part.partition("-")
    recipes = {
        "cta": (PLAIN, "cta"),
        "rivals": arguments.rivals,
        "ttt": ("ttt",),
        "oracles": ("uda-ss",) * arguments.oracles,
    }.get(what, ())
    if action == "train":
        batch = 128 if what in ("ttt", "oracles") else 256
        # Rotations take 5 passes an image; an oracle's target 4 more; contrast 2.
        factor = {"ttt": 2.5, "oracles": 4.5, "rivals": 2.0}.get(what, 1.2)
        stages = sum(len(RECIPES[recipe].stages) for recipe in recipes if recipe != PLAIN)
        steps = stages * arguments.epochs * (arguments.train_images // batch)
        # How far batches are trusted is measured in passes of single images, for each model.
        trust = 3600 * {"cta": 2, "rivals": len(recipes)}.get(what, 0)
        return _words(steps, (steps * factor + trust) * arguments.step_ms)
    if action == "gradients":
        images_of_all = 5 * len(arguments.corruptions) * arguments.single_images
        return f"{images_of_all:,} images one by one, on the CPU"
    rows = METHODS.items()
    fitting = [n for n, row in rows if not (row.transformer or row.zero_shot)]
    names = [n for n in fitting if METHODS[n].recipe in (PLAIN, *recipes)]
    names = [name for name in names if what == "cta" or own(name)]
    rounds = len(arguments.seeds) * (len(arguments.corruptions) + 1)
    if what == "oracles":
        rounds = 2 * arguments.oracles * len(arguments.seeds)
    steps, milliseconds = 0, 0.0
    for count, chosen in sizes(arguments, names).items():
        for row in (METHODS[name].settings for name in chosen):
            batches = rounds * (count if row.one_by_one else -(-count // 128))
            steps += batches * row.steps
            milliseconds += batches * (row.steps + 0.5) * 2 * arguments.step_ms
    return _words(steps, milliseconds / min(arguments.workers, 4) + 15_000)


def _words(steps: int, milliseconds: float) -> str:
    return f"{steps:,} steps, about {milliseconds / 1000:.0f} s"
