"""How much of a request is read before anybody knows who sends it."""

from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY_BYTES = 256 * 1024

_PUBLISHING = ("/messages", "/messages/batch")
"""These read their bodies themselves, behind the check of the key and with limits of their own."""


class BodyLimit:
    """ASGI middleware. FastAPI reads a whole body before it asks who is calling, so the body must be bounded here."""

    def __init__(self, app: ASGIApp, limit: int = MAX_BODY_BYTES) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].endswith(_PUBLISHING):
            return await self._app(scope, receive, send)
        size = 0

        async def receive_within_limit() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self._limit:
                raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"body: takes at most {self._limit} bytes.")
            return message

        await self._app(scope, receive_within_limit, send)
