"""The report: one HTML file that needs nothing beside it."""

import base64
import io
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import plotly.graph_objects as go
from jaxtyping import UInt8
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup
from PIL import Image
from plotly.offline import get_plotlyjs
from torch import Tensor

from acclimate.errors import InputError
from acclimate.evaluate.cell import CLEAN
from acclimate.evaluate.store import Measured
from acclimate.report.analyses import Analysis
from acclimate.report.cards import cards_of
from acclimate.report.comparison import Comparison, Row, compare
from acclimate.report.each_part import PartsRow, each_part, parts_shown
from acclimate.report.exports import as_csv, as_latex, as_markdown, points
from acclimate.report.figures import ACROSS, WITHIN, Kind, iterations_of
from acclimate.report.figures.style import looks
from acclimate.report.gains import Gain
from acclimate.report.measured import Protocol, RowKey, by_protocol, row_names
from acclimate.report.protocol_cards import ShownCard
from acclimate.report.published import Published, published_score
from acclimate.report.samples import Sample
from acclimate.report.warnings import warnings_of
from acclimate.storage.atomic import write_text

_SURROGATE = re.compile("[\ud800-\udfff]")
_LONE = re.compile(r"\\ud[89ab]..\\ud[c-f]..|\\u(d[89a-f]..)")
"""In JSON: a pair of surrogates, which is a character, or one alone."""
_LONGEST_SIDE = 96
"""Longest side of a sample image in pixels; larger images are shrunk to keep the page small."""


@dataclass(frozen=True)
class Report:
    """The contents of a page."""

    title: str
    measured: Sequence[Measured]
    settings: Mapping[str, Mapping[str, object]]
    """The settings of each variant by its name, as the manifest has them."""
    provenance: Mapping[str, object]
    """Instructions to run it again; values are text, lists of lines, or names and values."""
    held_out: Collection[str] = ()
    """Corruptions kept apart for choosing settings; in no mean."""
    published: Sequence[Published] = ()
    """Numbers that others published on the same data set."""
    analyses: Sequence[Analysis] = ()
    samples: Sequence[Sample] = ()
    """Images to show."""
    parts: Sequence[tuple[str, Gain]] = ()
    """Gains of the parts of CTA, see `acclimate.report.gains.parts_of`."""
    protocol_cards: Sequence[ShownCard] = ()
    """How every number was measured."""


@dataclass(frozen=True)
class _Section:
    """The cells of one protocol, compared."""

    protocol: Protocol
    table: Comparison
    downloads: Mapping[str, str]
    """Names of files and their addresses."""
    published: Mapping[RowKey, float | None]
    """Published mean of each row over the same corruptions."""
    beside: Sequence[tuple[Row, list[float | None]]]
    """Rows with published numbers, and a number for each column."""
    repeated: Collection[RowKey]
    """Rows that are folded away, and in no figure."""
    seeds: Sequence[int]
    warnings: Sequence[str]
    figures: Sequence[tuple[Kind, go.Figure]]
    parts: Sequence[PartsRow]
    """What each part of each method's gain is."""


def write_page(path: Path, report: Report) -> None:
    """Write the report, atomically. It loads nothing from elsewhere.

    Raises:
        InputError: there is nothing to report, or the file cannot be written.
    """
    if not report.measured:
        raise InputError("there are no results to report; run the evaluation first.")
    protocols = by_protocol(report.measured)
    sections = [
        _section(protocol, cells, report, place)
        for place, (protocol, cells) in enumerate(protocols.items())
    ]
    first, repeated = protocols[sections[0].protocol], sections[0].repeated
    everywhere = [each for each in report.measured if each.row not in repeated]
    small = {
        name: drawn
        for name in dict.fromkeys(each.cell.condition for each in first)
        if (drawn := iterations_of(name, first, report.held_out)) is not None
    }
    page = _template().render(
        report=report,
        sections=sections,
        headline=_headline(sections[0].table),
        small=small,
        across=_drawn(ACROSS, everywhere, report.held_out),
        cards=cards_of(report.measured, report.settings, sections[0].table),
        looks=looks(row_names(report.measured)),
        plotly=Markup(get_plotlyjs()),
    )
    write_text(path, _valid(page))


def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("acclimate.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"png": _png, "json": _json, "points": points, "spaced": _spaced}
    environment.filters["parts_shown"] = parts_shown
    return environment.get_template("page.html.jinja")


def _section(protocol: Protocol, cells: Sequence[Measured], report: Report, place: int) -> _Section:
    table = compare(cells, report.held_out)
    counting = [column.name for column in table.columns if column.kind == "reported"]
    published = {
        row.key: published_score(report.published, str(row.variant), counting, protocol.severity)
        for row in table.rows
    }
    repeated = table.repeated()
    beside = []
    for row in table.rows:
        numbers = [
            published_score(
                report.published,
                str(row.variant),
                counting if column.kind == "mean" else [column.condition],
                0 if column.condition == CLEAN else protocol.severity,
            )
            for column in table.columns
        ]
        if row.key not in repeated and any(number is not None for number in numbers):
            beside.append((row, numbers))
    texts = {"csv": as_csv(table), "md": as_markdown(table), "tex": as_latex(table)}
    downloads = {f"table-{place + 1}.{kind}": _address(text) for kind, text in texts.items()}
    seeds = sorted({each.cell.seed for each in cells})
    kinds = WITHIN if place == 0 else [kind for kind in WITHIN if kind.name == "along"]
    shown = [each for each in cells if each.row not in repeated]
    figures = _drawn(kinds, shown, report.held_out)
    warnings = warnings_of(table, protocol.together)
    parts = each_part(cells, report.held_out)
    return _Section(
        protocol, table, downloads, published, beside, repeated, seeds, warnings, figures, parts
    )


def _drawn(
    kinds: Sequence[Kind], measured: Sequence[Measured], held_out: Collection[str]
) -> list[tuple[Kind, go.Figure]]:
    """The figures that there is data for."""
    found = [(kind, kind.draw(measured, held_out)) for kind in kinds]
    return [(kind, figure) for kind, figure in found if figure is not None]


def _headline(table: Comparison) -> dict[str, object] | None:
    """The best row, and the frozen classifier of its bundle; None if one of them is missing."""
    rivals = [
        (score.mean, row)
        for row in table.rows
        if row.competes and (score := table.score(row, "mean")) and score.comparable
    ]
    best = max(rivals, key=lambda each: each[0], default=None)
    if best is None or best[1].gain is None:
        return None
    mean, row = best
    return {"row": row, "mean": mean, "among": len({other.variant for _, other in rivals})}


def _spaced(name: str) -> str:
    return name.replace("_", " ")


def _json(figure: go.Figure) -> Markup:
    """A figure as text for a script element, where nothing may look like a tag."""
    text = _LONE.sub(_whole, figure.to_json() or "")
    return Markup(text.replace("<", "\\u003c"))


def _valid(text: str) -> str:
    r"""Text that UTF-8 can hold: bytes of names that are no UTF-8 become escapes such as \\xe9."""
    return _SURROGATE.sub(lambda found: _escape(ord(found[0])), text)


def _whole(found: re.Match[str]) -> str:
    """The same in JSON, so that figures call a row as tables do."""
    return "\\" + _escape(int(found[1], 16)) if found[1] else found[0]


def _escape(code: int) -> str:
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"


def _address(text: str) -> str:
    """A text as a data URI."""
    encoded = base64.b64encode(_valid(text).encode()).decode("ascii")
    return f"data:text/plain;charset=utf-8;base64,{encoded}"


def _png(image: UInt8[Tensor, "3 height width"]) -> str:
    """An image as the data URI of a PNG."""
    picture = Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy())
    picture.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    file = io.BytesIO()
    picture.save(file, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")
