"""Error pages for requests outside of the dashboard's routes, such as an unknown path, if a browser asks for HTML."""

import structlog
from fastapi import Request, Response

from api.dashboard.pages import error_page, secure_headers, viewer_of
from api.problems import Problem

NO_PAGES = ("/v1", "/assets", "/.well-known", "/livez", "/readyz", "/version", "/openapi.json")
"""Paths that are not pages of the dashboard. Their clients are programs, even from within a browser."""

log = structlog.get_logger()


async def for_browsers(request: Request, problem: Problem) -> Response | None:
    """The page for a problem. None if the response is a problem document: the client is no browser."""
    path = request.url.path
    if any(path == prefix or path.startswith(f"{prefix}/") for prefix in NO_PAGES):
        return None
    if "text/html" not in request.headers.get("accept", ""):
        return None
    await _find_viewer(request)
    response = error_page(request, problem)
    secure_headers(response, request)
    return response


async def _find_viewer(request: Request) -> None:
    """Find the viewer, so that the page has the navigation. This may fail for the same reason as the request."""
    if hasattr(request.state, "viewer"):
        return
    try:
        await viewer_of(request, request.app.state.services)
    except Exception as error:
        log.info("the viewer of an error page is unknown", error=str(error))
