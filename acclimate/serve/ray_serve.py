"""The service on Ray Serve: replicas that are each in charge of some streams, and a gateway."""

import logging
import os
import signal
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from acclimate.errors import InputError
from acclimate.runtime.ray_connection import connected
from acclimate.serve.gateway import Answer, Gateway
from acclimate.serve.settings import ServeSettings
from acclimate.storage.atomic import write_text

APP = "acclimate"
"""Name of the application in Ray Serve."""
_REPLICAS = "replicas"


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
    cpus: float = 1.0
    """Cores of each replica."""
    gpus: float = 0.0
    """GPUs of each replica; it may be a part of one."""

    def __post_init__(self) -> None:
        if self.replicas < 1:
            raise InputError(f"replicas is {self.replicas}: give at least 1.")


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
            replica.options(name=f"replica-{n}", ray_actor_options=needs, **more).bind(what, n)
            for n in range(what.replicas)
        ]
        front = serve.deployment(Front).options(
            name="gateway", ray_actor_options={"num_cpus": 0}, **more
        )
        serve.run(front.bind(what, *shards), name=APP, route_prefix="/")
        yield [serve.get_deployment_handle(f"replica-{n}", APP) for n in range(what.replicas)]


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

        folder = what.state_dir / f"replica-{number}"
        self._engine = Engine(what.bundle, what.settings, what.wish, folder).start()
        service = Service(self._engine, Tokens(what.token_file))
        service_app = httpx.ASGITransport(create_app(service), raise_app_exceptions=False)
        self._http = httpx.AsyncClient(transport=service_app, base_url="http://replica")

    async def ask(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """The service's answer to a request."""
        sent = {"headers": headers, "content": body if body else None, "timeout": None}
        answer = await self._http.request(method, path, **sent)
        return answer.status_code, dict(answer.headers), answer.content

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
        self._gateway = Gateway(shards, Tokens(what.token_file), what.settings)

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
