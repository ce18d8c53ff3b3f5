"""``acclimate advise``."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from acclimate.commands.common import (
    check_apart,
    check_file,
    check_limit,
    check_named,
    report_skipped,
)
from acclimate.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from acclimate.advise import Advice
    from acclimate.advise.labelled import Labelled
    from acclimate.bundle import Bundle
    from acclimate.preprocessing import Preprocessing


_WIDTH = 132  # of the table; narrower terminals break its lines


@dataclass(frozen=True)
class Advise:
    """Say which method to adapt a bundle with, what it gains and costs, or that it does not pay.

    A short list of methods is tried on source images, under corruptions that are in no reported
    mean, in batches of the deployment's size and in its order; and, if there are any, on unlabelled
    images of the deployment. It says beforehand how long that takes.

    Example: acclimate advise bundle --source photos --out advice.json

    Example: acclimate advise bundle shifted --source photos --batch 16 --page advice.html
    """

    bundle: tyro.conf.Positional[Path]
    """A bundle from acclimate align, wrap, train or quickstart."""
    source: str
    """Unlabelled source images: a folder, a zip, an .npy array, or a data set's name, of which its
    training images are taken. Better ones that nothing was trained on."""
    target: tyro.conf.Positional[str | None] = None
    """Unlabelled images of the deployment, in the same forms."""
    labels: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Also say what labels say: the target images are then a data set's name, or a folder
    test/class/image or a zip of one. The advice is the same."""
    batch: tuple[int, ...] = (128,)
    """Images that come together; several sizes if the deployment can have any of them."""
    order: Literal["shuffled", "arrival"] = "shuffled"
    """How images come: in random order; or as target images are listed, and source images by class
    if those come so, or as they are listed if there is no target."""
    methods: tuple[str, ...] = ()
    """Methods or variants to choose among, such as tent or acclimate:reset=batch; without it a
    short list for the bundle."""
    minutes: float = 5.0
    """About how long it may take; where time is short, fewer source images are tried on, but those
    of two batches, or of four with --order arrival."""
    out: Path | None = None
    """A settings file to write, which acclimate adapt and bench take as --settings."""
    page: Path | None = None
    """A page to write, an HTML file."""
    root: Path | None = None
    """Folder of a data set that is given by its name."""
    domain: str | None = None
    """Domain of the target, for a data set that has several: sketch (pacs), fog/3 (cifar10-c)."""
    device: Literal["cpu"] | None = None
    """Device to measure on: cpu; default: a GPU if there is one."""
    memory_limit: Annotated[str | None, tyro.conf.arg(aliases=("--memory",))] = None
    """The most memory that the process may hold, such as 4GB; default: what is free."""
    trust_code: bool = False
    """Allow running the function that a bundle names as its architecture."""

    def run(self, console: Console) -> None:
        """Do it."""
        from acclimate.advise import advise
        from acclimate.advise.labelled import by_labels
        from acclimate.advise.page import page_of
        from acclimate.bundle import Bundle
        from acclimate.runtime.progress import live
        from acclimate.source.loop import Run
        from acclimate.storage.atomic import write_text

        self._check()
        bundle = Bundle.load(self.bundle)
        source = self._source(bundle.preprocessing, console)
        target, labels = self._target(bundle, console)
        with live() as progress:
            advice = advise(
                bundle,
                source,
                target,
                batches=self.batch,
                order=self.order,
                methods=self.methods,
                minutes=self.minutes,
                run=Run(progress=progress, device=self.device, memory_limit=self.memory_limit),
                say=lambda sentence: _say(console, sentence),
            )
        labelled = None if labels is None else by_labels(advice, labels)
        show(advice, labelled, console)
        if self.page is not None:
            write_text(self.page, page_of(advice, self.bundle.resolve().name, labelled))
            _say(console, f"open {self.page}")
        if self.out is not None:
            self._save(advice)
            _say(console, f"{self.out} can be given as --settings to acclimate adapt and bench")

    def _check(self) -> None:
        """Refuse what cannot be meant, before any work."""
        check_limit(self.memory_limit)
        if self.labels and self.target is None:
            raise InputError("labels are those of target images; give these behind the bundle.")
        if not self.minutes > 0:
            raise InputError(f"--minutes must be more than 0, not {self.minutes}.")
        for name in ("out", "page"):
            if (path := getattr(self, name)) is not None:
                check_named(path, f"--{name}")
                check_file(path)
        check_apart(out=self.out, page=self.page)

    def _source(self, preprocessing: "Preprocessing", console: Console) -> "Tensor":
        from acclimate.data import load_images
        from acclimate.data.published import SETS

        split = "train" if self.source in SETS else None
        data = load_images(self.source, split, size=preprocessing, root=self.root)
        report_skipped(data.skipped, console)
        return data.images

    def _target(self, bundle: "Bundle", console: Console) -> "tuple[Tensor | None, Tensor | None]":
        """Target images, and the bundle's output for each if they are labelled."""
        from acclimate.data import load, load_images
        from acclimate.data.classes import match_classes
        from acclimate.data.published import SETS

        if self.target is None:
            return None, None
        where = {"root": self.root, "domain": self.domain, "size": bundle.preprocessing}
        if not self.labels:
            split = "test" if self.target in SETS else None
            data = load_images(self.target, split, **where)
            report_skipped(data.skipped, console)
            return data.images, None
        known = load(self.target, "test", **where)
        report_skipped(known.skipped, console)
        match = match_classes(bundle.classes, known.classes, whose="the bundle", data=known.name)
        return known.images, match.outputs[known.labels]

    def _save(self, advice: "Advice") -> None:
        from acclimate.advise.settings_file import save
        from acclimate.advise.words import remarks_of, settings_of
        from acclimate.bundle_record import read_record

        assert self.out is not None
        weights = read_record(self.bundle)["weights_sha256"]
        save(self.out, settings_of(advice, weights, self.batch[0]), remarks_of(advice))


def show(advice: "Advice", labelled: "Labelled | None", console: Console) -> None:
    """Print the table of methods, then the advice."""
    from acclimate.advise.words import COLUMNS, rows, verdict_of

    columns = [*COLUMNS, *(["by labels"] if labelled else [])]
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in columns:
        side = "left" if name == "method" else "right"
        table.add_column(name, justify=side, no_wrap=True)
    for row in rows(advice, labelled):
        table.add_row(*map(escape, row))
    console.width = max(console.width, _WIDTH)  # rich would cut the cells off
    console.print(table, crop=False)
    verdict = verdict_of(advice)
    console.print(verdict.headline, style="bold", markup=False, highlight=False, soft_wrap=True)
    for reason in verdict.reasons:
        _say(console, reason)
    if labelled:
        best = labelled.best or "the frozen classifier"
        _say(console, f"By labels, which the advice does not see, {best} is best.")


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
