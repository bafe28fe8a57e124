"""Stylesheets and scripts: our own, and those of Swagger UI from the package `fastapi-offline`.

One hash over all of them is part of their address, so browsers may keep them for good, and the modules still find each
other by relative imports.
"""

import hashlib
from functools import cache
from http import HTTPStatus
from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import Response

STATIC = Path(__file__).parent / "static"
SWAGGER_UI = ("swagger-ui-bundle.js", "swagger-ui.css")
TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
FOR_GOOD = "public, max-age=31536000, immutable"

router = APIRouter(include_in_schema=False)


@cache
def _files() -> dict[str, bytes]:
    ours = {path.name: path.read_bytes() for path in sorted(STATIC.iterdir()) if path.suffix in TYPES}
    return ours | {name: (files("fastapi_offline") / "static" / name).read_bytes() for name in SWAGGER_UI}


@cache
def _version() -> str:
    digest = hashlib.sha256()
    for name, content in _files().items():
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:12]


def address(name: str) -> str:
    """Where a file is served. KeyError for one that does not exist."""
    if name not in _files():
        raise KeyError(name)
    return f"/assets/{_version()}/{name}"


@router.get("/assets/{version}/{name}")
async def asset(version: str, name: str) -> Response:
    """A page from before an upgrade asks for what it knows: it gets today's, and may not keep it."""
    content = _files().get(name)
    if content is None:
        return Response(status_code=HTTPStatus.NOT_FOUND)
    return Response(
        content,
        media_type=TYPES[Path(name).suffix],
        headers={
            "cache-control": FOR_GOOD if version == _version() else "no-cache",
            "x-content-type-options": "nosniff",
        },
    )
