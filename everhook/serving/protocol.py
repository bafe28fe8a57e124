"""The HTTP/1.1 protocol of all servers: uvicorn's on httptools, with limits on the cost of a connection.

uvicorn has a timeout for idle connections but none for a request that arrives slowly or never, and no limit on headers:
one header of 300 MiB took 81 s of CPU, because httptools joins its parts at each read. Here a connection has one
deadline, which is reset as it moves from phase to phase, and the server checks all of them once a second (`sweep`): a
timer for each request would cost more than the rest of its bookkeeping.
"""

import asyncio
import json
from enum import StrEnum, auto
from http import HTTPStatus
from math import inf
from typing import Any

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from everhook.serving.limits import (
    LINGER_S,
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    MAX_PIPELINED,
    STALLED_S,
    Connections,
    Limits,
)


class Phase(StrEnum):
    """What a connection waits for. Only the wait for a response has no deadline: that is up to the application."""

    HEAD = auto()
    BODY = auto()
    RESPONSE = auto()
    IDLE = auto()
    LINGERING = auto()


class ServerConfig(uvicorn.Config):
    """uvicorn's configuration, with the limits and the connections of its server."""

    def __init__(self, app: Any, limits: Limits, **others: Any) -> None:
        # No websockets: an upgrade would hand the connection to a protocol without limits.
        super().__init__(app, http=BoundedProtocol, ws="none", **others)
        self.bounded = Connections(limits)
        self.seconds = {
            Phase.HEAD: limits.head_timeout,
            Phase.BODY: limits.body_timeout,
            Phase.RESPONSE: inf,
            Phase.IDLE: limits.keep_alive,
            Phase.LINGERING: LINGER_S,
        }


class RequestRefused(Exception):
    """Raised in the parser's callbacks to end parsing: the request is refused before any route sees it."""

    def __init__(self, status: HTTPStatus, detail: str) -> None:
        super().__init__(detail)
        self.status = status


class BoundedProtocol(HttpToolsProtocol):
    """One connection."""

    config: ServerConfig

    def __init__(
        self,
        config: ServerConfig,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._bounded = config.bounded
        self._seconds = config.seconds
        self._key: str | None = None
        self._is_admitted = False
        self._discards = False
        self._served: RequestResponseCycle | None = None
        self._unparsed = 0
        """Bytes since the last complete element; they may all be in the parser's buffer."""
        self._head_bytes = 0
        self._enter(Phase.HEAD)
        self._write_deadline = inf

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._key = self._bounded.key_of(self.client[0] if self.client else None)
        self._is_admitted = self._bounded.admit(self._key)
        if not self._is_admitted:
            self._discards = True
            transport.write(_response(HTTPStatus.SERVICE_UNAVAILABLE, "Too many connections. Try again.", retry=True))
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        served = self._served
        if served is not None and not served.response_complete:
            # uvicorn marks only the last request; this one would write to a closed transport, which is an error.
            served.disconnected = True
            served.message_event.set()
        self._bounded.is_busy(self)
        if self._is_admitted:
            self._bounded.release(self._key)

    def data_received(self, data: bytes) -> None:
        if self._discards:
            return
        if self._phase is Phase.IDLE:
            self._bounded.is_busy(self)
            self._enter(Phase.HEAD)
        self._unparsed += len(data)
        try:
            self.parser.feed_data(data)
            if self._unparsed > MAX_HEAD_BYTES:
                raise _too_large(self._phase)
        except httptools.HttpParserUpgrade:
            self._discards = True  # the request is served as if it asked for no upgrade; nothing may follow it
        except httptools.HttpParserError as error:
            refused = error.__context__
            self._refuse(
                refused
                if isinstance(refused, RequestRefused)
                else RequestRefused(HTTPStatus.BAD_REQUEST, "is not HTTP")
            )
        except RequestRefused as refused:
            self._refuse(refused)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > MAX_HEAD_BYTES or len(self.headers) >= MAX_HEADERS:
            raise _too_large(self._phase)
        if self._phase is not Phase.BODY:  # otherwise it is a trailer, which nothing reads
            name = name.lower()
            if name == b"expect" and value.lower() == b"100-continue":
                self.expect_100_continue = True
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._unparsed = 0
        if self._head_bytes + len(self.url) > MAX_HEAD_BYTES:
            raise _too_large(Phase.HEAD)
        if len(self.pipeline) >= MAX_PIPELINED:
            raise RequestRefused(HTTPStatus.TOO_MANY_REQUESTS, f"more than {MAX_PIPELINED} wait on one connection")
        is_upgrade = self.parser.should_upgrade()
        if is_upgrade and _has_body(self.headers):
            # httptools takes the rest for the other protocol, so the body would be lost.
            raise RequestRefused(
                HTTPStatus.BAD_REQUEST, "this server speaks HTTP/1.1 only, so leave out the header Upgrade"
            )
        super().on_headers_complete()
        if is_upgrade:
            self.cycle.keep_alive = False
        if not self.cycle.keep_alive:
            self.cycle.transport = _LingeringTransport(self)
        self._enter(Phase.BODY)

    def on_body(self, body: bytes) -> None:
        self._unparsed = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unparsed = 0
        super().on_message_complete()
        if self.cycle.response_complete:
            self._become_idle()
        else:
            self._enter(Phase.RESPONSE)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._served = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        """Start the next pipelined request, or wait for one. (uvicorn's method would start a timer for each wait.)"""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        elif self._discards:
            pass  # the last request; its response closes the connection
        elif self._phase is Phase.BODY:
            self._enter(Phase.LINGERING)
        else:
            self._become_idle()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_deadline = self.loop.time() + STALLED_S

    def resume_writing(self) -> None:
        super().resume_writing()
        self._write_deadline = inf

    def sweep(self, now: float) -> None:
        """Called once a second: end the connection if its deadline has passed."""
        if now >= self._write_deadline:
            self.transport.abort()
        elif self.transport.is_closing():
            # The last response may wait for a client that does not read.
            self._write_deadline = min(self._write_deadline, now + STALLED_S)
        elif now >= self._deadline:
            self._expire()

    def close(self) -> None:
        self.transport.close()

    def close_after_response(self) -> None:
        """Close without a reset while the request is still arriving."""
        if self._phase is Phase.BODY:
            self._linger()
        else:
            self.transport.close()

    def _enter(self, phase: Phase) -> None:
        self._phase = phase
        self._deadline = self.loop.time() + self._seconds[phase]

    def _become_idle(self) -> None:
        self._bounded.is_idle(self)
        self._enter(Phase.IDLE)

    def _linger(self) -> None:
        self._discards = True
        self.pipeline.clear()
        self._enter(Phase.LINGERING)
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def _expire(self) -> None:
        if self._phase is Phase.BODY and self.flow.read_paused:
            self._enter(Phase.BODY)  # the application is slow and has not read what arrived
        elif self._phase is Phase.BODY or (self._phase is Phase.HEAD and self._unparsed):
            what = "body" if self._phase is Phase.BODY else "headers"
            self._refuse(RequestRefused(HTTPStatus.REQUEST_TIMEOUT, f"its {what} took too long to arrive"))
        else:
            self.transport.close()

    def _refuse(self, refused: RequestRefused) -> None:
        """Accept no more requests, and respond instead of the application unless it has begun to."""
        self._bounded.note_refused(f"{refused.status.value} {refused.status.phrase}")
        self._discards = True
        cycle = self.cycle if self.cycle is not None and not self.cycle.response_complete else None
        if cycle is not None and self._phase is Phase.RESPONSE:
            cycle.keep_alive = False  # the fault is in a later request; earlier ones are served
            return
        if self._phase is Phase.LINGERING or (cycle is not None and (cycle.response_started or self.pipeline)):
            self.transport.close()
            return
        if cycle is not None:
            cycle.disconnected = True
            cycle.message_event.set()
        self.transport.write(_response(refused.status, f"The request was refused: {refused}."))
        self._linger()


class _LingeringTransport(asyncio.Transport):
    """The transport for the response of the last request of a connection."""

    def __init__(self, protocol: BoundedProtocol) -> None:
        super().__init__()
        self._protocol = protocol

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._protocol.transport.write(data)

    def is_closing(self) -> bool:
        return self._protocol.transport.is_closing()

    def close(self) -> None:
        self._protocol.close_after_response()


def _too_large(phase: Phase) -> RequestRefused:
    if phase is Phase.BODY:
        return RequestRefused(HTTPStatus.BAD_REQUEST, "its trailers or chunk extensions are too large")
    bounds = f"at most {MAX_HEADERS} headers of {MAX_HEAD_BYTES // 1024} KiB in all are accepted"
    return RequestRefused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, bounds)


def _has_body(headers: list[tuple[bytes, bytes]]) -> bool:
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value.strip() != b"0") for name, value in headers
    )


def _response(status: HTTPStatus, detail: str, *, retry: bool = False) -> bytes:
    """A problem document that ends the connection."""
    problem = {"type": "about:blank", "title": status.phrase, "status": status.value, "detail": detail}
    body = json.dumps({**problem, "errors": []}).encode()
    head = (
        b"content-type: application/problem+json\r\ncache-control: no-store\r\nconnection: close\r\n"
        b"content-length: %d\r\n" % len(body)
    )
    return STATUS_LINE[status] + head + (b"retry-after: 1\r\n" if retry else b"") + b"\r\n" + body
