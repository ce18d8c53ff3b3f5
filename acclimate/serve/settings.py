"""Limits and times of the service."""

from dataclasses import dataclass, fields

from acclimate.errors import InputError


@dataclass(frozen=True)
class ServeSettings:
    """Limits and times of the service. Nothing that a client sends makes it hold more than these.

    ```python
    ServeSettings(batch=32, wait_ms=10)
    ```

    Raises:
        InputError: a number below its least.
    """

    batch: int = 128
    """Most images of a stream that are adapted to together."""
    wait_ms: float = 5.0
    """How long a request waits for others of its stream, to be adapted to together; 0: not."""
    in_memory: int = 200
    """Streams whose states are in memory; those of the least recently used are on disk."""
    streams: int = 10_000
    """Streams that are known at a time."""
    idle_s: float = 86_400.0
    """Seconds without an image after which a stream is forgotten."""
    save_s: float = 10.0
    """Seconds after which a state that has changed is saved."""
    save_images: int = 2048
    """Images of a stream after which its state is saved before that."""
    request_bytes: int = 32 * 2**20
    """Largest body of a request. A body of JSON may have a quarter of it."""
    request_images: int = 512
    """Most images of a request."""
    image_pixels: int = 24_000_000
    """Most pixels of an image file, counted before it is decoded; those of a request together may
    have four times as many."""
    queue_images: int = 4096
    """Images that wait, of all streams; more are refused with 503."""
    stream_images: int = 1024
    """Images that wait, of one stream; more are refused with 429."""
    body_bytes: int = 256 * 2**20
    """Bytes of all bodies that are being read or answered; more are refused with 503."""
    connections: int = 512
    """Requests at a time; more are refused with 503."""
    timeout_s: float = 30.0
    """Seconds that a request may wait until it is begun; then it is refused with 503."""
    upload_s: float = 20.0
    """Seconds in which a request's headers, and then its body, must arrive."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value, least = getattr(self, field.name), 0 if field.name == "wait_ms" else 1
            if field.name.endswith("_s"):
                least = 0.05
            if not value >= least:
                raise InputError(
                    f"the service's {field.name} must be at least {least}, not {value}."
                )
        if self.stream_images < self.request_images:
            raise InputError(
                f"stream_images, {self.stream_images}, is less than request_images, "
                f"{self.request_images}: a request could never be taken; raise it."
            )
        if self.queue_images < self.stream_images:
            raise InputError(
                f"queue_images, {self.queue_images}, is less than stream_images, "
                f"{self.stream_images}; raise it."
            )
