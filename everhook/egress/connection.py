"""One HTTP/1.1 connection over h11: one exchange at a time, and whether the connection can be used again after it.

httpcore's connection would be enough, but it does not show what h11 received beyond the response. Servers send such
data: a body with a 204, more body than announced, a line break after the body, a second response. If it stayed in the
buffer, it would become the beginning of the next response.
"""

import re
import ssl
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import h11
import httpcore
import httpx

from everhook.contracts import FailureCode
from everhook.egress.dial import Line, tls_detail
from everhook.egress.errors import EndpointFailure, quoted
from everhook.egress.request import Request
from everhook.egress.tls import Trust
from everhook.egress.tls_stream import TLS_RECORD

KEEP_ALIVE = timedelta(seconds=4)
"""Shorter than the 5 s after which Node and uvicorn close: it is better that this side closes, and not during a
request."""
STORED_BODY_BYTES = 16 * 1024
MAX_HEAD_BYTES = 100 * 1024
MAX_RECEIVED = 256 * 1024
"""Limit of one exchange. h11 limits one block of headers, but not the number of informational responses before it."""

_READ_BYTES = 64 * 1024
_SHOWN_BYTES = 40
_HTTP = re.compile(rb"HTTP/\d")
_PYTHON_BYTES = re.compile(r"""(bytearray\()?b(?P<quote>['"])(?P<text>(?:\\.|(?!(?P=quote)).)*)(?P=quote)(?(1)\))""")

OriginKey = tuple[str, bytes, int | None, bytes]
"""Scheme, host, port, and the TLS trust and client certificate of the connection (`Trust.key`)."""


def origin_key(url: httpx.URL, trust: Trust) -> OriginKey:
    return (url.scheme, url.raw_host, url.port, trust.key)


@dataclass
class Route:
    """The path of a request, filled in as it is sent. All fields except `redialed` and `sent` describe the last
    connection.

    `at_proxy`: the egress proxy had not accepted the connection when the request ended. `sent`: a byte of the request
    was given to a connection.
    """

    peer_address: str | None = None
    reused: bool = False
    redialed: bool = False
    at_proxy: bool = False
    sent: bool = False


@dataclass(frozen=True)
class Response:
    """A response. `body` is its first 16 KiB, never decompressed; `truncated` if there was more."""

    status: int
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes
    truncated: bool


class Connection:
    """A connection that dials at its first exchange, with `line`."""

    def __init__(self, url: httpx.URL, line: Line, trust: Trust) -> None:
        self.key = origin_key(url, trust)
        self.line = line
        self._received = 0
        self._trust = trust
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._stream: httpcore.AsyncNetworkStream | None = None
        self._beginning = b""
        self._ambiguous = False
        self._reused = False
        self._expires_at = 0.0

    async def exchange(self, request: Request, route: Route) -> Response:
        """Send a request and read its response. Raises `EndpointFailure` and `LocalError`.

        After a failure `response_began` says whether a byte of the response was received.
        """
        self._received, self._beginning = 0, b""
        with self._explained():
            if self._stream is None:
                self._stream = await self._dial(request.url)
            stream = self._stream
            await self._write(stream, request, route)
            return await self._read(stream)

    @property
    def response_began(self) -> bool:
        return bool(self._beginning)

    def is_reusable(self) -> bool:
        """Whether another request can follow. If so, the connection waits for it from now on.

        It cannot if one side ended the connection, if it is not certain where the response ended, or if anything was
        received that is not part of the response, wherever it is: in h11, the TLS layer, the stream, or the operating
        system.
        """
        done = self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE
        if not done or self._ambiguous or self._h11.trailing_data[0] or self._has_input():
            return False
        self._h11.start_next_cycle()
        self._reused = True
        self._expires_at = time.monotonic() + KEEP_ALIVE.total_seconds()
        return True

    def has_expired(self) -> bool:
        """Whether it has waited too long, or the server has closed it or sent something meanwhile."""
        return time.monotonic() > self._expires_at or self._has_input()

    async def aclose(self) -> None:
        if self._stream is not None:
            await self._stream.aclose()

    async def _dial(self, url: httpx.URL) -> httpcore.AsyncNetworkStream:
        host, secure = url.raw_host.decode("ascii"), url.scheme == "https"
        stream = await self.line.connect(host, url.port or (443 if secure else 80))
        return await self.line.secured(stream, self._trust.context, host) if secure else stream

    async def _write(self, stream: httpcore.AsyncNetworkStream, request: Request, route: Route) -> None:
        """Write the request in one piece. A failed write is not an error: a server may refuse a request before it
        has read it."""
        state = self._h11
        data = (state.send(request.head), state.send(h11.Data(request.body)), state.send(h11.EndOfMessage()))
        route.sent = True
        try:
            await stream.write(b"".join(data))
        except httpcore.WriteError:
            state.send_failed()

    async def _read(self, stream: httpcore.AsyncNetworkStream) -> Response:
        head: h11.Response | None = None
        body = bytearray()
        while True:
            event = self._h11.next_event()
            if event is h11.NEED_DATA:
                self._h11.receive_data(await self._receive(stream))
            elif isinstance(event, h11.Response):
                head = event
                self._ambiguous = _is_ambiguous(head)
            elif isinstance(event, h11.Data):
                body += event.data
            elif not isinstance(event, (h11.InformationalResponse, h11.EndOfMessage)):
                # h11 paused, or the connection ended: neither continues.
                raise EndpointFailure(FailureCode.PROTOCOL, "the response is not valid HTTP/1.1")
            if head is not None and (isinstance(event, h11.EndOfMessage) or len(body) > STORED_BODY_BYTES):
                stored = bytes(body[:STORED_BODY_BYTES])
                return Response(head.status_code, head.headers.raw_items(), stored, len(body) > STORED_BODY_BYTES)

    async def _receive(self, stream: httpcore.AsyncNetworkStream) -> bytes:
        """The next bytes of the response; empty at its end.

        On a reused connection, line breaks before the response belong to the previous one: some servers write one after
        a body.
        """
        data = await self._next_bytes(stream)
        while self._reused and not self._beginning and data and not (data := data.lstrip(b"\r\n")):
            data = await self._next_bytes(stream)
        if len(self._beginning) < _SHOWN_BYTES:
            self._beginning += data[: _SHOWN_BYTES - len(self._beginning)]
        if not data and self._h11.their_state is h11.SEND_RESPONSE:
            raise self._ended_early()
        return data

    async def _next_bytes(self, stream: httpcore.AsyncNetworkStream) -> bytes:
        data = await stream.read(_READ_BYTES)
        self._received += len(data)
        if self._received > MAX_RECEIVED:
            limit = MAX_RECEIVED // 1024
            raise EndpointFailure(FailureCode.PROTOCOL, f"more than {limit} KiB without a usable response")
        return data

    def _has_input(self) -> bool:
        return self._stream is None or bool(self._stream.get_extra_info("is_readable"))

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Convert errors of an exchange on an open connection to `EndpointFailure`."""
        try:
            yield
        except h11.RemoteProtocolError as error:
            raise EndpointFailure(FailureCode.PROTOCOL, self._not_http(error)) from error
        except ssl.SSLError as error:
            raise EndpointFailure(FailureCode.TLS, tls_detail(error)) from error
        except (httpcore.NetworkError, OSError) as error:
            raise EndpointFailure(FailureCode.RESET, "connection reset") from error

    def _ended_early(self) -> EndpointFailure:
        if self._beginning:
            return EndpointFailure(FailureCode.PROTOCOL, "connection closed in the middle of the response's headers")
        return EndpointFailure(FailureCode.RESET, "connection closed without a response")

    def _not_http(self, error: h11.RemoteProtocolError) -> str:
        """What is wrong with a response, for the operators of the server."""
        beginning = self._beginning
        if TLS_RECORD.match(beginning):
            return "the server speaks TLS on this port, not plain HTTP: use https"
        if not _HTTP.match(beginning):
            return f"the response is not HTTP: it begins with {quoted(beginning)}"
        if beginning.split(None, 2)[1:2] == [b"101"]:
            return "the response is 101 Switching Protocols, which the request did not ask for"
        if error.error_status_hint == 431:
            return f"the response has more than {MAX_HEAD_BYTES // 1024} KiB of headers"
        return f"the response is not valid HTTP/1.1: {_PYTHON_BYTES.sub(_in_quotes, str(error))[:120]}"


def _is_ambiguous(head: h11.Response) -> bool:
    """Whether it is ambiguous where a response ends, so that more of it may arrive later.

    A 204 or 304 has no body even if it announces one (RFC 9112 section 6.3), and of two framings one is wrong.
    """
    framing = [value for name, value in head.headers if name in (b"content-length", b"transfer-encoding")]
    return framing not in ([], [b"0"]) if head.status_code in (204, 304) else len(framing) > 1


def _in_quotes(python: re.Match[str]) -> str:
    """Replace Python's notation of bytes in h11's messages: `bytearray(b'...')`."""
    return '"' + python["text"] + '"'
