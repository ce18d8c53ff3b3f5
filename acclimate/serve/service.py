"""What the endpoints share: the engine, the tokens, and records of streams."""

import asyncio
import resource
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import anyio
from torch import Tensor

from acclimate.serve.auth import Access, Tokens
from acclimate.serve.engine import Engine
from acclimate.serve.refused import RefusedError
from acclimate.serve.reply import Reply
from acclimate.serve.sites import Hosts
from acclimate.serve.state_files import Saved, read_state
from acclimate.serve.stream import Stream
from acclimate.serve.streams import Streams
from acclimate.storage import sealed
from acclimate.version import __version__

_Made = TypeVar("_Made")
_AT_ONCE = 2  # bodies that are decoded at a time, so that their pixels fit into the memory


@dataclass
class Service:
    """An engine, and who may use it."""

    engine: Engine
    """The engine."""
    tokens: Tokens
    """Who may use it."""
    tell: Callable[[str], object] = print
    """Where its operator is told something."""
    hosts: Hosts | None = None
    """By which names it is asked; None: by any."""
    _decoding: anyio.CapacityLimiter = field(
        default_factory=lambda: anyio.CapacityLimiter(_AT_ONCE)
    )

    def introduce(self, address: str) -> None:
        """Tell the operator where the service is, what it does, and how to ask it."""
        engine, model = self.engine, self.engine.model
        self.tell(f"{model.name} with {model.adapter.name} on {address} ({address}/docs)")
        self.tell(model.note or f"with a guard, whose mode is {model.modes[0]} for new streams")
        if engine.remembered:
            self.tell(f"{engine.remembered:,} streams go on from their saved states")
        if not engine.keeps:
            self.tell("streams end with the server; --state-dir keeps them")
        token = ' -H "Authorization: Bearer $TOKEN"' if self.tokens.needed else ""
        kind = '-H "Content-Type: image/jpeg" --data-binary @photo.jpg'
        self.tell(f"curl{token} {kind} {address}/v1/streams/north/predict")

    def epilogue(self) -> str:
        """What the operator should know in the end."""
        if not self.engine.keeps:
            return ""
        trouble = self.engine.trouble
        return (
            f", but not all states were saved: {trouble}" if trouble else ", all states are saved"
        )

    async def work(self, make: Callable[..., _Made], *given: Any) -> _Made:
        """Call a function in another thread; few run at a time."""
        return await anyio.to_thread.run_sync(make, *given, limiter=self._decoding)

    async def predict(self, stream: str, images: Tensor, **flags: bool) -> Reply:
        """Adapt to images of a stream, and answer.

        Raises:
            RefusedError: see `Engine.submit`.
        """
        return await asyncio.wrap_future(self.engine.submit(stream, images, **flags))

    async def ask(
        self, stream: str, action: Callable[[Streams, str], _Made], *, begins: bool = False
    ) -> _Made:
        """Do something to a stream, in its turn.

        Raises:
            RefusedError: there is no such stream and it does not begin with this; see `Engine.ask`.
        """
        if not begins:
            self.engine.known(stream)
        return await asyncio.wrap_future(self.engine.ask(stream, action))

    def switch(self, name: str | None) -> None:
        """Load a bundle and answer with it; see `Engine.switch`.

        Args:
            name: A folder beside the present one, which is the only place that a client can name;
                None loads the present one again.

        Raises:
            InputError: there is none, or it cannot be served.
        """
        if name is None:
            self.engine.switch()
            return
        beside = self.engine.path.resolve().parent
        if name not in {each.name for each in beside.iterdir()}:
            raise RefusedError(
                "not_found", f"there is no folder {name!r} beside the present bundle's."
            )
        self.engine.switch(beside / name)

    def bundle(self) -> dict[str, Any]:
        """What is told of the bundle."""
        model = self.engine.model
        return {"bundle": model.name, "method": model.adapter.name, "since": self.engine.since}

    def record(self, stream: Stream) -> dict[str, Any]:
        """What is told of a stream."""
        now, verdict = time.time(), stream.verdict or {}
        return {
            "stream": stream.name,
            "images": stream.images,
            "batches": stream.batches,
            "changed": stream.changed,
            "age_s": round(max(now - stream.changed, 0.0), 3),
            "mode": stream.mode,
            "verdict": verdict.get("answer"),
            "learning": verdict.get("learning"),
            "reason": verdict.get("reason"),
            "share": verdict.get("share"),
            "agreement": verdict.get("agreement"),
            "estimate": stream.estimate,
            "latency_ms": None if stream.latency_ms is None else round(stream.latency_ms, 3),
            "in_memory": self.engine.streams.holds(stream),
            "saved_s": None if stream.saved is None else round(max(now - stream.saved, 0.0), 3),
            "note": stream.note,
        }

    def listing(self, access: Access, limit: int, after: str | None) -> dict[str, Any]:
        """A page of the streams that a token is for, the most recently used first."""
        streams = [s for s in self.engine.streams.all() if s.name.startswith(access.prefix)]
        names = [stream.name for stream in streams]
        first = names.index(after) + 1 if after in names else 0
        page = streams[first : first + limit]
        more = first + limit < len(streams)
        return {
            "streams": [self.record(stream) for stream in page],
            "total": len(streams),
            "next": page[-1].name if more and page else None,
        }

    def stats(self) -> dict[str, Any]:
        """What is told of the service."""
        engine, shape = self.engine, self.engine.model.shape
        model = engine.model
        return {
            "version": __version__,
            "bundle": model.name,
            "method": model.adapter.name,
            "guarded": model.guarded,
            "guard_note": model.note,
            "modes": list(model.modes),
            "classes": list(model.bundle.classes),
            "input": {"channels": shape.channels, "height": shape.height, "width": shape.width},
            "ready": engine.ready,
            "uptime_s": round(time.time() - engine.started, 3),
            "bundle_since": engine.since,
            "streams": len(engine.streams),
            "in_memory": engine.streams.in_memory,
            "queued_images": engine.queued,
            "requests": engine.metrics.tally(),
            "images": engine.metrics.answered(),
            "rss_bytes": resident_bytes(),
            "state_bytes_per_stream": model.state_bytes,
            "settings": asdict(engine.settings),
            "trouble": engine.trouble,
        }

    def measure(self) -> bytes:
        """The metrics, with those that are looked up now."""
        engine = self.engine
        values = {
            "streams": len(engine.streams),
            "streams_in_memory": engine.streams.in_memory,
            "queued_images": engine.queued,
            "resident_bytes": resident_bytes(),
            "state_bytes": engine.model.state_bytes,
            "states_unsaved": engine.unsaved,
            "states_lost": engine.lost,
            "disk_trouble": int(engine.trouble is not None),
        }
        for name, value in values.items():
            engine.metrics.gauges[name].set(value)
        engine.metrics.set_estimates([s.estimate for s in engine.streams.all()[:100]])
        return engine.metrics.text()


def resident_bytes() -> int:
    """Memory of this process."""
    with Path("/proc/self/statm").open() as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def to_file(saved: Saved) -> bytes:
    """A stream's state as the content of a sealed file."""
    return sealed.to_bytes(
        saved.state.tensors, {"belongs": saved.state.belongs, "record": saved.record}
    )


def of_file(content: bytes) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Any]]:
    """Tensors, what they belong to, and the record of a stream, of a file that `to_file` made.

    Raises:
        RefusedError: the content is damaged, or something else.
    """
    try:
        tensors, belongs, record = read_state(content, "the body")
        counts = {name: record[name] for name in ("images", "batches")}
        if not all(type(count) is int and 0 <= count < 2**53 for count in counts.values()):
            raise ValueError("no counts")
        return tensors, belongs, counts
    except (KeyError, ValueError) as error:
        sentence = "the body is no snapshot of a stream, or is damaged; send one as it was got."
        raise RefusedError("bad_value", sentence) from error
