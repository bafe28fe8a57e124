"""The API's description of itself: `/openapi.json`, and `/docs`, a page to read and try it.

The page runs Swagger UI, which is other people's script on the dashboard's own origin. So it comes from here and from
nowhere else, and the page's content policy lets it load and call nothing else.
"""

import json
from functools import cache
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.requests import Request
from starlette.routing import Route

from api.dashboard import assets
from api.middleware import API

CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)

HEADERS = {
    "content-security-policy": CONTENT_POLICY,
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",
}

_PAGE = """<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <title>Everhook API</title>
  <link rel="icon" href="{icon}">
  <link rel="stylesheet" href="{style}">
  <script src="{bundle}" defer></script>
  <script src="{start}" defer></script>
</head>
<body>
  <div id="reference"></div>
</body>
</html>
"""

SCHEME = {"type": "http", "scheme": "bearer", "description": "`Authorization: Bearer <key>`"}


def install(app: FastAPI) -> None:
    """Add them. The application is made without FastAPI's own pages, which load their scripts from a CDN."""

    @cache
    def openapi() -> dict[str, Any]:
        return _document(app)

    @cache
    def written() -> bytes:
        """Once and not for each request: it takes 5 ms, and anybody may ask."""
        return json.dumps(openapi()).encode()

    async def show_document(_: Request) -> Response:
        return Response(written(), media_type="application/json", headers=HEADERS)

    app.openapi = openapi  # type: ignore[method-assign] # FastAPI's own way to extend it
    for path, show in (("/openapi.json", show_document), ("/docs", _show_page), ("/redoc", _to_page)):
        app.router.routes.append(Route(path, show, include_in_schema=False))


def _document(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    document["components"]["securitySchemes"] = {"key": SCHEME}
    for path, operations in document["paths"].items():
        if path.startswith(f"{API}/"):
            for operation in operations.values():
                operation["security"] = [{"key": []}]
    return document


async def _show_page(_: Request) -> Response:
    page = _PAGE.format(
        icon=assets.address("icon.svg"),
        style=assets.address("swagger-ui.css"),
        bundle=assets.address("swagger-ui-bundle.js"),
        start=assets.address("swagger-ui-start.js"),
    )
    return HTMLResponse(page, headers=HEADERS)


async def _to_page(_: Request) -> Response:
    return RedirectResponse("/docs", HTTPStatus.PERMANENT_REDIRECT, headers=HEADERS)
