"""Tensors of the Open Inference Protocol, in JSON and in its binary extension."""

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from acclimate.preprocessing import Preprocessing
from acclimate.serve.bodies import json_of
from acclimate.serve.images import array_of, of_array, of_files, of_json
from acclimate.serve.refused import RefusedError
from acclimate.serve.settings import ServeSettings

OUTPUTS = ("probabilities", "class", "adapted_class", "frozen_class", "label")
"""Names of the outputs."""
_NUMBERS = {"UINT8": "<u1", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8"}
_NAMES = {"float32": "FP32", "int64": "INT64", "object": "BYTES"}


@dataclass(frozen=True)
class Asked:
    """A request of ``infer``."""

    images: Tensor
    """Images of the network's input size."""
    stream: str
    """The ``sequence_id``."""
    start: bool
    """Whether the sequence begins."""
    end: bool
    """Whether it ends."""
    outputs: dict[str, bool]
    """Names of the outputs that are wanted, and whether in binary; empty for all, in JSON."""
    binary: bool
    """Whether outputs are binary that do not say it themselves."""
    id: str | None
    """The request's own name."""


def asked(
    body: bytes, header: str | None, preprocessing: Preprocessing, settings: ServeSettings
) -> Asked:
    """Read a request of ``infer``.

    ```python
    request = asked(body, "245", bundle.preprocessing, ServeSettings())
    ```

    Args:
        body: JSON, and behind it the binary tensors, if there are any.
        header: Value of ``Inference-Header-Content-Length``: how much of it is JSON.
        preprocessing: The network's.
        settings: With the limits.

    Raises:
        RefusedError: it is malformed.
    """
    length = len(body)
    if header is not None:
        digits = header.isascii() and header.isdigit() and len(header) <= 20
        if not (digits and int(header) <= length):
            raise RefusedError(
                "bad_request", "Inference-Header-Content-Length is not the header's."
            )
        length = int(header)
    if length > settings.request_bytes // 4:
        raise RefusedError("too_large", "the JSON of the request is too large; send binary data.")
    record, rest = json_of(body[:length]), memoryview(body)[length:]
    inputs = _records(record.get("inputs"), "inputs")
    if len(inputs) != 1 or inputs[0].get("name") != "images":
        raise RefusedError("bad_value", "the request must have one input, named images.")
    images = _images(inputs[0], rest, preprocessing, settings)
    parameters = _parameters(record)
    outputs = _records(record.get("outputs", []), "outputs")
    for output in outputs:
        if output.get("name") not in OUTPUTS:
            known = f"no output {output.get('name')!r}; there are {', '.join(OUTPUTS)}"
            raise RefusedError("bad_value", f"there is {known}.")
    binary = _flag(parameters, "binary_data_output")
    name = record.get("id")
    return Asked(
        images,
        _stream(parameters),
        _flag(parameters, "sequence_start"),
        _flag(parameters, "sequence_end"),
        {o["name"]: _flag(_parameters(o), "binary_data", binary) for o in outputs},
        binary,
        str(name) if name is not None else None,
    )


def told(
    record: Mapping[str, Any], arrays: Sequence[np.ndarray], request: Asked
) -> tuple[bytes, int | None]:
    """A response of ``infer``: its body, and the length of its JSON where binary tensors follow.

    Args:
        record: The response without its outputs.
        arrays: The outputs, as `OUTPUTS` names them; text as arrays of objects.
        request: With the outputs that are wanted.
    """
    outputs, blobs = [], []
    for name, array in zip(OUTPUTS, arrays, strict=True):
        if request.outputs and name not in request.outputs:
            continue
        shape = list(array.shape)
        output = {"name": name, "datatype": _NAMES[array.dtype.name], "shape": shape}
        if request.outputs.get(name, request.binary):
            blobs.append(_blob(array))
            output["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            output["data"] = array.ravel().tolist()
        outputs.append(output)
    text = json.dumps({**record, "outputs": outputs}).encode()
    return b"".join([text, *blobs]), len(text) if blobs else None


def _images(
    given: Mapping[str, Any],
    rest: memoryview,
    preprocessing: Preprocessing,
    settings: ServeSettings,
) -> Tensor:
    shape, kind, size = given.get("shape"), given.get("datatype"), _size(given)
    if not isinstance(shape, list) or not all(type(n) is int and 0 <= n < 2**31 for n in shape):
        raise RefusedError("bad_value", "the shape of images must be a list of whole numbers.")
    if not isinstance(kind, str) or kind not in ("BYTES", *_NUMBERS):
        kinds = ", ".join(_NUMBERS)
        raise RefusedError("bad_value", f"the datatype of images must be {kinds} or BYTES.")
    if size != len(rest):
        raise RefusedError("bad_value", "binary_data_size of images is not what follows the JSON.")
    if not size or "data" in given:
        return _of_data(given.get("data"), kind, shape, preprocessing, settings)
    if kind == "BYTES":
        return of_files(_texts(rest, math.prod(shape)), preprocessing, settings)
    dtype = np.dtype(_NUMBERS[kind])
    if math.prod(shape) * dtype.itemsize != size:
        raise RefusedError("bad_value", "the binary images are longer or shorter than their shape.")
    return of_array(np.frombuffer(rest, dtype).reshape(shape), preprocessing, settings)


def _of_data(
    data: Any, kind: str, shape: list[int], preprocessing: Preprocessing, settings: ServeSettings
) -> Tensor:
    """Images of JSON data, flat or nested."""
    if kind == "BYTES":
        return of_json(data, preprocessing, settings)
    try:
        array = array_of(data)
        if kind == "UINT8" and array.dtype.kind == "f":
            raise ValueError
        if kind == "UINT8" and array.size and not 0 <= array.min() <= array.max() <= 255:
            raise ValueError
        array = array.astype(_NUMBERS[kind]).reshape(shape)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        sentence = f"the data of images must be {kind} numbers, as many as the shape says."
        raise RefusedError("bad_value", sentence) from error
    return of_array(array, preprocessing, settings)


def _texts(data: memoryview, count: int) -> list[bytes]:
    """Elements of a binary tensor of BYTES: each has its length before it, in 4 bytes."""
    found, at = [], 0
    while at < len(data):
        if at + 4 > len(data) or len(found) >= count:
            break
        (length,) = struct.unpack_from("<I", data, at)
        found.append(bytes(data[at + 4 : at + 4 + length]))
        at += 4 + length
    if at != len(data) or len(found) != count:
        raise RefusedError("bad_value", "the binary images are longer or shorter than their shape.")
    return found


def _blob(array: np.ndarray) -> bytes:
    """A tensor in binary."""
    if array.dtype != object:
        return array.astype(array.dtype.newbyteorder("<")).tobytes()
    texts = [str(each).encode() for each in array.ravel()]
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def _stream(parameters: Mapping[str, Any]) -> str:
    """The stream that a request's sequence is."""
    name = parameters.get("sequence_id")
    if isinstance(name, bool) or not isinstance(name, int | str) or name in (0, ""):
        raise RefusedError(
            "bad_value",
            "the request has no sequence_id; give one, a whole number above 0 or a name, so that "
            "images are adapted to with those of their own stream.",
        )
    return str(name)


def _flag(parameters: Mapping[str, Any], name: str, usual: bool = False) -> bool:
    """A parameter that is true or false: the text "false" must not make a stream forget."""
    value = parameters.get(name, usual)
    if not isinstance(value, bool):
        raise RefusedError("bad_value", f"{name} must be true or false.")
    return value


def _size(given: Mapping[str, Any]) -> int:
    size = _parameters(given).get("binary_data_size", 0)
    return size if type(size) is int else -1


def _parameters(record: Mapping[str, Any]) -> dict[str, Any]:
    found = record.get("parameters", {})
    if not isinstance(found, dict):
        raise RefusedError("bad_value", "parameters must be a JSON object.")
    return found


def _records(value: Any, name: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise RefusedError("bad_value", f"{name} must be a list of JSON objects.")
    return value
