"""The README's picture: accuracy along a stream of 15 corruptions, from the anchor table.

python docs/build/stream_picture.py
"""

import csv
from pathlib import Path

from matplotlib import pyplot
from matplotlib.figure import Figure
from schemes import save

from acclimate.data.corruptions import PUBLISHED

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results" / "anchor" / "results.csv"
OUT = ROOT / "docs" / "pictures" / "stream.png"
SHOWN = {
    "source": ("frozen classifier", "#7f7f7f"),
    "ptbn": ("batch statistics", "#5b8db8"),
    "rmt": ("rmt, best published", "#c98b2e"),
    "acclimate": ("acclimate", None),
}
"""The methods, with their words and colours; None is the colour of ours."""


def along(method: str) -> list[float]:
    """Accuracy in percent under each corruption of the continual stream, in the stream's order."""
    with RESULTS.open(newline="") as file:
        found = {
            row["corruption"]: 100 * float(row["accuracy"])
            for row in csv.DictReader(file)
            if (row["method"], row["bundle"]) == (method, "resnet20")
            and (row["order"], row["seed"], row["window"]) == ("continual", "0", "0")
        }
    return [found[corruption] for corruption in PUBLISHED]


def drawn(ours: str) -> Figure:
    """The picture, with our method's line in this colour."""
    figure, axes = pyplot.subplots(figsize=(6, 4.2), dpi=200)
    for method, (words, colour) in SHOWN.items():
        values = along(method)
        mean = sum(values) / len(values)
        width = 2.4 if method == "acclimate" else 1.4
        axes.plot(
            range(len(values)), values, "o-", ms=3.5, lw=width, color=colour or ours,
            label=f"{words}: {mean:.1f}",
        )  # fmt: skip
    labels = [name.replace("_", " ") for name in PUBLISHED]
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_ylabel("accuracy, %")
    axes.set_ylim(0, 100)
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(
        ncols=2,
        frameon=False,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        alignment="left",
        title="one stream without a reset, and its mean",
        columnspacing=1.2,
    )
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    save(drawn, OUT)
