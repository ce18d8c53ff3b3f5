"""The service on Ray Serve: replicas that are each in charge of some streams, and a gateway."""

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from acclimate.errors import InputError
from acclimate.runtime.ray_connection import connected
from acclimate.serve.gateway import Answer, Gateway
from acclimate.serve.settings import ServeSettings
from acclimate.serve.sites import Hosts
from acclimate.storage.atomic import write_text

_log = logging.getLogger(__name__)
APP = "acclimate"
"""Name of the application in Ray Serve."""
_REPLICAS = "replicas"
_BUNDLE = "bundle"
_LOOK_S = 1.0  # so often a replica looks which bundle the others were switched to
_AGAIN_S = 30.0  # after so long it tries again, where that one could not be loaded


@dataclass(frozen=True)
class OnRay:
    """What each replica serves, and how many there are.

    A stream belongs to one replica, by a hash of its name, so its requests stay in order. Ray
    starts a replica that has died again, on another machine where its own is gone; it goes on from
    the states in the shared folder.
    """

    bundle: Path
    """The bundle's folder, on storage that all machines share."""
    state_dir: Path
    """Folder of the states, on such storage too."""
    wish: Any
    """An `acclimate.serve.model.Wish`."""
    settings: ServeSettings = ServeSettings()
    """Limits and times, of each replica."""
    token_file: Path | None = None
    """The tokens, on such storage too."""
    replicas: int = 2
    """Number of replicas. States of another number cannot be gone on from."""
    min_replicas: int | None = None
    """Replicas that always run; None for all. A further one runs while its streams ask."""
    scale_down_s: float = 600.0
    """Seconds without a request after which such a replica stops."""
    cpus: float = 1.0
    """Cores of each replica."""
    gpus: float = 0.0
    """GPUs of each replica; it may be a part of one."""
    hosts: Hosts | None = None
    """By which names the gateway is asked; None: by any."""

    def __post_init__(self) -> None:
        if self.replicas < 1:
            raise InputError(f"replicas is {self.replicas}: give at least 1.")
        if not 1 <= self.always <= self.replicas:
            raise InputError(
                f"min_replicas is {self.always}: give 1 to {self.replicas}, which replicas is."
            )
        if not self.scale_down_s >= 0:
            raise InputError(f"scale_down_s is {self.scale_down_s:g}: give 0 or more.")

    @property
    def always(self) -> int:
        """Number of replicas that always run."""
        return self.replicas if self.min_replicas is None else self.min_replicas

    def scaling(self, number: int) -> dict[str, Any]:
        """Options for Ray Serve of the replica with this number.

        Not more than one may ever run: a stream's state is in one place.
        """
        if number < self.always:
            return {"num_replicas": 1}
        idle = {"downscale_delay_s": self.scale_down_s, "upscale_delay_s": 0.0}
        return {"autoscaling_config": {"min_replicas": 0, "max_replicas": 1, **idle}}


@contextmanager
def deployed(what: OnRay, host: str, port: int, address: str | None = None):
    """Context in which Ray Serve answers on a port of the cluster's machines.

    ```python
    with deployed(OnRay(bundle, states, Wish()), "127.0.0.1", 8000, "auto"):
        ...
    ```

    Args:
        what: To serve.
        host: Address to listen on.
        port: Port to listen on.
        address: The cluster, as for `acclimate.evaluate.ray_cluster.RayCluster`.

    Yields:
        The handles of the replicas.

    Raises:
        InputError: Ray Serve is not installed, there is no such cluster, or the folder holds the
            states of another number of replicas.
    """
    _check_states(what)
    (what.state_dir / _BUNDLE).unlink(missing_ok=True)
    with ExitStack() as stack:
        stack.enter_context(connected(address))
        try:
            from ray import serve
        except ImportError as error:
            raise InputError("Ray lacks Ray Serve: pip install 'acclimate[ray]'.") from error
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        serve.start(http_options={"host": host, "port": port})
        stack.callback(serve.shutdown)
        more = {
            "max_ongoing_requests": what.settings.queue_images,
            "graceful_shutdown_timeout_s": 60,
        }
        needs = {"num_cpus": what.cpus, "num_gpus": what.gpus}
        replica = serve.deployment(Replica)
        shards = [
            replica.options(name=_name(n), ray_actor_options=needs, **what.scaling(n), **more).bind(
                what, n
            )
            for n in range(what.replicas)
        ]
        front = serve.deployment(Front).options(
            name="gateway", ray_actor_options={"num_cpus": 0}, **more
        )
        serve.run(front.bind(what, *shards), name=APP, route_prefix="/")
        yield [serve.get_deployment_handle(_name(n), APP) for n in range(what.replicas)]


def run(what: OnRay, host: str, port: int, address: str | None, tell: Callable[[str], Any]) -> None:
    """Serve until SIGTERM or Ctrl-C; then replicas answer what is in flight and save all states."""
    ended = threading.Event()
    with deployed(what, host, port, address):
        for number in (signal.SIGTERM, signal.SIGINT):  # in place of those that Ray has just set
            signal.signal(number, lambda *_: ended.set())
        tell(f"{what.bundle.resolve().name} with {what.replicas} replicas on http://{host}:{port}")
        ended.wait()
    tell("ended; all states are saved")


class Replica:
    """One service, in charge of some streams."""

    def __init__(self, what: OnRay, number: int):
        import httpx

        from acclimate.serve.app import create_app
        from acclimate.serve.auth import Tokens
        from acclimate.serve.engine import Engine
        from acclimate.serve.service import Service

        self._what = what
        self._known, self._look_at = _bundle(what), 0.0
        self._switching = asyncio.Lock()
        self._following: asyncio.Task[None] | None = None  # held, or it might be collected
        folder = what.state_dir / _name(number)
        self._engine = Engine(self._known, what.settings, what.wish, folder).start()
        service = Service(self._engine, Tokens(what.token_file))
        service_app = httpx.ASGITransport(create_app(service), raise_app_exceptions=False)
        self._http = httpx.AsyncClient(transport=service_app, base_url="http://replica")

    async def ask(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """The service's answer to a request."""
        sent = {"headers": headers, "content": body if body else None, "timeout": None}
        if (method, path.partition("?")[0]) != ("PUT", "/v1/bundle"):
            if time.monotonic() >= self._look_at and not self._switching.locked():
                self._look_at = time.monotonic() + _LOOK_S
                self._following = asyncio.create_task(self._follow())
            answer = await self._http.request(method, path, **sent)
            return answer.status_code, dict(answer.headers), answer.content
        async with self._switching:
            answer = await self._http.request(method, path, **sent)
            if answer.status_code == 200:
                # A replica that is started later has this bundle too.
                write_text(self._what.state_dir / _BUNDLE, answer.json()["bundle"])
                self._known = _bundle(self._what)
        return answer.status_code, dict(answer.headers), answer.content

    async def _follow(self) -> None:
        """Load the bundle that the others were switched to while this replica was being started."""
        async with self._switching:
            try:
                wanted = await asyncio.to_thread(_bundle, self._what)
                if wanted not in (self._known, self._engine.path.resolve()):
                    await asyncio.to_thread(self._engine.switch, wanted)
                self._known = wanted
            except Exception as error:  # the present bundle goes on; another time it may succeed
                self._look_at = time.monotonic() + _AGAIN_S
                _log.error(f"goes on with {self._engine.path.name}: {error}")

    def process(self) -> int:
        """The process that it runs in."""
        return os.getpid()

    def __del__(self) -> None:
        # Ray Serve calls this when it ends a replica.
        if hasattr(self, "_engine"):
            self._engine.close()


class Front:
    """The gateway: sends each request to the replica that is in charge of its stream."""

    def __init__(self, what: OnRay, *replicas: Any):
        from acclimate.serve.auth import Tokens

        shards = [_asks(handle) for handle in replicas]
        awake = _running if what.always < what.replicas else None
        self._gateway = Gateway(shards, Tokens(what.token_file), what.settings, what.hosts, awake)

    async def __call__(self, request: Any) -> Any:
        """The answer to a request, as a Starlette response."""
        from starlette.responses import Response

        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        await self._gateway(request.scope, request.receive, send)
        response = Response(sent[1]["body"], sent[0]["status"])
        response.raw_headers = list(sent[0]["headers"])
        return response


def _asks(handle: Any) -> Any:
    async def ask(method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        return await handle.ask.remote(method, path, dict(headers), body)

    return ask


async def _running() -> list[int]:
    """Numbers of the replicas that run now."""
    from ray import serve

    app = (await asyncio.to_thread(serve.status)).applications[APP]
    named = [
        name
        for name, each in app.deployments.items()
        if any(state == "RUNNING" and count for state, count in each.replica_states.items())
    ]
    return sorted(int(name.partition("-")[2]) for name in named if name.startswith("replica-"))


def _name(number: int) -> str:
    return f"replica-{number}"


def _bundle(what: OnRay) -> Path:
    """The bundle that was switched to since the start, or the one from it."""
    known, bundle = what.state_dir / _BUNDLE, what.bundle.resolve()
    return bundle.parent / known.read_text("utf-8") if known.exists() else bundle


def _check_states(what: OnRay) -> None:
    """States lie in a folder for each replica: with another number, they would not be found."""
    known = what.state_dir / _REPLICAS
    if not known.exists():
        write_text(known, f"{what.replicas}\n")
        return
    before = known.read_text(encoding="utf-8", errors="replace").strip()
    if before != str(what.replicas):
        raise InputError(
            f"{what.state_dir} holds the states of {before} replicas; give --replicas {before} or "
            "another --state-dir."
        )
