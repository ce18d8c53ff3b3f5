"""The picture of docs/serve-operate.md: resident size of the service as streams come and go.

python docs/build/memory_picture.py
"""

import csv
import json
from pathlib import Path

from matplotlib import pyplot
from matplotlib.figure import Figure
from schemes import save

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results" / "benchmarks" / "serve-memory.csv"
OUT = ROOT / "docs" / "pictures" / "serve-memory.png"


def drawn(ours: str) -> Figure:
    """The picture, with the size in this colour."""
    with RESULTS.open(newline="") as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    told = json.loads(RESULTS.with_suffix(".json").read_text(encoding="utf-8"))
    minutes = [row["seconds"] / 60 for row in rows]
    figure, axes = pyplot.subplots(figsize=(6, 3.2), dpi=200)
    axes.plot(minutes, [row["resident_mib"] for row in rows], lw=2, color=ours)
    axes.set_ylabel("resident size, MiB", color=ours)
    axes.set_ylim(0, 1.25 * told["mib_most"])
    axes.set_xlabel("minutes")
    streams = axes.twinx()
    streams.plot(minutes, [row["streams"] for row in rows], lw=1.4, color="#8a8a8a")
    streams.set_ylabel("streams seen so far", color="#8a8a8a")
    streams.set_ylim(0, 1.25 * told["streams"])
    axes.grid(axis="y", alpha=0.3)
    for each in (axes, streams):
        each.spines["top"].set_visible(False)
        each.margins(x=0.01)
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    save(drawn, OUT)
