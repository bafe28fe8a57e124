"""The pages of the reference: `/openapi.json`, and `/docs`, to read and try the API.

`/docs` runs Swagger UI, a third-party script, on the origin of the dashboard. So its files are served from here, and
the content policy of the page allows it to load and call nothing else.
"""

import json
from functools import cache
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.requests import Request
from starlette.routing import Route

from api.dashboard import assets
from api.openapi import document

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


def install(app: FastAPI) -> None:
    """Add them. The application is created without FastAPI's own pages, which load their scripts from a CDN."""

    @cache
    def openapi() -> dict[str, Any]:
        return document(app)

    @cache
    def written() -> bytes:
        """Once and not for each request: it takes 5 ms, and the page needs no key."""
        return json.dumps(openapi()).encode()

    async def show_document(_: Request) -> Response:
        return Response(written(), media_type="application/json", headers=HEADERS)

    app.openapi = openapi  # type: ignore[method-assign] # FastAPI's own way to extend it
    for path, show in (("/openapi.json", show_document), ("/docs", _show_page), ("/redoc", _to_page)):
        app.router.routes.append(Route(path, show, include_in_schema=False))


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
