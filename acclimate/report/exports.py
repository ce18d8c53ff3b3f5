"""The table as text: CSV, Markdown and LaTeX."""

import csv
import io
import math

from acclimate.report.comparison import Comparison, Row, Score
from acclimate.report.gains import Gain

_SPECIAL = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
)


def as_csv(table: Comparison) -> str:
    """All figures as fractions and in full; unknown figures are empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    head = ["bundle", "method", "oracle", "comparable", "forward_equivalents"]
    for column in table.columns:
        head += [column.name, f"{column.name}_std", f"{column.name}_images"]
    head += ["lead", "best_iteration_oracle"]
    for name in ("gain", "statistics", "clean_gain"):
        head += [name, f"{name}_low", f"{name}_high"]
    writer.writerow(head)
    for row in table.rows:
        line = [*row.key, int(row.oracle), int(not row.elsewhere), _blank(row.cost)]
        for score in row.scores:
            line += [score.mean, _blank(score.deviation), score.images] if score else [""] * 3
        line += [_blank(row.lead), row.best_iteration.mean if row.best_iteration else ""]
        for gain in (row.gain, row.statistics, row.clean):
            values = (gain.difference, gain.low, gain.high) if gain else (math.nan,) * 3
            line += ["" if math.isnan(value) else value for value in values]
        writer.writerow(line)
    return text.getvalue()


def as_markdown(table: Comparison) -> str:
    """Accuracies in percent; the best of a column bold, the second in italics."""
    names = ["method", *(column.name.replace("_", " ") for column in table.columns)]
    lines = [names, ["---", *["---:"] * len(table.columns)]]
    for row in table.rows:
        figures = []
        for place, score in enumerate(row.scores):
            mark = ("", "**", "*")[table.rank(row, place)]
            figures.append(f"{mark}{percent(score, ' ± ')}{mark}")
        lines.append([_name(row, "†", "(oracle)").replace("|", "\\|"), *figures])
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    below = "".join(f"\n{note}\n" for note in notes(table, "†"))
    return f"{text}\n{below}"


def as_latex(table: Comparison) -> str:
    """A tabular for the booktabs package; the best of a column bold, the second underlined."""
    names = ["method", *(column.name.replace("_", " ") for column in table.columns)]
    lines = [" & ".join(name.translate(_SPECIAL) for name in names) + r" \\", r"\midrule"]
    for row in table.rows:
        figures = []
        for place, score in enumerate(row.scores):
            figure = percent(score, r" $\pm$ ").replace("–", "--")
            frame = ("{}", r"\textbf{{{}}}", r"\underline{{{}}}")[table.rank(row, place)]
            figures.append(frame.format(figure))
        name = _name(row, "", "(oracle)").replace(" · ", ", ").translate(_SPECIAL)
        dagger = r"$^\dagger$" if row.elsewhere else ""
        lines.append(" & ".join([name + dagger, *figures]) + r" \\")
    body = "\n".join(lines)
    columns = "l" + "r" * len(table.columns)
    below = "".join(f"% {note}\n" for note in notes(table, "dagger"))
    begin = f"\\begin{{tabular}}{{{columns}}}\n\\toprule\n"
    return f"{begin}{body}\n\\bottomrule\n\\end{{tabular}}\n{below}"


def points(gain: Gain | None) -> str:
    """A difference in points, with its interval where it has one."""
    if gain is None:
        return "–"
    first, low, high = (_signed(x) for x in (gain.difference, gain.low, gain.high))
    return first if math.isnan(gain.low) else f"{first} [{low}, {high}]"


def _signed(fraction: float) -> str:
    return f"{100 * fraction:+z.1f}".replace("-", "−")


def percent(score: Score | None, between: str) -> str:
    """An accuracy in percent, and its deviation over seeds after ``between``."""
    if score is None:
        return "–"
    deviation = "" if score.deviation is None else f"{between}{100 * score.deviation:.1f}"
    return f"{100 * score.mean:.1f}{deviation}"


def _name(row: Row, dagger: str, oracle: str) -> str:
    return row.name + (f" {oracle}" if row.oracle else "") + (dagger if row.elsewhere else "")


def notes(table: Comparison, dagger: str) -> list[str]:
    """Sentences that explain held-out columns and rows with a dagger."""
    found = []
    if any(column.kind == "held out" for column in table.columns):
        held = [column.name for column in table.columns if column.kind == "held out"]
        found.append(f"{', '.join(held)}: kept apart for choosing settings, not in the mean.")
    if any(row.elsewhere for row in table.rows):
        found.append(f"{dagger}: measured on other images than most, not compared.")
    return found


def _blank(value: float | None) -> float | str:
    return "" if value is None else value
