"""A small service, its refusals, and a server in a process of its own."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

from acclimate.serve.app import create_app
from acclimate.serve.auth import Tokens
from acclimate.serve.engine import Engine
from acclimate.serve.model import Wish
from acclimate.serve.observed import observe
from acclimate.serve.run import listen, server_of
from acclimate.serve.service import Service
from acclimate.serve.settings import ServeSettings

SETTINGS = ServeSettings(batch=8, wait_ms=2, in_memory=4, request_images=32)
NPY = {"content-type": "application/x-npy"}


def refused(response, status, told):
    """The response is a refusal in JSON, with one sentence that says why."""
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) >= {"type", "sentence"} and told in body["sentence"], body
    assert body["sentence"].endswith(".") and "Traceback" not in response.text
    return response


@contextmanager
def served_here(bundle, settings=None, tokens=None):
    """A bundle in a thread's server; its address and the service."""
    engine = Engine(bundle, settings, Wish(device="cpu"))
    with Served(engine, tokens=tokens) as server:
        yield server.address, server.service


class Served:
    """A server in a thread, with a socket and uvicorn as the command has them.

    ```python
    with Served(engine) as server:
        httpx.get(f"{server.address}/v1/streams")
    ```

    Args:
        engine: Not yet started.
        tls: Certificate and key.
        tokens: File of tokens.
    """

    def __init__(self, engine, tls=None, tokens=None):
        self.service = Service(engine, Tokens(tokens))
        app = create_app(self.service)
        observe(app)
        self.server, listener = server_of(app, engine.settings, tls), listen("127.0.0.1", 0)
        self.port = listener.getsockname()[1]
        self.address = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self.server.run, args=([listener],), daemon=True)
        self._thread.start()
        end = time.monotonic() + 60
        while not engine.ready:
            assert time.monotonic() < end
            time.sleep(0.01)

    def end(self):
        """What SIGTERM does."""
        self.server.should_exit = True
        self._thread.join(60)
        assert not self._thread.is_alive()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()


class Server:
    """``acclimate serve`` in a process of its own, on a free port.

    Args:
        bundle: Folder of the bundle.
        options: Further arguments.

    Attributes:
        address: Such as ``http://127.0.0.1:41235``.
        lines: What it has printed.
    """

    def __init__(self, bundle, *options):
        command = [sys.executable, "-m", "acclimate", "serve", str(bundle), "--port", "0"]
        self.process = subprocess.Popen(
            [*command, "--device", "cpu", *map(str, options)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"},
        )
        self.lines, self._found = [], threading.Event()
        self.address = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not self._found.wait(300):  # on a machine that has other work, too
            self.process.send_signal(signal.SIGABRT)  # it then says where it is
            self._reader.join(20)
        assert self.address, "".join(self.lines)

    @property
    def port(self):
        """Number of its port."""
        return int(self.address.rpartition(":")[2])

    def _read(self):
        for line in self.process.stdout:
            self.lines.append(line)
            if found := re.search(r" on (https?://[^ ]+)", line):
                self.address = found[1]
                self._found.set()
        self._found.set()

    def end(self, number=signal.SIGTERM, timeout=60):
        """Send a signal, wait for the end, and return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(timeout)
        self._reader.join(10)
        return code

    def wait_for(self, text, timeout=30):
        """Wait until a line has been printed that has the text."""
        end = time.monotonic() + timeout
        while not any(text in line for line in self.lines):
            assert time.monotonic() < end, self.lines
            time.sleep(0.02)
