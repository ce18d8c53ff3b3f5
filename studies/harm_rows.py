"""What the harm suite reports: accuracies beside the frozen classifier's, gains kept, changes."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean, median
from typing import Any

import numpy as np
from harm_answers import Answers
from harm_streams import WITHIN, Harm

from acclimate.report.intervals import paired_interval

LIMIT = -0.5
"""A guarded adapter must not be more than half a point below the frozen classifier."""


def compared(
    found: Mapping[str, Mapping[str, Answers]], methods: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Accuracies in percent of each stream and method that is complete, and paired differences.

    Args:
        found: Answers by stream and by method; ``source`` is the frozen classifier, and those of a
            guard begin with ``guarded``.
        methods: Methods without a guard.
    """
    for stream, by in found.items():
        for method in methods:
            if {"source", method, f"guarded {method}"} <= by.keys():
                yield {"stream": stream, "method": method} | _row(
                    by["source"], by[method], by[f"guarded {method}"]
                )


def _row(frozen: Answers, plain: Answers, guarded: Answers) -> dict[str, Any]:
    scored = np.array(frozen.right) >= 0
    numbers = np.array(frozen.numbers)[scored]
    base, free, safe = (np.array(each.right)[scored] == 1 for each in (frozen, plain, guarded))
    row: dict[str, float] = {"frozen": base.mean(), "unguarded": free.mean()}
    row["guarded"] = safe.mean()
    for name, mine in (("unguarded", free), ("guarded", safe)):
        limits = paired_interval(mine, base, groups=numbers)
        row |= zip((f"{name}_gain", f"{name}_low", f"{name}_high"), limits)
    images = {"images": len(frozen.right), "scored": int(scored.sum())}
    given = {
        "adapted": round(100 * guarded.adapted / len(guarded.right), 1),
        "rolled_back": guarded.rolled_back,
    }
    return images | {name: round(100 * float(v), 2) for name, v in row.items()} | given


def totals(rows: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Sum up each method: the lowest gain, how many streams are below the limit, and the gain kept.

    Adapting is good on a stream where the interval of the unguarded gain is above 0. The share kept
    is the mean guarded gain of these over the mean unguarded one.

    Args:
        rows: From `compared`.
    """
    by_method: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        by_method[row["method"]].append(row)
    for method, mine in by_method.items():
        total: dict[str, Any] = {"method": method, "streams": len(mine)}
        for name in ("unguarded", "guarded"):
            worst = min(mine, key=lambda row: row[f"{name}_gain"])
            below = [row for row in mine if row[f"{name}_gain"] < LIMIT]
            total |= {f"{name}_{each}": worst[f"{name}_{each}"] for each in ("gain", "low", "high")}
            total[f"{name}_worst"] = worst["stream"]
            total[f"{name}_below"] = len(below)
            total[f"{name}_surely"] = sum(row[f"{name}_high"] < LIMIT for row in below)
        good = [row for row in mine if row["unguarded_low"] > 0]
        total |= {"good": len(good), "kept": "", "least_kept": "", "least_kept_on": ""}
        if good:
            least = min(good, key=_kept)
            gains = (
                fmean(row[f"{name}_gain"] for row in good) for name in ("guarded", "unguarded")
            )
            guarded, free = gains
            total |= {"kept": round(100 * guarded / free, 1), "least_kept": round(_kept(least), 1)}
            total["least_kept_on"] = least["stream"]
        yield total


def _kept(row: Mapping[str, Any]) -> float:
    return 100 * row["guarded_gain"] / row["unguarded_gain"]


def changes(
    found: Mapping[str, Mapping[str, Answers]], streams: Mapping[str, Harm]
) -> Iterator[dict[str, Any]]:
    """Changes of each stream, and which were found within `WITHIN` images.

    They are found by images and frozen answers, so any guarded method tells them. A change that is
    found at another place, or once more, is a false alarm; in a stream that is judged by nothing,
    it is neither.
    """
    for name, by in found.items():
        guarded = next((each for key, each in by.items() if key.startswith("guarded")), None)
        if guarded is None:
            continue
        count = len(guarded.right)
        judged = streams[name].judged_by(count)
        switches = streams[name].switches(count) if judged == "switches" else []
        late = [
            next((at - switch for at in guarded.changes if 0 < at - switch <= WITHIN), None)
            for switch in switches
        ]
        hits = [each for each in late if each is not None]
        yield {
            "stream": name,
            "judged_by": judged,
            "images": count,
            "switches": len(switches),
            "found": len(hits),
            "median_images": median(hits) if hits else "",
            "told": len(guarded.changes),
            "false": len(guarded.changes) - len(hits) if judged != "nothing" else "",
        }
