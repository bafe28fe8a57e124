"""ASGI middleware of the whole application: who calls, how much of a body is read, and what may be cached.

Plain ASGI, for each is passed by every request: `Authentication` takes 7 us, which is less than it took as a
dependency, the others 1 us each.
"""

from collections.abc import Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import problem_types, problems
from api.dependencies import authenticate
from api.problems import FieldError, Problem

API = "/v1"
MAX_BODY_BYTES = 256 * 1024

Route = Callable[..., Any]
"""The function of a route."""

_UNCACHED = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"))


def _is_api(scope: Scope) -> bool:
    if scope["type"] != "http":
        return False
    path: str = scope["path"]
    return path.startswith(f"{API}/") or path == API


class Uncached:
    """Responses of the API are stored nowhere on their way: they hold secrets, and what is one tenant's alone."""

    def __init__(self, app: ASGIApp, is_api: Callable[[Scope], bool] = _is_api) -> None:
        self._app = app
        self._is_api = is_api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._is_api(scope):
            return await self._app(scope, receive, send)

        async def send_uncached(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_UNCACHED]
            await send(message)

        await self._app(scope, receive, send_uncached)


class Authentication:
    """Who calls the API: established before a route is looked for, and before any of the body is read.

    (As a dependency it would come too late: FastAPI reads the whole body before it resolves any.)
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if _is_api(scope):
            request = Request(scope)
            try:
                request.state.caller = await authenticate(request)
            except Exception as error:
                return await problems.response(request, error)(scope, receive, send)
        await self._app(scope, receive, send)


class BodyLimit:
    """Raises 413 as soon as a body is known to be too long: before the first byte where its length is declared.

    `limits` are those of single routes, in bytes. The route is known by the time that it asks for the body.
    """

    def __init__(self, app: ASGIApp, limits: Mapping[Route, int], otherwise: int = MAX_BODY_BYTES) -> None:
        self._app = app
        self._limits = limits
        self._otherwise = otherwise

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        size = limit = -1

        async def receive_within_limit() -> Message:
            nonlocal size, limit
            if limit < 0:
                limit = self._limits.get(scope.get("endpoint", self), self._otherwise)
                size = 0
                if _declared(scope) > limit:
                    raise _too_long(limit)
            message = await receive()
            size += len(message.get("body", b""))
            if size > limit:
                raise _too_long(limit)
            return message

        await self._app(scope, receive_within_limit, send)


def _declared(scope: Scope) -> int:
    """The declared length of the body. (That it is a number, the server has checked.)"""
    return next((int(value) for name, value in scope["headers"] if name == b"content-length" and value.isdigit()), 0)


def _too_long(limit: int) -> Problem:
    return Problem(
        problem_types.PAYLOAD_TOO_LARGE,
        f"body: the request has more than {limit} bytes.",
        errors=[FieldError(field="body", code="too_large", message=f"at most {limit} bytes")],
    )
