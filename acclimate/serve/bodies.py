"""Bodies of requests as images: one file, several, an array, or JSON."""

import json
from typing import Any

from torch import Tensor

from acclimate.preprocessing import Preprocessing
from acclimate.serve.images import check_count, of_array, of_files, of_json, of_npy
from acclimate.serve.refused import RefusedError
from acclimate.serve.settings import ServeSettings

FILES = ("image/jpeg", "image/png", "application/octet-stream")
"""Types of a body that is one image file."""
ARRAYS = ("application/x-npy", "application/npy")
"""Types of a body that is an .npy array."""
TYPES = (*FILES, ARRAYS[0], "multipart/form-data", "application/json")
"""Types of a body with images."""


def images_of(
    body: bytes, content_type: str, preprocessing: Preprocessing, settings: ServeSettings
) -> Tensor:
    """The images of a body, at the network's input size.

    ```python
    images_of(Path("cat.jpg").read_bytes(), "image/jpeg", bundle.preprocessing, ServeSettings())
    ```

    Raises:
        RefusedError: another type, or a body that is not what its type says.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind in FILES:
        return of_files([body], preprocessing, settings)
    if kind in ARRAYS:
        return of_array(of_npy(body), preprocessing, settings)
    if kind == "multipart/form-data":
        return of_files(parts(body, content_type, settings), preprocessing, settings)
    if kind == "application/json":
        value = json_of(body)
        if "images" not in value:
            raise RefusedError("bad_value", 'the body must be {"images": [...]}.')
        return of_json(value["images"], preprocessing, settings)
    raise RefusedError(
        "wrong_type", f"images come as {', '.join(TYPES)}, not as {kind or 'nothing'!r}."
    )


def json_of(body: bytes) -> dict[str, Any]:
    """The JSON object of a body; an empty body is an empty object.

    Raises:
        RefusedError: the body is no JSON object.
    """
    if not body:
        return {}
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RefusedError("bad_request", "the body is no JSON.") from error
    if not isinstance(value, dict):
        raise RefusedError("bad_request", "the body is no JSON object.")
    return value


def parts(body: bytes, content_type: str, settings: ServeSettings) -> list[bytes]:
    """The parts of a body of ``multipart/form-data``, each a file.

    Raises:
        RefusedError: it is malformed, or has too many parts.
    """
    from python_multipart.exceptions import FormParserError
    from python_multipart.multipart import MultipartParser, parse_options_header

    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise RefusedError("bad_request", "the multipart body has no boundary in its Content-Type.")
    found: list[bytearray] = []

    def begin() -> None:
        found.append(bytearray())
        if len(found) > settings.request_images:
            check_count(len(found), settings)

    def data(content: bytes, start: int, end: int) -> None:
        found[-1] += content[start:end]

    try:
        parser = MultipartParser(boundary, {"on_part_begin": begin, "on_part_data": data})
        parser.write(body)
        parser.finalize()
    except (FormParserError, ValueError) as error:
        if isinstance(error, RefusedError):
            raise
        raise RefusedError("bad_request", "the multipart body is malformed.") from error
    return [bytes(each) for each in found]
