"""The README's picture: accuracy along a stream of 15 corruptions, from the anchor table.

python docs/build/stream_picture.py
"""

import csv
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

from acclimate.data.corruptions import PUBLISHED

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results" / "anchor" / "results.csv"
OUT = ROOT / "docs" / "pictures" / "stream.png"
SHOWN = {
    "source": ("frozen classifier", "#7f7f7f"),
    "ptbn": ("batch statistics", "#5b8db8"),
    "rmt": ("rmt, the best published method here", "#c98b2e"),
    "acclimate": ("acclimate", "#00796b"),
}
"""The methods, with their words and colours."""


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


def draw(path: Path) -> None:
    """Write the picture."""
    figure, axes = pyplot.subplots(figsize=(9, 4.2), dpi=110)
    for method, (words, colour) in SHOWN.items():
        values = along(method)
        mean = sum(values) / len(values)
        width = 2.4 if method == "acclimate" else 1.4
        axes.plot(
            range(len(values)), values, "o-", ms=3.5, lw=width, color=colour,
            label=f"{words}: {mean:.1f}",
        )  # fmt: skip
    labels = [name.replace("_", " ") for name in PUBLISHED]
    axes.set_xticks(range(len(labels)), labels, rotation=40, ha="right", fontsize=8)
    axes.set_ylabel("accuracy, %")
    axes.set_ylim(0, 100)
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(
        ncols=2,
        fontsize=8,
        frameon=False,
        loc="upper left",
        title="one stream without a reset, and its mean",
    )
    figure.tight_layout()
    figure.savefig(path)


if __name__ == "__main__":
    draw(OUT)
