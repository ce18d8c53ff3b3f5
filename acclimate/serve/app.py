"""The service as a FastAPI application."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from acclimate.serve import live_page, own, v2
from acclimate.serve.docs_page import docs_page
from acclimate.serve.gate import Gate, error_body
from acclimate.serve.refused import STATUS
from acclimate.serve.service import Service
from acclimate.version import __version__


def create_app(service: Service) -> FastAPI:
    """Make the application of a service. Its engine starts and ends with it.

    ```python
    service = Service(Engine(Path("quickstart/bundle")), Tokens(None))
    uvicorn.run(create_app(service))
    ```
    """
    # It would write a line for each malformed body, as many as anybody likes.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        service.engine.start()
        yield
        service.engine.close()

    app = FastAPI(
        title="acclimate serve",
        version=__version__,
        summary="Classifiers that adapt to each stream of images apart from the others.",
        lifespan=life,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # to wherever the Host of the request says
    )
    app.state.service = service
    app.include_router(own.router)
    app.include_router(v2.router)
    app.include_router(live_page.router)
    _add_pages(app, service)
    _add_errors(app)
    engine = service.engine
    app.add_middleware(
        Gate,
        tokens=service.tokens,
        settings=engine.settings,
        metrics=engine.metrics,
        hosts=service.hosts,
    )
    return app


def _add_pages(app: FastAPI, service: Service) -> None:
    """Add what is neither of the two interfaces."""

    @app.get("/metrics", tags=["service"], response_class=Response)
    async def metrics(request: Request) -> Response:
        """What Prometheus reads."""
        request.state.access.check_service()
        return Response(service.measure(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(docs_page(app.openapi()))


def _add_errors(app: FastAPI) -> None:
    """Tell what FastAPI refuses by itself in the same form as all other errors."""
    kinds = {status: kind for kind, status in reversed(STATUS.items())} | {422: "bad_value"}

    def tell(request: Request, status: int, sentence: str, headers: Any = None) -> JSONResponse:
        kind = kinds.get(status, "bad_request")
        content = error_body(kind, sentence, request.url.path)
        return JSONResponse(content, status, headers)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        sentence = {
            404: "there is nothing here; see /docs.",
            405: "this is asked for with another method; see /docs.",
        }.get(error.status_code, f"{error.detail}.")
        return tell(request, error.status_code, sentence, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first.get("loc", ())[1:]) or "the body"
        return tell(request, 422, f"{where}: {first.get('msg', 'it is not valid')}.")

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, _: ClientDisconnect) -> JSONResponse:
        return tell(request, 400, "the connection ended within the request.")
