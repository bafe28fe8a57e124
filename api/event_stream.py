"""Responses of server-sent events (HTML Living Standard, section 9.2).

`sse-starlette` cancels the generator when the client disconnects or the server ends, possibly in the middle of a
transaction. Here nothing is cancelled: the source learns that its client has left, and ends by itself.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Annotated, Any, Protocol, TypeVar

from fastapi import Header
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.callers import Caller
from api.dependencies import Services
from everhook.storage.engine import Session
from everhook.storage.tenant_scope import TenantScope

KEEP_ALIVE = b": keep-alive\n\n"
"""A comment. Sources that write nothing for a while send it, so that proxies keep the connection open and a dead client
is noticed."""

HEADERS = {"x-accel-buffering": "no"}
"""Proxies must not buffer. `Cache-Control: no-store` is set for the whole API."""

LastEventId = Annotated[
    str | None,
    Header(alias="Last-Event-ID", max_length=200, description="The id of the last event of the stream before."),
]

Item_co = TypeVar("Item_co", covariant=True)
Item = TypeVar("Item")

_LINE_END = re.compile(rb"\r\n|\r|\n")


def permission(
    services: Services, caller: Caller, store: TenantScope, is_there: Callable[[Session], Awaitable[bool]]
) -> Callable[[], Awaitable[bool]]:
    """What a stream asks from time to time: whether its caller's key is still valid, and what it follows still there
    for this caller."""

    async def may_continue() -> bool:
        if caller.key_gid is not None and await services.api_keys.holder_of(caller.key_gid) is None:
            return False
        async with store.reading() as session:
            return await is_there(session)

    return may_continue


class EventSource(Protocol[Item_co]):
    """What generates the events of one stream."""

    def events(self) -> AsyncGenerator[Item_co]:
        """The events in their order. When the generator continues, the last one was written. It ends soon after
        `leave`."""

    def leave(self) -> None:
        """The client has left, or the response is over. Called at least once."""


def event(data: bytes, *, name: str, id: str | None = None, retry_ms: int | None = None) -> bytes:
    """One event. A client sees line ends in `data` as line feeds."""
    lines = [b"retry: %d" % retry_ms] if retry_ms is not None else []
    if id is not None:
        lines.append(b"id: " + id.encode())
    lines.append(b"event: " + name.encode())
    lines += [b"data: " + line for line in _LINE_END.split(data)]
    return b"\n".join(lines) + b"\n\n"


class EventStream(Response):
    """A response that lasts until its source ends or the client leaves. `render` writes an event of the source as
    bytes. `first` and `last` are written before and after all events.

    A write waits while more than the server's buffer is unsent. A client that reads nothing for 30 s is disconnected by
    the server: see `STALLED_S` in everhook/serving/limits.py.
    """

    media_type = "text/event-stream"

    def __init__(
        self, source: EventSource[Item], render: Callable[[Item], bytes], *, first: bytes = b"", last: bytes = b""
    ) -> None:
        super().__init__(headers=HEADERS)
        del self.headers["content-length"]
        self._source: EventSource[Any] = source
        self._render: Callable[[Any], bytes] = render
        self._first, self._last = first, last
        self._has_left = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        watching = asyncio.create_task(self._watch(receive))
        try:
            async with aclosing(self._source.events()) as events:
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                if self._first:
                    await send({"type": "http.response.body", "body": self._first, "more_body": True})
                async for each in events:
                    await send({"type": "http.response.body", "body": self._render(each), "more_body": True})
                    if self._has_left:  # the event may not have been written
                        return
            await send({"type": "http.response.body", "body": self._last, "more_body": False})
        finally:
            self._source.leave()
            watching.cancel()

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._has_left = True
        self._source.leave()
