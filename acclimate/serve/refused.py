"""The exception for a request that is not answered: status, kind and one sentence."""

from acclimate.errors import InputError

STATUS = {
    "bad_request": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "wrong_method": 405,
    "too_slow": 408,
    "conflict": 409,
    "too_large": 413,
    "wrong_type": 415,
    "bad_images": 422,
    "bad_value": 422,
    "too_many": 429,
    "failed": 503,
    "overloaded": 503,
    "closing": 503,
    "too_late": 503,
}
"""Kinds of refusals, and their HTTP status."""


class RefusedError(InputError):
    """A request is not answered. The message is one sentence: what is wrong, what to do.

    ```python
    raise RefusedError("too_large", "the body has more than 32 MiB; send fewer images at a time.")
    ```

    Args:
        kind: A name of `STATUS`.
        sentence: The message.
        retry_after: Seconds after which the same request may be answered, where it may.
    """

    def __init__(self, kind: str, sentence: str, retry_after: int | None = None):
        super().__init__(sentence)
        self.kind: str = kind
        self.retry_after: int | None = retry_after

    @property
    def status(self) -> int:
        """The HTTP status."""
        return STATUS[self.kind]
