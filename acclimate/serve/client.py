"""A client of the service, blocking or asynchronous, that tries again where that helps."""

import asyncio
import io
import random
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
from torch import Tensor

from acclimate.errors import InputError
from acclimate.serve.refused import STATUS, RefusedError

if TYPE_CHECKING:
    import httpx

Images = Tensor | np.ndarray | str | Path | bytes | Sequence[str | Path | bytes]
"""Images of the size that they have: ``[n, channels, height, width]`` or one without n, uint8 or
floats in 0..1; or image files, as paths or contents."""
_BUSY = (429, 503)
_FIRST, _LONGEST = 0.2, 10.0  # seconds before the second try, and before any other


class _Calls:
    """What both clients ask. Each method returns what `_ask` does."""

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        token: str | None = None,
        *,
        retries: int = 5,
        timeout: float = 60.0,
        verify: Any = True,
    ):
        if retries < 0:
            raise InputError(f"retries is {retries}: give at least 0.")
        try:
            import httpx
        except ImportError as error:
            raise InputError("the client needs httpx: pip install 'acclimate[client]'.") from error
        self._url, self._retries = url.rstrip("/"), retries
        # What may be tried again: nothing was answered, and waiting longer was not the matter.
        self._gone = (httpx.NetworkError, httpx.RemoteProtocolError, httpx.ConnectTimeout)
        self._options: dict[str, Any] = {
            "base_url": f"{self._url}/v1/",
            "headers": {"Authorization": f"Bearer {token}"} if token else {},
            "timeout": timeout,
            "verify": verify,
        }

    def _ask(self, method: str, path: str, **sent: Any) -> Any:
        raise NotImplementedError

    def predict(self, stream: str, images: Images, *, top: int = 5) -> Any:
        """Adapt to images of a stream, and answer for them.

        Args:
            stream: Name of the stream, which begins with its first images.
            images: One or many.
            top: Number of classes whose probabilities are named for each image.

        Returns:
            The service's answer, see ``/docs``: ``answers`` has a class for each image.
        """
        params = {"top": top}
        return self._ask("POST", f"{_path(stream)}/predict", params=params, **body_of(images))

    def status(self, stream: str) -> Any:
        """What is known of a stream, and its last batches."""
        return self._ask("GET", _path(stream))

    def streams(self, limit: int = 200, after: str | None = None) -> Any:
        """The streams, the most recently used first; ``next`` is the ``after`` of the next page."""
        params = {"limit": limit} | ({"after": after} if after else {})
        return self._ask("GET", "streams", params=params)

    def stats(self) -> Any:
        """What the service serves, how much it holds, and its limits."""
        return self._ask("GET", "stats")

    def reset(self, stream: str) -> Any:
        """Forget what a stream has learned; its mode stays."""
        return self._ask("POST", f"{_path(stream)}/reset")

    def mode(self, stream: str, mode: str) -> Any:
        """Set the mode of a stream's guard: ``bounded``, ``shadow`` or ``off``."""
        return self._ask("PUT", f"{_path(stream)}/mode", json={"mode": mode})

    def forget(self, stream: str) -> Any:
        """Forget a stream, in memory and on disk."""
        return self._ask("DELETE", _path(stream))

    def snapshot(self, stream: str) -> Any:
        """The state of a stream, as bytes for `restore`."""
        return self._ask("GET", f"{_path(stream)}/snapshot")

    def restore(self, stream: str, snapshot: bytes) -> Any:
        """Go on from a snapshot, also of another stream."""
        kind = {"Content-Type": "application/octet-stream"}
        return self._ask("POST", f"{_path(stream)}/restore", content=snapshot, headers=kind)

    def _pause(self, tries: int, answer: "httpx.Response | httpx.TransportError") -> float | None:
        """Seconds until the next try; None where another would not help, or was one too many."""
        if tries > self._retries:
            return None
        if isinstance(answer, Exception):
            return _backoff(tries) if isinstance(answer, self._gone) else None
        if answer.status_code not in _BUSY:
            return None
        after = answer.headers.get("retry-after", "")
        return min(float(after), _LONGEST) if after.isdecimal() else _backoff(tries)

    def _found(self, answer: "httpx.Response | httpx.TransportError") -> Any:
        """The content of an answer.

        Raises:
            RefusedError: it is an error, or there was none.
        """
        if isinstance(answer, Exception):
            reason = str(answer) or type(answer).__name__
            raise RefusedError("failed", f"no answer from {self._url}: {reason}.") from answer
        kind = answer.headers.get("content-type", "").partition(";")[0]
        if answer.is_success:
            json = kind == "application/json" and answer.content
            return answer.json() if json else answer.content or None
        try:
            found = answer.json() if kind == "application/json" else {}
        except ValueError:
            found = {}
        found = found if isinstance(found, dict) else {}
        name = found.get("type")
        sentence = found.get("sentence", f"{self._url} answered with {answer.status_code}.")
        raise RefusedError(name if name in STATUS else "failed", sentence)


class Client(_Calls):
    """A client of ``acclimate serve`` that waits for each answer.

    ```python
    with Client("http://127.0.0.1:8000") as client:
        answer = client.predict("north", images)
        print([each["class"] for each in answer["answers"]], answer["verdict"])
    ```

    Where the service is busy, a request is sent again after the time that it asks for; where it
    is gone, after growing pauses. If a connection breaks after a request was sent, its images may
    be adapted to twice. Threads may share a client.

    Args:
        url: The service's address.
        token: The token, where one is needed.
        retries: How often a request is sent again.
        timeout: Seconds to wait for an answer.
        verify: Certificates, as `httpx.Client` takes them.

    Raises:
        InputError: httpx is not installed.
        RefusedError: from all methods: the service refuses, or does not answer.
    """

    def __init__(
        self, url: str = "http://127.0.0.1:8000", token: str | None = None, **options: Any
    ):
        super().__init__(url, token, **options)
        import httpx

        self._error, self._client = httpx.TransportError, httpx.Client(**self._options)

    def _ask(self, method: str, path: str, **sent: Any) -> Any:
        tries = 0
        while True:
            tries += 1
            try:
                answer = self._client.request(method, path, **sent)
            except self._error as error:
                answer = error
            pause = self._pause(tries, answer)
            if pause is None:
                return self._found(answer)
            time.sleep(pause)

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class AsyncClient(_Calls):
    """`Client`, with methods to be awaited.

    ```python
    async with AsyncClient("http://127.0.0.1:8000") as client:
        answers = await asyncio.gather(
            client.predict("north", images), client.predict("south", others)
        )
    ```
    """

    def __init__(
        self, url: str = "http://127.0.0.1:8000", token: str | None = None, **options: Any
    ):
        super().__init__(url, token, **options)
        import httpx

        self._error, self._client = httpx.TransportError, httpx.AsyncClient(**self._options)

    async def _ask(self, method: str, path: str, **sent: Any) -> Any:
        tries = 0
        while True:
            tries += 1
            try:
                answer = await self._client.request(method, path, **sent)
            except self._error as error:
                answer = error
            pause = self._pause(tries, answer)
            if pause is None:
                return self._found(answer)
            await asyncio.sleep(pause)

    async def close(self) -> None:
        """Close its connections."""
        await self._client.aclose()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()


def body_of(images: Images) -> Mapping[str, Any]:
    """The body of a request with images, as httpx takes it.

    Raises:
        InputError: a file cannot be read, or there is none.
    """
    if isinstance(images, Tensor):
        images = images.detach().cpu().numpy()
    if isinstance(images, np.ndarray):
        content = io.BytesIO()
        np.save(content, images, allow_pickle=False)
        return {"content": content.getvalue(), "headers": {"Content-Type": "application/x-npy"}}
    files = [images] if isinstance(images, str | Path | bytes) else list(images)
    return {"files": [("image", (f"{n}", each)) for n, each in enumerate(_contents(files))]}


def _contents(files: Iterable[str | Path | bytes]) -> list[bytes]:
    found = []
    for each in files:
        try:
            found.append(each if isinstance(each, bytes) else Path(each).read_bytes())
        except OSError as error:
            raise InputError(f"cannot read {each}: {error.strerror}.") from error
    if not found:
        raise InputError("there are no images; give at least one.")
    return found


def _path(stream: str) -> str:
    return f"streams/{quote(stream, safe='')}"


def _backoff(tries: int) -> float:
    """Growing pauses, of which no two clients have the same."""
    return min(_FIRST * 2 ** (tries - 1), _LONGEST) * random.uniform(0.5, 1)
