"""The service's own interface, under ``/v1``."""

import asyncio
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse

from acclimate.serve.bodies import images_of
from acclimate.serve.refused import RefusedError
from acclimate.serve.service import of_file, to_file
from acclimate.serve.shapes import (
    ERRORS,
    IMAGES,
    STATE,
    BundleBody,
    ModeBody,
    Name,
    named,
    service_of,
)
from acclimate.serve.streams import Streams

router: APIRouter = APIRouter(prefix="/v1", responses=ERRORS)
_INFO = dict[str, Any]


@router.post("/streams/{stream}/predict", openapi_extra=IMAGES, tags=["streams"])
async def predict(
    request: Request, stream: Name, top: Annotated[int, Query(ge=0, le=10_000)] = 5
) -> Response:
    """Adapt to one image or more of a stream, and answer for them.

    The stream begins with its first images. For each image there are the class that is given, both
    models' classes, and the probabilities of the most probable classes; for the stream there are
    the guard's verdict and its estimate of both accuracies.
    """
    service = service_of(request)
    name, body = named(request, stream), await request.body()
    kind = request.headers.get("content-type", "")
    engine = service.engine
    images = await service.work(images_of, body, kind, engine.model.shape, engine.settings)
    reply = await service.predict(name, images)
    return JSONResponse(reply.record(top))


@router.get("/streams", tags=["streams"])
async def streams(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
    after: Annotated[str | None, Query(max_length=200)] = None,
) -> _INFO:
    """The streams, the most recently used first; `next` is the `after` of the next page."""
    return service_of(request).listing(request.state.access, limit, after)


@router.get("/streams/{stream}", tags=["streams"])
async def stream_info(request: Request, stream: Name) -> _INFO:
    """What is known of a stream, and its last batches."""
    service = service_of(request)
    found = service.engine.known(named(request, stream))
    return service.record(found) | {"history": list(found.history)}


@router.delete("/streams/{stream}", status_code=204, tags=["streams"])
async def delete(request: Request, stream: Name) -> None:
    """Forget a stream, in memory and on disk."""
    await service_of(request).ask(named(request, stream), Streams.forget)


@router.post("/streams/{stream}/reset", tags=["streams"])
async def reset(request: Request, stream: Name) -> _INFO:
    """Forget what a stream has learned and seen; its mode stays."""
    service = service_of(request)
    begin = partial(Streams.begin_anew, note="began anew by request")
    return service.record(await service.ask(named(request, stream), begin))


@router.put("/streams/{stream}/mode", tags=["streams"])
async def mode(request: Request, stream: Name, body: ModeBody) -> _INFO:
    """Set the mode of a stream's guard; a stream that is not known begins with it."""
    service = service_of(request)
    name = named(request, stream)
    if body.mode not in service.engine.model.modes:
        sentence = (
            "the bundle has no calibration of a guard, which this mode needs; choose "
            f"{' or '.join(service.engine.model.modes)}, or add it with acclimate.guard."
        )
        raise RefusedError("conflict", sentence)
    change = partial(Streams.set_mode, mode=body.mode)
    return service.record(await service.ask(name, change, begins=True))


@router.get(
    "/streams/{stream}/snapshot",
    tags=["streams"],
    response_class=Response,
    responses={200: {"content": {"application/octet-stream": {}}}},
)
async def snapshot(request: Request, stream: Name) -> Response:
    """The state of a stream as a sealed file, for `restore`."""
    service = service_of(request)
    saved = await service.ask(named(request, stream), Streams.copy_of)
    content = await service.work(to_file, saved)
    return Response(content, media_type="application/octet-stream")


@router.post("/streams/{stream}/restore", openapi_extra=STATE, tags=["streams"])
async def restore(request: Request, stream: Name) -> _INFO:
    """Go on from a snapshot, also of another stream; a stream that is not known begins with it."""
    service = service_of(request)
    name = named(request, stream)
    tensors, belongs, counts = await service.work(of_file, await request.body())
    state = service.engine.model.own(tensors, belongs)
    back = partial(Streams.restore, state=state, record=counts)
    return service.record(await service.ask(name, back, begins=True))


@router.get("/stats", tags=["service"])
async def stats(request: Request) -> _INFO:
    """What the service serves, how much it holds, and its limits."""
    return service_of(request).stats()


@router.get("/bundle", tags=["service"])
async def bundle(request: Request) -> _INFO:
    """The bundle that answers."""
    return service_of(request).bundle()


@router.put("/bundle", tags=["service"])
async def switch(request: Request, body: BundleBody | None = None) -> _INFO:
    """Load a bundle beside the present one, and answer with it from then on.

    Streams begin anew, unless their states fit the new bundle too.
    """
    request.state.access.check_service()
    service = service_of(request)
    name = body.bundle if body else None
    await asyncio.to_thread(service.switch, name)
    return service.bundle()
