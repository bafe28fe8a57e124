"""Kept-alive connections by origin, and the httpx transport over them.

httpcore's own pool looks at every connection for every request: 43 requests a second at 1,000 kept-alive hosts. Here
each step is O(1), with public httpcore pieces only.
"""

import ssl
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import cast

import httpcore
import httpx

from everhook.contracts import FailureCode
from everhook.egress.dial import Guard, PinnedBackend, tls_detail
from everhook.egress.errors import EndpointFailure, OurFault, is_ours
from everhook.egress.proxy import ConnectBackend
from everhook.egress.tls import Trust
from everhook.eventloop import file_limit

KEEP_ALIVE = timedelta(seconds=4)
"""Below the 5 s after which Node and uvicorn hang up: better we than they, in the middle of a request."""
MAX_IDLE = 2048
"""1,000 hosts in turn must each find their connection again: at 512 every request dialled (744 µs of CPU, not 355).
One takes 14 KB, with TLS 37 KB; and at most a quarter of the file descriptors we may have are spent on them."""
MAX_IDLE_PER_ORIGIN = 8
CONNECT_LIMIT = timedelta(seconds=5)
ROUTE = "everhook.route"
TRUST = "everhook.trust"

OriginKey = tuple[bytes, bytes, int | None, bytes]
"""Scheme, host and port, and whom the connection trusts and what it presents (`Trust.key`)."""


@dataclass
class Route:
    """How a request travelled, filled in on the way. All but `redialed` is of the last connection tried.

    `at_proxy` if the egress proxy had not taken it when the request ended.
    """

    peer_address: str | None = None
    reused: bool = False
    redialed: bool = False
    at_proxy: bool = False


class Connection:
    """One httpcore connection with the backend that dials it."""

    def __init__(self, url: httpcore.URL, line: PinnedBackend, trust: Trust) -> None:
        self.key = _key(url, trust)
        self.line = line
        self.http = httpcore.AsyncHTTPConnection(
            origin=url.origin,
            ssl_context=trust.context,
            keepalive_expiry=KEEP_ALIVE.total_seconds(),
            http2=False,
            retries=0,
            network_backend=line,
        )

    async def send(self, request: httpcore.Request) -> httpcore.Response:
        self.line.begin()
        with self.explained():
            return await self.http.handle_async_request(request)

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn what httpcore raises after dialling into `EndpointFailure` or `OurFault`."""
        try:
            yield
        except Exception as error:
            meaning = self._meaning(error)
            if meaning is None:
                raise
            raise meaning from error

    def _meaning(self, error: Exception) -> EndpointFailure | OurFault | None:
        """Whose doing `error` is; None if it says so itself, or is a bug."""
        match error:
            case EndpointFailure() | OurFault():
                return None
            case httpcore.LocalProtocolError():
                return OurFault(f"a request that cannot be sent: {error}")
            case httpcore.RemoteProtocolError() if self.line.received == 0:
                return EndpointFailure(FailureCode.RESET, "connection closed without an answer")
            case httpcore.RemoteProtocolError():
                return EndpointFailure(FailureCode.PROTOCOL, f"not a valid HTTP/1.1 answer: {str(error)[:120]}")
            case ssl.SSLError():
                return EndpointFailure(FailureCode.TLS, tls_detail(error))
            case OSError() if is_ours(error):
                return OurFault(f"no socket to be had ({error.strerror})")
            case httpcore.NetworkError() | OSError():
                return EndpointFailure(FailureCode.RESET, "connection reset")
        return None

    async def aclose(self) -> None:
        await self.http.aclose()


class IdleConnections:
    """At most 8 idle connections an origin and `limit` in all; the longest idle give way.

    No task sweeps: each `put` looks at the two longest idle and closes them once expired, so that in traffic old
    sockets go as fast as new ones come, and without traffic there are no more than there were.
    """

    def __init__(self, limit: int = MAX_IDLE) -> None:
        self._limit = limit
        self._origins: dict[OriginKey, deque[Connection]] = {}
        self._oldest_first: OrderedDict[Connection, None] = OrderedDict()
        self._closed = False

    def __len__(self) -> int:
        return len(self._oldest_first)

    async def take(self, key: OriginKey) -> Connection | None:
        """The most recently used live connection to the origin."""
        while (waiting := self._origins.get(key)) is not None:
            connection = waiting[-1]
            self._remove(connection)
            if not connection.http.has_expired():
                return connection
            await connection.aclose()
        return None

    async def put(self, connection: Connection) -> None:
        if self._closed:
            await connection.aclose()
            return
        waiting = self._origins.setdefault(connection.key, deque())
        waiting.append(connection)
        self._oldest_first[connection] = None
        if len(waiting) > MAX_IDLE_PER_ORIGIN:
            await self._drop(waiting[0])
        for _ in range(2):
            oldest = next(iter(self._oldest_first), None)
            if oldest is not None and (len(self) > self._limit or oldest.http.has_expired()):
                await self._drop(oldest)

    async def aclose(self) -> None:
        self._closed = True
        while self._oldest_first:
            await self._drop(next(iter(self._oldest_first)))

    async def _drop(self, connection: Connection) -> None:
        self._remove(connection)
        await connection.aclose()

    def _remove(self, connection: Connection) -> None:
        """O(1): whatever leaves is the newest or the oldest of its origin."""
        del self._oldest_first[connection]
        waiting = self._origins[connection.key]
        if waiting[-1] is connection:
            waiting.pop()
        else:
            waiting.popleft()
        if not waiting:
            del self._origins[connection.key]


class GuardedTransport(httpx.AsyncBaseTransport):
    """Sends requests where the guard allows, over connections of its own.

    No redirects, environment variables, HTTP/2 or content decoding: a transport knows none of these. No proxy but the
    one of the rules. Raises `EndpointFailure` and `OurFault`. In the request's extensions, `ROUTE` is a `Route` to fill
    in on the way, and `TRUST` the `Trust` to use instead of the usual one.
    """

    def __init__(
        self, guard: Guard, ssl_context: ssl.SSLContext, inner: httpcore.AsyncNetworkBackend | None = None
    ) -> None:
        self._guard = guard
        self._usual = Trust(b"", ssl_context)
        self._inner = inner or httpcore.AnyIOBackend()
        self._idle = IdleConnections(min(MAX_IDLE, file_limit() // 4))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """One exchange, up to the response's headers; closing the response gives the connection back.

        A kept-alive connection may have been closed by the server just before our request reached it. If it dies
        before one byte of an answer, the request is sent once more, on a fresh connection, at once.
        """
        route: Route = request.extensions.get(ROUTE) or Route()
        trust: Trust = request.extensions.get(TRUST) or self._usual
        outgoing = _to_httpcore(request)
        kept = await self._idle.take(_key(outgoing.url, trust))
        if kept is not None:
            route.reused = True
            try:
                return await self._exchange(kept, outgoing, route)
            except _Stale:
                route.reused, route.redialed = False, True
        return await self._exchange(self._connection(outgoing.url, trust), outgoing, route)

    async def aclose(self) -> None:
        await self._idle.aclose()

    def _connection(self, url: httpcore.URL, trust: Trust) -> Connection:
        proxy = self._guard.rules.proxy
        inner = self._inner if proxy is None else ConnectBackend(proxy, self._inner, self._guard.resolver)
        line = PinnedBackend(self._guard, inner, plain=url.scheme == b"http", limit=CONNECT_LIMIT)
        return Connection(url, line, trust)

    async def _exchange(self, connection: Connection, request: httpcore.Request, route: Route) -> httpx.Response:
        try:
            response = await self._answer(connection, request, reused=route.reused)
        except BaseException:
            await connection.aclose()
            raise
        finally:
            route.peer_address = connection.line.peer_address
            route.at_proxy = connection.line.at_proxy
        return httpx.Response(response.status, headers=response.headers, stream=_Body(connection, response, self._idle))

    async def _answer(self, connection: Connection, request: httpcore.Request, *, reused: bool) -> httpcore.Response:
        """The response, unless nothing was received for it.

        That holds for a seeming answer too: bytes left over from the exchange before are not an answer to this one.
        """
        try:
            response = await connection.send(request)
        except EndpointFailure as failure:
            if reused and connection.line.received == 0 and failure.code is FailureCode.RESET:
                raise _Stale from failure
            raise
        if reused and connection.line.received == 0:
            raise _Stale
        return response


class _Stale(Exception):
    """A kept-alive connection that had died."""


class _Body(httpx.AsyncByteStream):
    """The raw body. Closing it keeps the connection if the body was read to its end, and hangs up otherwise."""

    def __init__(self, connection: Connection, response: httpcore.Response, idle: IdleConnections) -> None:
        self._connection = connection
        self._response = response
        self._idle = idle

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with self._connection.explained():
            async for chunk in self._response.aiter_stream():
                yield chunk

    async def aclose(self) -> None:
        await self._response.aclose()
        if self._connection.http.is_idle():
            await self._idle.put(self._connection)
        else:
            await self._connection.aclose()


def _key(url: httpcore.URL, trust: Trust) -> OriginKey:
    return (url.scheme, url.host, url.port, trust.key)


def _to_httpcore(request: httpx.Request) -> httpcore.Request:
    url = request.url
    return httpcore.Request(
        method=request.method,
        url=httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
        headers=request.headers.raw,
        content=cast("httpx.AsyncByteStream", request.stream),
    )
