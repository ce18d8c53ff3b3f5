"""Bodies of the service in JSON, for FastAPI and the description at ``/docs``."""

from typing import Annotated, Any

from fastapi import Path, Request
from pydantic import BaseModel, Field

from acclimate.guard.guard import Mode
from acclimate.serve.bodies import ARRAYS, FILES
from acclimate.serve.names import LONGEST, check_name
from acclimate.serve.service import Service

Name = Annotated[
    str,
    Path(description="Name of the stream.", min_length=1, max_length=LONGEST, examples=["north"]),
]
"""Name of a stream in a path."""


class Error(BaseModel):
    """Why a request was not answered."""

    type: str
    """Kind of the error."""
    sentence: str
    """What is wrong, and what to do."""
    error: str | None = None
    """The sentence again, for clients of the Open Inference Protocol."""


class ModeBody(BaseModel):
    """A mode of a stream's guard."""

    mode: Mode
    """bounded: the guard chooses; shadow: the frozen classifier answers; off: the adapted model."""


class BundleBody(BaseModel):
    """A bundle to answer with from now on."""

    bundle: str | None = Field(default=None, min_length=1, max_length=255)
    """Name of a folder beside the present bundle's; None loads the present one again."""


ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": Error, "description": text}
    for status, text in {
        "4XX": "The request cannot be answered.",
        "503": "The server is busy or closing; Retry-After says when to ask again.",
    }.items()
}
"""Errors of all endpoints."""
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_IMAGES = {"type": "array", "minItems": 1, "items": {}}
IMAGES = {
    "requestBody": {
        "required": True,
        "content": {
            **dict.fromkeys((*FILES, ARRAYS[0]), _BINARY),
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"image": {"type": "array", "items": _BINARY["schema"]}},
                }
            },
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["images"],
                    "properties": {"images": _IMAGES},
                }
            },
        },
    }
}
"""The body of a request with images."""
STATE = {
    "requestBody": {"required": True, "content": {"application/octet-stream": _BINARY}},
}
"""The body of a request with a stream's state."""

INFER = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["inputs"],
                    "properties": {
                        "id": {"type": "string"},
                        "parameters": {"type": "object"},
                        "inputs": {"type": "array", "minItems": 1, "items": {"type": "object"}},
                        "outputs": {"type": "array", "items": {"type": "object"}},
                    },
                }
            },
            "application/octet-stream": _BINARY,
        },
    }
}
"""The body of a request of ``infer``."""


def service_of(request: Request) -> Service:
    """The service that a request is for."""
    return request.app.state.service


def named(request: Request, stream: str) -> str:
    """The name of a stream, which the request may use.

    Raises:
        RefusedError: it is no name, or the token is not for it.
    """
    request.state.access.check_stream(check_name(stream))
    return stream
