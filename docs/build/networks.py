"""The kinds of tables in the docs about architectures; their rows are described in `tables`."""

from collections.abc import Sequence
from pathlib import Path

from records import Cells, Filler, bare, read

METHODS = ("source", "ptbn", "tent", "cta")
HEADS = ("linear", "1x1 convolution", "recorded")
NOT_RUN = "-"


def architectures(sources: Sequence[Path], header: Cells, rows: list[Cells]) -> list[Cells]:
    """How many were tried, were split, have each kind of head, and run each method."""
    [path] = sources

    def of(library: str) -> Cells:
        mine = [row for row in read(path) if row["name"].startswith(f"{library}:")]
        if not mine:
            raise KeyError(f"{path.name} has nothing of {library}")
        tried = [row for row in mine if not row["head"].startswith("not ")]
        heads = [sum(row["head"] == kind for row in tried) for kind in HEADS]
        exact = sum(row["difference"] == "0" for row in tried)
        runs = [sum(row[method] == "works" for row in tried) for method in METHODS]
        return [str(n) for n in (len(mine), len(tried), sum(heads), *heads, exact, *runs)]

    return [row[:1] + of(*bare(row[:1])) for row in rows]


def refusals(sources: Sequence[Path], header: Cells, rows: list[Cells]) -> list[Cells]:
    """How many were not split or adapted for a reason, and the first of them."""
    [path] = sources
    places = ("head", *METHODS)
    left = {
        (row["name"], place): row[place]
        for row in read(path)
        for place in places
        if row[place] not in ("works", NOT_RUN, *HEADS)
    }
    filled = []
    for row in rows:
        place, reason = bare(row[:2])
        found = [key for key, text in left.items() if key[1] == place and reason in text]
        if not found:
            raise KeyError(f"{path.name} has nothing of {place}: {reason}")
        names = [f"`{name}`" for name, _ in found[:3]]
        filled.append([*row[:2], str(len(found)), ", ".join(names)])
        for key in found:
            del left[key]
    if left:
        raise KeyError(f"the table has no row for {next(iter(left.items()))}")
    return filled


def photographs(sources: Sequence[Path], header: Cells, rows: list[Cells]) -> list[Cells]:
    """Accuracy on clean and on corrupted photographs, for each size of batches in the header."""
    [path] = sources
    found = {(row["method"], row["batch"]): row for row in read(path)}
    # The frozen classifier's answers do not depend on the batch.
    frozen = {method: row for (method, _), row in found.items() if method == "source"}

    def of(method: str, batch: str) -> str:
        row = frozen.get(method) or found[method, batch]
        return f"{row['clean']} / {row['corrupted']}"

    batches = [name.split()[-1] for name in header[1:]]
    return [[row[0], *(of(*bare(row[:1]), batch) for batch in batches)] for row in rows]


KINDS: dict[str, Filler] = {
    "architectures": architectures,
    "refusals": refusals,
    "photographs": photographs,
}
