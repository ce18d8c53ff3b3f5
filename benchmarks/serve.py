"""Throughput and latency of acclimate serve, against the frozen model behind FastAPI and LitServe.

Every client sends requests of 32 images (PNG files in JSON) one after the other, each client on a
stream of its own. Servers run one at a time, all in one run of this program on the same machine.

The service's overhead is measured within its own requests: one client's mean latency, over the mean
time that the model took for those same batches, which the service counts in its metrics. The client
works on the same cores; without its part, from a request's arrival to its answer, is the service's
own time, which is given beside it. In the end more clients ask than may wait: the answers must be
200, 429 or 503, and one client must then be answered as before.
"""

import asyncio
import base64
import io
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from acclimate.commands.script import finish, recorded_options, start
from acclimate.data import load, subset
from acclimate.serve.run import listen

TARGET = 1.15
"""Most that the service may take over the model's own time, for batches of 32."""
OTHERS = Path(__file__).with_name("serve_others.py")
Load = tuple[list[float], Counter[int], float]
"""Seconds of each answered request, answers by status, and seconds in all."""


@dataclass
class Options:
    """Serve a bundle in each way, and send it images."""

    bundle: Path = Path("quickstart/bundle")
    """A bundle for fashion-mnist-mini."""
    clients: tuple[int, ...] = (1, 8, 64)
    """Numbers of clients."""
    overload: int = 200
    """Number of clients in the end, when the service may let 1024 images wait."""
    batch: int = 32
    """Images of a request."""
    seconds: float = 8.0
    """Time for each number of clients, after a warm-up of a quarter of it."""
    seed: int = 0
    """Random seed of the images' order."""
    out: Path | None = None
    """JSON file for the result."""


def main(options: Options) -> None:
    """Measure all servers, print a table."""
    body, result = body_of(options), {"servers": {}}
    python = [sys.executable]
    acclimate = [*python, "-m", "acclimate", "serve", options.bundle, "--batch", options.batch]
    bounded = ["--queue-images", 1024, "--stream-images", 512, "--request-images", 512]
    servers = {
        "frozen, FastAPI": ([*python, OTHERS, "fastapi", options.bundle, "{port}"], "/predict"),
        "frozen, LitServe": ([*python, OTHERS, "litserve", options.bundle, "{port}"], "/predict"),
        "frozen, acclimate": ([*acclimate, "--method", "source", "--port", "{port}"], None),
        "adapted, acclimate": ([*acclimate, "--port", "{port}"], None),
        "overload": ([*acclimate, *bounded, "--port", "{port}"], None),
    }
    for name, (command, path) in servers.items():
        with served(command, path is None) as address:
            if name == "overload":
                result["overload"] = overload(address, body, options)
                continue
            rows = [row(address, path, body, clients, options) for clients in options.clients]
            result["servers"][name] = dict(zip(map(str, options.clients), rows))
    own = result["servers"]["adapted, acclimate"][str(options.clients[0])]
    result |= {"overhead": own["latency_over_model"], "target": TARGET}
    print(f"latency over the model's own time: {result['overhead']:.3f}, target {TARGET}")
    print(f"the service's own time over the model's: {own['service_over_model']:.3f}")
    finish({"options": recorded_options(options), **result}, options.seed, options.out)


def row(
    address: str, path: str | None, body: bytes, clients: int, options: Options
) -> dict[str, Any]:
    """Load a server with some clients; throughput, latencies, and the model's own time."""
    asyncio.run(load_with(address, path, body, clients, options.seconds / 4))
    before = counted(address) if path is None else {}
    seconds, status, took = asyncio.run(load_with(address, path, body, clients, options.seconds))
    found: dict[str, Any] = {
        "images_per_second": len(seconds) * options.batch / took,
        "status": dict(status),
    }
    found |= {f"p{p}_ms": 1000 * float(np.percentile(seconds, p)) for p in (50, 95, 99)}
    if path is None:
        spent = {name: now - before[name] for name, now in counted(address).items()}
        model = spent["batch_seconds_sum"] / spent["batch_seconds_count"]
        service = spent["request_seconds_sum"] / spent["request_seconds_count"]
        found |= {"model_ms": 1000 * model, "service_ms": 1000 * service}
        found["service_over_model"] = service / model
        found["latency_over_model"] = float(np.mean(seconds)) / model
        found["model_busy"] = spent["batch_seconds_sum"] / took
    print(address, path or "acclimate", clients, found, flush=True)
    return found


def overload(address: str, body: bytes, options: Options) -> dict[str, Any]:
    """More clients than may wait, and one client before and after."""
    before, _, _ = asyncio.run(load_with(address, None, body, 1, options.seconds / 2))
    _, status, _ = asyncio.run(load_with(address, None, body, options.overload, options.seconds))
    after, left, _ = asyncio.run(load_with(address, None, body, 1, options.seconds / 2))
    if set(status) - {200, 429, 503} or set(left) != {200}:
        raise SystemExit(f"overload: answers {status}, afterwards {left}")
    p50 = {"before": before, "after": after}
    found = {"status": dict(status)}
    found |= {f"p50_ms_{name}": 1000 * float(np.median(each)) for name, each in p50.items()}
    print("overload", found, flush=True)
    return found


async def load_with(
    address: str, path: str | None, body: bytes, clients: int, seconds: float
) -> Load:
    """Ask with some clients for some time."""
    took: list[float] = []
    status: Counter[int] = Counter()
    limits = httpx.Limits(max_connections=None)
    headers = {"content-type": "application/json"}
    async with httpx.AsyncClient(
        base_url=address, headers=headers, timeout=120, limits=limits
    ) as http:
        began = time.perf_counter()

        async def client(number: int) -> None:
            where = path or f"/v1/streams/camera-{number}/predict"
            while (now := time.perf_counter()) < began + seconds:
                answer = await http.post(where, content=body)
                status[answer.status_code] += 1
                if answer.status_code == 200:
                    took.append(time.perf_counter() - now)
                else:
                    await asyncio.sleep(0.1)

        await asyncio.gather(*map(client, range(clients)))
        return took, status, time.perf_counter() - began


def counted(address: str) -> dict[str, float]:
    """What the service has counted so far: batches, requests for answers, and seconds of both."""
    text = httpx.get(f"{address}/metrics", timeout=60).text
    names = r"batch_seconds_(?:sum|count)|request_seconds_(?:sum|count)"
    samples = re.findall(rf'^acclimate_({names})(?:{{interface="v1"}})? (\S+)$', text, re.M)
    return {name: float(value) for name, value in samples}


def body_of(options: Options) -> bytes:
    """The body of a request: images as base64 PNG files."""
    images = subset(load("fashion-mnist-mini", "test"), options.batch).images
    texts = []
    for image in images.permute(0, 2, 3, 1).numpy():
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        texts.append(f'"{base64.b64encode(file.getvalue()).decode()}"')
    return f'{{"images": [{",".join(texts)}]}}'.encode()


@contextmanager
def served(command: list, ours: bool) -> Iterator[str]:
    """A server as a process, once it answers; its address."""
    with listen("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    words = [str(word).format(port=port) for word in command]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(words, start_new_session=True, **quiet)
    address = f"http://127.0.0.1:{port}"
    health = f"{address}/v2/health/ready" if ours else f"{address}/docs"
    try:
        for _ in range(1200):
            if process.poll() is not None:
                raise SystemExit(f"{words} ended with code {process.returncode}")
            try:
                if httpx.get(health, timeout=5).status_code == 200:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(60)
        with suppress(ProcessLookupError):  # LitServe leaves workers behind
            os.killpg(process.pid, signal.SIGKILL)


if __name__ == "__main__":
    start(main, Options)
