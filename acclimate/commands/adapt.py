"""``acclimate adapt``."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import starmap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.console import Console

from acclimate.commands.common import (
    check_apart,
    check_file,
    check_limit,
    check_named,
    check_settings_file,
    output,
    report_skipped,
)
from acclimate.data import Skipped
from acclimate.errors import InputError
from acclimate.methods import METHODS, AdapterSettings

if TYPE_CHECKING:
    from acclimate.adapt import Adapter
    from acclimate.adapt.folder_run import FolderRun
    from acclimate.bundle import Bundle
    from acclimate.guard import Guard
    from acclimate.guard.estimate import Estimate

# A part's options are those of its kind in the default: no subcommands.
Settings = Annotated[AdapterSettings, tyro.conf.arg(name=""), tyro.conf.AvoidSubcommands]


@dataclass(frozen=True)
class Adapt:
    """Predict the classes of a folder of images while adapting to them, without labels.

    Images may have any size and mode. Writes a CSV with one row per image, in natural order: path,
    prediction, confidence, and the frozen classifier's prediction and confidence beside them.
    Images that cannot be read are listed with the reason. Answers are written as they come, to
    OUT.partial until all are there. After an interruption, run the same command again to go on.

    The settings below start from the method's own. Another kind of a part is chosen by its name:
    --update adam, adamw, sgd, sam, cma-es; --normalisation source, batch, blended, running, robust,
    instance-aware, class-balanced; --reset batch, never, signal; --memory batch, recent, gathered,
    balanced, reservoir; --answer after, before, teacher; --aftermath teacher, sensing-teacher,
    pull, kalman, restore, turns (one of them); --selection all, certain-and-diverse, reliable,
    reliable-new, reliable-shape; --penalty none, fisher, divergence; --correction none, prior,
    shifted, laplacian, supports; --objective anchored-student, augmented-student, averaged-teacher,
    clustering, confident-views, contrasted-student, contrastive, contrastive-moments, destroyed,
    discrepancy, entropy, flow, information, invariance, likelihood-ratio, likely-classes,
    marginal-entropy, masked-reconstruction, noise-contrastive, reconstruction, rotation,
    template-turns. Then the options of that kind can be given.

    Example: acclimate adapt bundle photos --out predictions.csv

    Example: acclimate adapt bundle photos --out out.csv --steps 3 --update.learning-rate 1e-4

    Example: acclimate adapt bundle photos --out out.csv --update sgd --update.momentum 0.9
    """

    bundle: tyro.conf.Positional[Path]
    """A bundle from acclimate align, wrap, train or quickstart."""
    images: tyro.conf.Positional[Path]
    """A folder, searched recursively, or a zip."""
    out: Path
    """The CSV file to write, a pipe, or - for standard output."""
    method: str = "cta"
    """A name that acclimate methods lists; default: the bundle's."""
    device: str | None = None
    """cpu or cuda; default: a GPU if there is one."""
    batch: int = 128
    """Number of images that are adapted to together; larger batches estimate the shift better."""
    trust_code: bool = False
    """Allow running the function that a bundle names as its architecture."""
    shuffle: bool = False
    """Adapt to the images in a random order, by --seed. Class folders would otherwise give batches
    of one class. The CSV stays in natural order; a pipe gets the answers as they come."""
    memory_limit: Annotated[str | None, tyro.conf.arg(aliases=("--memory",))] = None
    """The most memory that the process may hold, such as 2GB; default: what the machine has free.
    The answers are the same."""
    guard: Literal["bounded", "shadow", "off"] | None = None
    """bounded gives the adapted answers only where they seem better than the frozen classifier's;
    shadow gives the frozen classifier's, and judges the adapted ones beside; off adapts without a
    guard. Default: bounded for methods that remember earlier batches, if the bundle has a guard's
    calibration."""
    at_change: Literal["go-on", "restart", "come-back"] = "go-on"
    """What becomes of what was learned when the guard finds that the stream has changed: it stays,
    is forgotten, or gives way to what was learned from earlier images that looked the same."""
    class_shares: Literal["any", "as-source"] = "any"
    """as-source tells the guard that, among any 200 images in a row, each class is about as
    frequent as among the source images of its calibration. Then it can find the frozen classifier
    wrong where a shift makes it give one class again and again. If the classes come otherwise, this
    may do harm; any tells it nothing."""
    guard_log: Path | None = None
    """A file that gets a line of JSON for each decision of the guard, with its reason."""
    settings_file: Annotated[Path | None, tyro.conf.arg(name="settings")] = None
    """A file that acclimate advise wrote: method, settings and batch, unless they are given."""
    settings: Settings = METHODS["cta"].settings
    """How to adapt; starts from the method's own settings."""

    def run(self, console: Console) -> None:
        """Do it."""
        from acclimate.adapt.answers_file import AnswersFile
        from acclimate.adapt.folder import adapt_folder
        from acclimate.bundle import Bundle
        from acclimate.runtime.progress import live

        out, console = output(self.out, console)
        check_file(out)
        if self.guard_log is not None:
            check_named(self.guard_log, "--guard-log")
            check_apart(out=out, guard_log=self.guard_log)
        check_limit(self.memory_limit)

        def tell(sentence: str) -> None:
            console.print(sentence, markup=False, highlight=False, soft_wrap=True)

        check_settings_file(self.settings_file, self.bundle)
        bundle = Bundle.load(self.bundle)
        guards = []

        def guard(adapter: "Adapter") -> "Guard | None":
            guards.append(self._guard(adapter, bundle, tell))
            return guards[0]

        with (
            AnswersFile(out, tell=tell, started=lambda run: self._warn(run, tell)) as file,
            live() as progress,
        ):
            for answer in adapt_folder(
                bundle,
                self.images,
                method=self.method,
                settings=self.settings,
                batch=self.batch,
                device=self.device,
                memory_limit=self.memory_limit,
                progress=progress,
                shuffle=self.shuffle,
                checkpoints=file,
                guard=guard,
            ):
                file.write(answer)
            file.finish()
        tally = file.tally
        report_skipped(starmap(Skipped, tally.examples), console)
        if tally.skipped > len(tally.examples):
            tell(f"and {tally.skipped - len(tally.examples):,} more, which {out} lists")
        console.print(
            f"{out}: {tally.answered} answers, {tally.changed} of them changed by "
            f"adapting, {tally.skipped} images skipped",
            markup=False,
        )
        if guards and guards[0] and guards[0].verdict:
            tell(_estimated(guards[0].verdict.estimate))

    def _guard(
        self, adapter: "Adapter", bundle: "Bundle", tell: Callable[[str], object]
    ) -> "Guard | None":
        """The run's guard, or none: as asked, else where it may be of use and can be had."""
        from acclimate.guard import Guard, Rules, is_calibrated

        mode = self.guard
        if mode is None and not adapter.settings.reset.always:
            mode = "bounded" if is_calibrated(bundle, adapter.name) else None
            if mode is None:
                tell(
                    "no guard watches the answers, since the bundle has no calibration of one; "
                    "acclimate measure BUNDLE SOURCE_IMAGES --out NEW makes one that has"
                )
        if mode is None or mode == "off":
            if self.guard_log is not None:
                raise InputError("--guard-log is the log of a guard; give --guard bounded, too.")
            if self.at_change != "go-on":
                raise InputError("--at-change needs a guard; give --guard bounded, too.")
            if self.class_shares != "any":
                raise InputError("--class-shares tells a guard; give --guard bounded, too.")
            return None
        rules = Rules(at_change=self.at_change, class_shares=self.class_shares)
        where = {"log": self.guard_log, "memory_limit": self.memory_limit}
        return Guard(adapter, bundle, mode, rules=rules, **where)

    def _warn(self, run: "FolderRun", tell: Callable[[str], object]) -> None:
        """Tell what the user may not expect of this run."""
        from acclimate.backbones.batch_norm import batch_norms

        if others := ", ".join(f"{n:,} {kind}" for kind, n in sorted(run.found.others.items())):
            tell(f"not looked at, since they are no images: {others}")
        settings, left_out = run.adapter.settings, run.found.left_out
        paths = [path for path in run.found.items.paths if path not in left_out]
        folders = {path.rpartition("/")[0] for path in paths}
        learns = bool(settings.steps) or settings.normalisation.uses_batch
        in_order = not self.shuffle and not settings.one_by_one
        if learns and in_order and len(folders) > 1 and len(paths) > self.batch > 1:
            tell(
                f"the images lie in {len(folders):,} folders and are taken in path order, so that "
                "a batch holds images of few of them; if each folder is a class, --shuffle adapts "
                "better"
                + (", and --class-shares as-source needs it" * (self.class_shares != "any"))
            )
        alone = settings.one_by_one or min(self.batch, len(paths)) == 1
        prior = getattr(settings.normalisation, "prior", None)
        outcome = "most answers will be wrong"
        if run.guard and not settings.one_by_one:
            outcome = "the guard gives the frozen classifier's answers alone"
        if (
            alone
            and prior == 0
            and not settings.memory.keeps
            and batch_norms(run.bundle.classifier)
        ):
            tell(
                f"warning: batch norm statistics of one image say little, and {run.adapter.name} "
                f"uses no others, so that {outcome}; choose a larger --batch, or "
                "--normalisation.prior 16"
            )


def _estimated(estimate: "Estimate") -> str:
    """Both models' accuracy, as estimated for the recent images."""
    return (
        f"right answers by estimate, without labels, among the last {estimate.images:.0f} images "
        f"or so: frozen {estimate.frozen}, adapted {estimate.adapted}, guarded {estimate.guarded}"
    )
