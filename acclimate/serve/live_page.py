"""The live page at ``/``: files that ask nothing of any other server."""

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse

from acclimate.serve.refused import RefusedError

_FOLDER = Path(__file__).with_name("page")
_TYPES = {
    "index.html": "text/html",
    "style.css": "text/css",
    "live.js": "text/javascript",
    "draw.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
_HEADERS = {
    "cache-control": "no-cache",
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}

router: APIRouter = APIRouter(include_in_schema=False)


@router.get("/")
async def page() -> FileResponse:
    """The page; it asks the service's own interface once a second."""
    return await part("index.html")


@router.get("/page/{name}")
async def part(name: str) -> FileResponse:
    """A file of the page.

    Raises:
        RefusedError: there is no such file.
    """
    if name not in _TYPES:
        raise RefusedError("not_found", "the live page has no such file.")
    return FileResponse(_FOLDER / name, media_type=_TYPES[name], headers=_HEADERS)
