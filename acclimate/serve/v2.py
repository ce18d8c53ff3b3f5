"""The Open Inference Protocol, version 2, which clients of Triton and KServe speak."""

from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response

from acclimate.serve.refused import RefusedError
from acclimate.serve.reply import Reply
from acclimate.serve.shapes import ERRORS, INFER, named, service_of
from acclimate.serve.tensors import OUTPUTS, Asked, asked, told
from acclimate.version import __version__

MODEL = "acclimate"
"""Name of the model, whatever bundle answers."""
router: APIRouter = APIRouter(prefix="/v2", responses=ERRORS, tags=["Open Inference Protocol"])
_HEADER = "Inference-Header-Content-Length"


@router.get("")
async def server() -> dict[str, Any]:
    """The server's name, version and extensions."""
    return {
        "name": "acclimate serve",
        "version": __version__,
        "extensions": ["binary_tensor_data", "sequence"],
    }


@router.get("/health/live")
async def live() -> dict[str, bool]:
    """Whether the server runs."""
    return {"live": True}


@router.get("/health/ready")
async def ready(request: Request) -> dict[str, bool]:
    """Whether the model answers; 503 before it has answered once, and while the server closes."""
    if not service_of(request).engine.ready:
        raise RefusedError("closing", "the model does not answer yet, or not any more.", 1)
    return {"ready": True}


@router.get("/models/{name}/ready")
async def model_ready(request: Request, name: str) -> dict[str, Any]:
    """Whether the model answers."""
    _check(name)
    return {"name": name} | await ready(request)


@router.get("/models/{name}")
async def model(request: Request, name: str) -> dict[str, Any]:
    """Inputs and outputs of the model."""
    _check(name)
    engine = service_of(request).engine
    shape, classes = engine.model.shape, len(engine.model.bundle.classes)
    size = [-1, shape.channels, shape.height, shape.width]
    return {
        "name": name,
        "versions": ["1"],
        "platform": "acclimate",
        "inputs": [{"name": "images", "datatype": "UINT8", "shape": size}],
        "outputs": [
            {"name": output, "datatype": datatype, "shape": [-1, *rest]}
            for output, datatype, rest in zip(
                OUTPUTS,
                ("FP32", "INT64", "INT64", "INT64", "BYTES"),
                ([classes], [], [], [], []),
                strict=True,
            )
        ],
        "parameters": {"labels": list(engine.model.bundle.classes)},
    }


@router.post("/models/{name}/infer", openapi_extra=INFER)
async def infer(request: Request, name: str) -> Response:
    """Adapt to images of the stream that `sequence_id` names, and answer for them.

    With `sequence_start` the stream begins anew, with `sequence_end` it is forgotten afterwards.
    `images` are UINT8 0..255 or floats 0..1, of the network's input size or any other, or BYTES:
    JPEG and PNG files.
    """
    _check(name)
    service, body = service_of(request), await request.body()
    engine = service.engine
    length = request.headers.get(_HEADER)
    wish = await service.work(asked, body, length, engine.model.shape, engine.settings)
    stream = named(request, wish.stream)
    reply = await service.predict(stream, wish.images, start=wish.start, end=wish.end)
    content, split = told(_record(name, wish, reply), _outputs(reply), wish)
    if split is None:
        return Response(content, media_type="application/json")
    return Response(content, headers={_HEADER: str(split)}, media_type="application/octet-stream")


def _check(name: str) -> None:
    if name != MODEL:
        raise RefusedError("not_found", f"there is no model {name!r}; the model is {MODEL}.")


def _record(name: str, wish: Asked, reply: Reply) -> dict[str, Any]:
    """The response without its outputs."""
    parameters: dict[str, Any] = {"sequence_id": reply.stream, "mode": reply.mode}
    if verdict := reply.answers.verdict:
        parameters |= {
            "verdict": verdict.answer,
            "reason": verdict.reason,
            "share": verdict.share,
            "estimate_frozen": verdict.estimate.frozen.value,
            "estimate_adapted": verdict.estimate.adapted.value,
        }
    own = {"id": wish.id} if wish.id is not None else {}
    return {"model_name": name, "model_version": "1", **own, "parameters": parameters}


def _outputs(reply: Reply) -> list[np.ndarray]:
    """The outputs, as `OUTPUTS` names them."""
    given = reply.given
    classes = given.argmax(1).numpy()
    return [
        given.softmax(1).numpy(),
        classes,
        reply.answers.adapted.argmax(1).numpy(),
        reply.answers.frozen.argmax(1).numpy(),
        np.array([reply.classes[index] for index in classes], dtype=object),
    ]
