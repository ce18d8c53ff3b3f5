"""The table of one protocol: every variant, compared only where that is fair."""

import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from acclimate.evaluate.cell import CLEAN, Cell
from acclimate.evaluate.store import Measured
from acclimate.evaluate.variant import Variant
from acclimate.methods import METHODS, AdapterSettings
from acclimate.parts.blended import BlendedStatistics
from acclimate.report.gains import Gain, gain_between, stream_of
from acclimate.report.measured import RowKey, reported, row_names, usual_images

BASE = Variant("source")
BASELINES = (BASE, Variant("ptbn"))
"""Variants that are measured with every bundle."""
_TWIN_STATISTICS = Variant("aligned-bn")


@dataclass(frozen=True)
class Column:
    """A column of the table."""

    name: str
    """``clean``, ``mean``, the corruption's name, or the domain."""
    kind: Literal["clean", "mean", "reported", "held out"]
    """Held out: a corruption kept apart for choosing settings, in no mean."""

    @property
    def condition(self) -> str:
        """The condition of its cells."""
        return CLEAN if self.kind == "clean" else self.name


@dataclass(frozen=True)
class Score:
    """An accuracy, a mean over seeds."""

    mean: float
    """A fraction."""
    deviation: float | None
    """Sample standard deviation over seeds; None of a single seed."""
    images: int
    """Images that each seed answered for."""
    comparable: bool = True
    """Whether it was measured on the same images as most of its column."""


@dataclass(frozen=True)
class Row:
    """A variant with a bundle."""

    key: RowKey
    name: str
    scores: tuple[Score | None, ...]
    """A score for each column; None where something was not measured."""
    best_iteration: Score | None
    """The mean if labels chose the number of steps for each corruption: an oracle."""
    gain: Gain | None
    """The mean's difference to the frozen classifier of the same bundle."""
    statistics: Gain | None
    """The share of the gain that batch-norm statistics explain without a step; for a twin,
    statistics and alignment."""
    clean: Gain | None
    """The difference to the frozen classifier of the same bundle on clean images."""
    batch_alone: bool
    """Whether it normalises by statistics of the batch without a prior."""
    cost: float | None
    """Forward passes for each image; None where they were not counted."""
    lead: float | None = None
    """The mean minus that of the best other method."""

    @property
    def variant(self) -> Variant:
        """The method and its changes."""
        return self.key[1]

    @property
    def twin(self) -> bool:
        """Whether an aligned twin answers."""
        return METHODS[self.variant.method].model == "twin"

    @property
    def oracle(self) -> bool:
        """Whether it was shown the target images before deployment."""
        return METHODS[self.variant.method].oracle

    @property
    def competes(self) -> bool:
        """Whether it may be marked: no oracle, and no control at learning rate 0."""
        return not self.oracle and not self.variant.control

    @property
    def elsewhere(self) -> bool:
        """Whether some scores were measured on other images than most of their column."""
        return any(score is not None and not score.comparable for score in self.scores)


@dataclass(frozen=True)
class Comparison:
    """All rows of one protocol."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]

    def score(self, row: Row, column: str) -> Score | None:
        """The score of a row in the column of this name."""
        names = [each.name for each in self.columns]
        return row.scores[names.index(column)] if column in names else None

    def rank(self, row: Row, column: int) -> int:
        """1 and 2 for the best two scores of a column as shown, ties included; otherwise 0."""
        shown = {
            round(100 * score.mean, 1)
            for each in self.rows
            if each.competes and (score := each.scores[column]) and score.comparable
        }
        score = row.scores[column]
        if not (score and score.comparable and row.competes):
            return 0
        place = sorted(shown, reverse=True).index(round(100 * score.mean, 1)) + 1
        return place if place <= 2 else 0

    def repeated(self) -> frozenset[RowKey]:
        """Baselines of all bundles but one, unless their mean is marked: a page folds them away.

        The one bundle is that of methods that take any classifier; without these, the first.
        """
        theirs = [row for row in self.rows if row.variant in BASELINES]
        any_classifier = METHODS[BASE.method].recipe
        plain = [
            row.key[0]
            for row in self.rows
            if row not in theirs and METHODS[row.variant.method].recipe == any_classifier
        ]
        kept = next(iter([*plain, *(row.key[0] for row in theirs)]), None)
        means = [place for place, column in enumerate(self.columns) if column.kind == "mean"]
        marked = {row.key for row in theirs for place in means if self.rank(row, place)}
        return frozenset(row.key for row in theirs if row.key[0] != kept) - marked

    def images(self) -> int:
        """The largest number of images of a score."""
        return max((s.images for row in self.rows for s in row.scores if s), default=0)


def compare(measured: Sequence[Measured], held_out: Collection[str] = ()) -> Comparison:
    """The table of one protocol's cells.

    ```python
    for protocol, cells in by_protocol(measured).items():
        table = compare(cells)
    ```

    The mean is over the reported corruptions or domains, for rows that have all of them. A variant
    measured on other images than most of its column (fewer of them, because it is slow) keeps its
    figures but is compared with nothing, except its own classifier on the same images.

    Args:
        measured: All cells of one protocol, see `acclimate.report.measured.by_protocol`.
        held_out: Corruptions kept apart for choosing settings; in no mean.
    """
    columns = _columns(measured, held_out)
    counting = [column.name for column in columns if column.kind == "reported"]
    usual = usual_images(measured)
    names = row_names(measured)
    cells: dict[RowKey, list[Measured]] = defaultdict(list)
    for each in measured:
        cells[each.row].append(each)
    rows = []
    for key, name in names.items():
        mine = _own(cells[key], usual)
        gain, statistics, clean = _gains(key, mine, cells, held_out)
        rows.append(
            Row(
                key,
                name,
                tuple(_score(mine, column, counting, usual) for column in columns),
                _best_iteration(mine, counting),
                gain,
                statistics,
                clean,
                _batch_alone(mine[0].task.settings),
                None if math.isnan(cost := mine[0].cell.forward_equivalents) else cost,
            )
        )
    return _with_leads(Comparison(columns, tuple(rows)))


def _batch_alone(settings: AdapterSettings) -> bool:
    normalisation = settings.normalisation
    if isinstance(normalisation, BlendedStatistics):
        return False
    return normalisation.uses_batch and getattr(normalisation, "prior", 0) == 0


def _gains(
    key: RowKey,
    mine: Sequence[Measured],
    cells: Mapping[RowKey, Sequence[Measured]],
    held_out: Collection[str],
) -> tuple[Gain | None, Gain | None, Gain | None]:
    """The difference to the frozen classifier of the same bundle, the same without steps, on clean.

    All are over the seeds that the frozen classifier was measured with, which is the one of the
    same precision if that was measured.
    """
    bundle, variant = key
    if variant.method == BASE.method:
        return None, None, None
    twin = METHODS[variant.method].model == "twin"
    frozen = variant.frozen if (bundle, variant.frozen) in cells else BASE
    base = cells.get((bundle, frozen), ())
    seeds = {each.cell.seed for each in base}
    clean = [each for each in mine if each.cell.condition == CLEAN and each.cell.seed in seeds]
    mine = [each for each in reported(mine, held_out) if each.cell.seed in seeds]
    streams = {stream_of(each) for each in mine}
    plain = replace(_TWIN_STATISTICS if twin else BASELINES[1], changes=frozen.changes)
    alone = [each for each in cells.get((bundle, plain), ()) if stream_of(each) in streams]
    statistics = gain_between(alone, base) if len(alone) == len(mine) else None
    return gain_between(mine, base), statistics, gain_between(clean, base)


def _columns(measured: Sequence[Measured], held_out: Collection[str]) -> tuple[Column, ...]:
    seen = list(dict.fromkeys(each.cell.condition for each in measured))
    counting = [name for name in seen if name != CLEAN and name not in held_out]
    columns = [Column("clean", "clean")] if CLEAN in seen else []
    columns += [Column("mean", "mean")] if counting else []
    columns += [Column(name, "reported") for name in counting]
    return (*columns, *(Column(name, "held out") for name in seen if name in held_out))


def _own(mine: Sequence[Measured], usual: Mapping[str, str]) -> list[Measured]:
    """The cells of a row; of a condition measured on several sets of images, those of one set."""
    sets = usual_images(mine)
    for each in mine:
        if each.task.images == usual[each.cell.condition]:
            sets[each.cell.condition] = each.task.images
    return [each for each in mine if each.task.images == sets[each.cell.condition]]


def _score(
    mine: Sequence[Measured], column: Column, counting: Sequence[str], usual: Mapping[str, str]
) -> Score | None:
    wanted = counting if column.kind == "mean" else [column.condition]
    here = [each for each in mine if each.cell.condition in wanted]
    score = _over_seeds([(each.cell, each.cell.accuracy) for each in here], wanted)
    if score is None:
        return None
    same = all(each.task.images == usual[each.cell.condition] for each in here)
    return replace(score, images=min(each.cell.n_images for each in here), comparable=same)


def _best_iteration(mine: Sequence[Measured], counting: Sequence[str]) -> Score | None:
    best = [(each.cell, max(each.cell.curve)) for each in mine if len(each.cell.curve) > 1]
    return _over_seeds(best, counting) if counting else None


def _over_seeds(values: Sequence[tuple[Cell, float]], wanted: Sequence[str]) -> Score | None:
    """Mean and deviation over the seeds that have all wanted conditions."""
    places: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for cell, value in values:
        places[cell.seed][cell.condition].append(value)
    means = [
        float(np.mean([np.mean(here[name]) for name in wanted]))
        for here in places.values()
        if all(name in here for name in wanted)
    ]
    if not means:
        return None
    deviation = float(np.std(means, ddof=1)) if len(means) > 1 else None
    return Score(float(np.mean(means)), deviation, 0)


def _with_leads(table: Comparison) -> Comparison:
    means = {row.key: table.score(row, "mean") for row in table.rows}
    rivals = {
        row.key: score.mean
        for row in table.rows
        if row.competes and (score := means[row.key]) and score.comparable
    }
    rows = []
    for row in table.rows:
        others = [value for key, value in rivals.items() if key[1] != row.variant]
        lead = rivals[row.key] - max(others) if row.key in rivals and others else None
        rows.append(replace(row, lead=lead))
    return replace(table, rows=tuple(rows))
