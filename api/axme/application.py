"""The AXME-compatible API as an application of its own, mounted under `/axme`: another header for the key, another
shape of errors, and no part of the OpenAPI document.
"""

from typing import Any

import orjson
from fastapi import APIRouter, FastAPI, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from api import problem_types, problems
from api.dependencies import authenticate_key
from api.middleware import Uncached
from api.problems import Problem

PREFIX = "/axme"
OPEN_TO_ALL = f"{PREFIX}/health"

unsupported = APIRouter()


def install(app: FastAPI, router: APIRouter) -> None:
    """Mount the API. It shares the services of `app`."""
    mounted = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    mounted.state = app.state
    problems.install(mounted, _error)
    mounted.add_middleware(Authentication)
    mounted.add_middleware(Uncached, is_api=_is_http)
    mounted.include_router(router)
    mounted.include_router(unsupported)
    app.mount(PREFIX, mounted)


class Authentication:
    """Who calls: the holder of the key in `x-api-key`, or of a bearer key. A client with an actor token sends both."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if _is_http(scope) and scope["path"] != OPEN_TO_ALL:
            request = Request(scope)
            try:
                request.state.caller = await authenticate_key(request, *_presented(request))
            except Exception as error:
                response = await _error(request, problems.from_error(request, error))
                return await response(scope, receive, send)
        await self._app(scope, receive, send)


def _is_http(scope: Scope) -> bool:
    return bool(scope["type"] == "http")


def _presented(request: Request) -> tuple[str, bool]:
    key = request.headers.get("x-api-key", "")
    if not key:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        key = token if scheme.lower() == "bearer" else ""
    return key, bool(key)


async def _error(_: Request, problem: Problem) -> Response:
    """A problem document with the member that AXME's clients read."""
    error: dict[str, Any] = {"code": problem.kind.slug, "message": problem.detail}
    body = {"ok": False, "error": error, **problem.document().model_dump()}
    return Response(_ascii(body), problem.status, dict(problem.headers or {}), "application/json")


def _ascii(body: dict[str, Any]) -> bytes:
    """A detail may repeat what was sent, and not all that Python takes for text can be written in UTF-8."""
    try:
        return orjson.dumps(body)
    except TypeError:
        detail = problem_types.INVALID_REQUEST.meaning
        return orjson.dumps({"ok": False, "error": {"code": problem_types.INVALID_REQUEST.slug, "message": detail}})


@unsupported.api_route("/{path:path}", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
async def refuse(path: str) -> None:
    """What AXME has and Everhook has not."""
    raise Problem(problem_types.NOT_FOUND, f"Everhook does not support this call of AXME: /{path[:200]}.")
