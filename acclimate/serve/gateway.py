"""One service made of several: a stream's requests go to the one that is in charge of it."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any, Protocol
from urllib.parse import parse_qs

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from acclimate.serve.auth import Tokens
from acclimate.serve.gate import Gate
from acclimate.serve.metrics import Metrics
from acclimate.serve.refused import RefusedError
from acclimate.serve.settings import ServeSettings
from acclimate.serve.sites import Hosts

Answer = tuple[int, dict[str, str], bytes]
"""Status, headers and body."""
_MOST = 1000  # streams that each service lists
_SUMS = ("streams", "in_memory", "queued_images", "images", "rss_bytes")
_KEPT = ("content-type", "retry-after", "www-authenticate", "content-security-policy",
         "cache-control", "referrer-policy", "x-content-type-options",
         "inference-header-content-length")  # fmt: skip


class Shard(Protocol):
    """Asks one of the services: method, path with its query, headers, body."""

    def __call__(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> Awaitable[Answer]:
        """Its answer; an exception if it is gone."""
        ...


def in_charge(stream: str, shards: int) -> int:
    """Number of the service that a stream belongs to, always the same for as many services.

    ```python
    in_charge("north", 4)  # 0, 1, 2 or 3
    ```
    """
    return int.from_bytes(sha256(stream.encode("utf-8", "surrogatepass")).digest()[:8]) % shards


class Gateway:
    """An ASGI application in front of several services, each in charge of some streams.

    What concerns all streams is asked of all services and put together. A service that is gone
    costs its own streams a 503 until it is back.

    Args:
        shards: Ask one service each.
        tokens: Who may come in; the services check prefixes again.
        settings: With the bounds on bodies, which hold here too.
        hosts: By which names it is asked; None: by any.
        awake: Tells the numbers of the services that run, which are asked what concerns all
            streams; None: all run.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        tokens: Tokens,
        settings: ServeSettings,
        hosts: Hosts | None = None,
        awake: Callable[[], Awaitable[Sequence[int]]] | None = None,
    ):
        self._awake = awake
        self._shards, self._timeout = shards, settings.timeout_s + settings.upload_s
        self._gate = Gate(self._forward, tokens, settings, Metrics(), hosts)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handle a connection, as ASGI says."""
        await self._gate(scope, receive, send)

    async def _forward(self, scope: Any, receive: Any, send: Any) -> None:
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        has_body = "content-length" in headers or "transfer-encoding" in headers
        body = (await receive())["body"] if has_body else b""
        # The origin was compared with the host, which is another one from here on.
        for name in ("host", "origin", "content-length", "transfer-encoding", "connection"):
            headers.pop(name, None)
        raw = scope.get("raw_path") or scope["path"].encode()
        path, query = raw.decode("latin-1").partition("?")[0], scope.get("query_string", b"")
        whole = f"{path}?{query.decode('latin-1')}" if query else path
        asked = scope["method"], scope["path"], whole
        status, found, content = await self._ask(*asked, headers, body)
        kept = [
            (n.lower().encode(), v.encode("latin-1"))
            for n, v in found.items()
            if n.lower() in _KEPT
        ]
        kept.append((b"content-length", b"%d" % len(content)))
        await send({"type": "http.response.start", "status": status, "headers": kept})
        await send({"type": "http.response.body", "body": content})

    async def _ask(
        self, method: str, path: str, whole: str, headers: Mapping[str, str], body: bytes
    ) -> Answer:
        joined: dict[tuple[str, str], Callable[[Mapping[int, Answer], str], Answer]] = {
            ("GET", "/v1/streams"): _streams,
            ("GET", "/v1/stats"): _stats,
            ("GET", "/metrics"): _metrics,
            ("PUT", "/v1/bundle"): lambda answers, _: next(iter(answers.values())),
            ("GET", "/v2/health/ready"): lambda answers, _: next(iter(answers.values())),
        }
        join = joined.get((method, path))
        if join is None:
            shard = in_charge(_stream_of(path, headers, body), len(self._shards))
            return await self._one(shard, method, whole, headers, body)
        asked = f"/v1/streams?limit={_MOST}" if path == "/v1/streams" else whole
        numbers = await self._awake() if self._awake else range(len(self._shards))
        if not numbers:
            raise RefusedError("closing", "no replica runs; ask again later.", 1)
        answers = await asyncio.gather(
            *(self._one(n, method, asked, headers, body) for n in numbers)
        )
        wrong = [answer for answer in answers if answer[0] >= 400]
        return wrong[0] if wrong else join(dict(zip(numbers, answers)), whole)

    async def _one(
        self, shard: int, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> Answer:
        """The answer of one service.

        Raises:
            RefusedError: it is gone, or does not answer in time.
        """
        try:
            async with asyncio.timeout(self._timeout):
                return await self._shards[shard](method, path, headers, body)
        except RefusedError:
            raise
        except Exception as error:  # whatever ended it, or the way to it
            sentence = "the replica of this stream is being started again; ask again later."
            raise RefusedError("overloaded", sentence, 1) from error


def _stream_of(path: str, headers: Mapping[str, str], body: bytes) -> str:
    """The stream that a request is for; empty where it is for none."""
    parts = path.split("/")  # decoded, as the services read it: %73treams is streams
    if parts[1:3] == ["v1", "streams"] and len(parts) > 3:
        return parts[3]
    if parts[-1] != "infer":
        return ""
    try:
        length = int(headers.get("inference-header-content-length", len(body)))
        return str(json.loads(body[:length])["parameters"]["sequence_id"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return ""  # any service tells what is wrong with it


def _json(value: Any) -> Answer:
    return 200, {"content-type": "application/json"}, json.dumps(value).encode()


def _streams(answers: Mapping[int, Answer], path: str) -> Answer:
    """A page of the streams of all services, the most recently used first."""
    pages = [json.loads(body) for _, _, body in answers.values()]
    streams = [each for page in pages for each in page["streams"]]
    streams.sort(key=lambda stream: -stream["changed"])
    query = parse_qs(path.partition("?")[2])
    limit = query.get("limit", ["200"])[0]
    count = min(int(limit[:9]), _MOST) if limit.isdecimal() and int(limit[:9]) else 200
    names = [each["stream"] for each in streams]
    after = query.get("after", [""])[0]
    first = names.index(after) + 1 if after in names else 0
    found = streams[first : first + count]
    more = first + count < len(streams)
    total = sum(page["total"] for page in pages)
    last = found[-1]["stream"] if found and more else None
    return _json({"streams": found, "total": total, "next": last})


def _stats(answers: Mapping[int, Answer], path: str) -> Answer:
    """What the services serve, with their sums."""
    parts = [json.loads(body) for _, _, body in answers.values()]
    found = dict(parts[0]) | {name: sum(part[name] for part in parts) for name in _SUMS}
    requests = [part["requests"] for part in parts]
    found["requests"] = {name: sum(each[name] for each in requests) for name in requests[0]}
    found["ready"] = all(part["ready"] for part in parts)
    found["trouble"] = next((part["trouble"] for part in parts if part["trouble"]), None)
    found["uptime_s"] = min(part["uptime_s"] for part in parts)
    return _json(found | {"replicas": len(parts)})


def _metrics(answers: Mapping[int, Answer], path: str) -> Answer:
    """The metrics of all services, each sample with the number of its ``replica``."""
    families: dict[str, Metric] = {}
    for number, (_, _, body) in answers.items():
        for family in text_string_to_metric_families(body.decode()):
            kept = families.setdefault(
                family.name, Metric(family.name, family.documentation, family.type)
            )
            for sample in family.samples:
                labels = dict(sample.labels) | {"replica": str(number)}
                kept.add_sample(sample.name, labels, sample.value)

    class All(Collector):
        def collect(self) -> list[Metric]:
            return list(families.values())

    registry = CollectorRegistry()
    registry.register(All())
    return 200, {"content-type": CONTENT_TYPE_LATEST}, generate_latest(registry)
