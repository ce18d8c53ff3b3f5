"""Resident size of acclimate serve while many more streams come and go than it holds in memory.

A few clients send small requests to the streams in a random order, again and again: nearly every
request takes a state from disk and sends another one there. The size of the process, as the service
tells it, is written down every few seconds. Part of it grows until every stream has been seen once,
as the names do; after that it is to stay the same.
"""

import asyncio
import io
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from serve import served

from acclimate.commands.script import finish, recorded_options, start, write_table
from acclimate.data import load
from acclimate.errors import InputError

TARGET = 0.05
"""Most that the size may change from a sixth of the time to its end, as a part of it."""
MIB = 2**20
Row = dict[str, float]
"""What the service told at a time."""


@dataclass
class Options:
    """Serve a bundle, and ask it for more streams than are in memory."""

    bundle: Path = Path("quickstart/bundle")
    """A bundle for fashion-mnist-mini."""
    method: str | None = None
    """A name that acclimate methods lists; default: the bundle's."""
    streams: int = 10_000
    """Number of streams."""
    in_memory: int = 200
    """Streams whose states may be in memory."""
    minutes: float = 30.0
    """Time in all."""
    every: float = 5.0
    """Seconds between two sizes."""
    clients: int = 2
    """Number of clients."""
    images: int = 8
    """Images of a request."""
    seed: int = 0
    """Random seed of the streams' order."""
    out: Path | None = None
    """JSON file for the result; the sizes go beside it, as CSV."""


def main(options: Options) -> None:
    """Ask, write down the sizes, and print how they went."""
    if options.minutes * 60 < 12 * options.every:
        raise InputError(f"{options.minutes:g} minutes are too short; take 12 x --every at least.")
    command = [sys.executable, "-m", "acclimate", "serve", options.bundle, "--port", "{port}"]
    command += ["--streams", options.streams, "--in-memory", options.in_memory]
    command += ["--method", options.method] if options.method else []
    # Not the service's own temporary folder: it would not always be done with removing that.
    with (
        tempfile.TemporaryDirectory() as states,
        served([*command, "--state-dir", states], ours=True) as address,
    ):
        rows, asked = asyncio.run(watch(address, options))
        about = httpx.get(f"{address}/v1/stats", timeout=60).json()
    result = summary(rows, options) | {"requests": asked} | {
        name: about[name] for name in ("method", "guarded", "state_bytes_per_stream")
    }  # fmt: skip
    for name, value in result.items():
        print(f"{name}: {value:,.2f}" if isinstance(value, float) else f"{name}: {value}")
    if options.out:
        write_table(options.out.with_suffix(".csv"), rows)
    finish({"options": recorded_options(options), **result}, options.seed, options.out)


async def watch(address: str, options: Options) -> tuple[list[Row], int]:
    """Ask for the streams until the time is over; what the service told, and requests."""
    rows: list[Row] = []
    began, asked = time.monotonic(), 0
    end = began + 60 * options.minutes
    order = orders(options)
    images = load("fashion-mnist-mini", "test").images.numpy()
    draw = np.random.default_rng(options.seed)
    async with httpx.AsyncClient(base_url=address, timeout=120) as http:

        async def client() -> None:
            nonlocal asked
            while time.monotonic() < end:
                body = io.BytesIO()
                np.save(body, images[draw.integers(len(images), size=options.images)])
                path = f"/v1/streams/camera-{next(order)}/predict?top=1"
                kind = {"content-type": "application/x-npy"}
                answer = await http.post(path, content=body.getvalue(), headers=kind)
                if answer.status_code != 200:
                    raise SystemExit(f"the service answered {answer.status_code}: {answer.text}")
                asked += 1

        async def size() -> None:
            # A connection of its own each time: the server closes one that was idle for 5 s.
            alone = {"connection": "close"}
            while (now := time.monotonic()) < end:
                told = await http.get("/v1/stats", headers=alone)
                rows.append(row(now - began, told.json()))
                await asyncio.sleep(options.every - (time.monotonic() - began) % options.every)

        await asyncio.gather(size(), *(client() for _ in range(options.clients)))
    return rows, asked


def orders(options: Options) -> Iterator[int]:
    """All streams in a random order, and again in another one, without end."""
    draw = np.random.default_rng(options.seed)
    while True:
        yield from draw.permutation(options.streams).tolist()


def row(seconds: float, told: dict[str, Any]) -> Row:
    """What is kept of a size."""
    row = {"seconds": round(seconds, 1), "resident_mib": round(told["rss_bytes"] / MIB, 2)}
    row |= {name: told[name] for name in ("streams", "in_memory")}
    return row | {"answered": told["requests"]["answered"]}


def summary(rows: list[Row], options: Options) -> dict[str, Any]:
    """The sizes in short. A slope is the least squares line's, from a sixth of the time on."""
    seconds, size = (
        np.array([each[name] for each in rows]) for name in ("seconds", "resident_mib")
    )
    late = seconds >= 10 * options.minutes
    all_seen = [each["seconds"] for each in rows if each["streams"] >= options.streams]
    result: dict[str, Any] = {
        "mib_at_a_sixth": float(size[late][:6].mean()),
        "mib_at_the_end": float(size[-6:].mean()),
        "mib_most": float(size.max()),
        "mib_per_hour": slope(seconds[late], size[late]),
        "streams": int(rows[-1]["streams"]),
        "most_in_memory": int(max(each["in_memory"] for each in rows)),
        "seconds_until_all_were_seen": all_seen[0] if all_seen else None,
    }
    if all_seen and (after := seconds >= all_seen[0]).sum() > 2:
        result["mib_per_hour_after_all_were_seen"] = slope(seconds[after], size[after])
    result["grown"] = result["mib_at_the_end"] / result["mib_at_a_sixth"] - 1
    return result | {"target": TARGET}


def slope(seconds: np.ndarray, size: np.ndarray) -> float:
    """MiB per hour."""
    return float(np.polyfit(seconds / 3600, size, 1)[0])


if __name__ == "__main__":
    start(main, Options)
