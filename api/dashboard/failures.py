"""What fails outside of every page, such as an address that none has: a page, too, where a browser asked for one."""

import structlog
from fastapi import Request, Response

from api.dashboard.pages import error_page, secure_headers, viewer_of
from api.problems import Problem

NO_PAGES = ("/v1", "/assets", "/.well-known", "/livez", "/readyz", "/version", "/openapi.json")
"""Paths that are not pages of the dashboard. Their clients are programs, even from within a browser."""

log = structlog.get_logger()


async def for_browsers(request: Request, problem: Problem) -> Response | None:
    """None where a problem document is the response."""
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
    """A signed-in viewer keeps the navigation. What has failed once may fail here again."""
    if hasattr(request.state, "viewer"):
        return
    try:
        await viewer_of(request, request.app.state.services)
    except Exception as error:
        log.info("nobody is known to look at an error page", error=str(error))
