"""A service on a port of this process, for tests that ask it over HTTP."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from acclimate.serve.app import create_app
from acclimate.serve.auth import Tokens
from acclimate.serve.engine import Engine
from acclimate.serve.model import Wish
from acclimate.serve.observed import observe
from acclimate.serve.run import listen
from acclimate.serve.service import Service
from acclimate.serve.settings import ServeSettings


@contextmanager
def served_here(
    bundle: Path, settings: ServeSettings | None = None, tokens: Path | None = None
) -> Iterator[tuple[str, Service]]:
    """Serve a bundle from a thread; the address and the service."""
    service = Service(Engine(bundle, settings, Wish(device="cpu")), Tokens(tokens))
    listener = listen("127.0.0.1", 0)
    app = create_app(service)
    observe(app)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, ws="none"))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    while not service.engine.ready:
        assert thread.is_alive(), "the server has ended"
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", service
    finally:
        server.should_exit = True
        thread.join()
