"""Keep-alive connections by origin; each operation is O(1).

httpcore's pool scans all connections for each request: 43 requests per second with 1,000 idle hosts.
"""

import ssl
from collections import OrderedDict, deque
from datetime import timedelta

import httpcore
import httpx

from everhook.contracts import FailureCode
from everhook.egress.connection import Connection, OriginKey, Response, Route, origin_key
from everhook.egress.dial import Guard, Line
from everhook.egress.errors import EndpointFailure
from everhook.egress.proxy import ConnectBackend
from everhook.egress.request import Request
from everhook.egress.tcp import TcpBackend
from everhook.egress.tls import Trust
from everhook.event_loop import file_limit

MAX_IDLE = 2048
"""Large enough that 1,000 hosts in turn find their connections: with 512 many requests had to dial (222 µs of CPU
instead of 150). A connection takes 5 KB, with TLS about 28 KB; at most a quarter of the file descriptors are used
for them."""
MAX_IDLE_PER_ORIGIN = 8
CONNECT_LIMIT = timedelta(seconds=5)


class IdleConnections:
    """At most 8 idle connections for each origin and `limit` in all; the longest idle ones are closed first.

    There is no sweeping task: each `put` checks the two longest idle connections and closes expired ones, so that with
    traffic old sockets are closed as fast as new ones come, and without traffic their number does not grow.
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
            if not connection.has_expired():
                return connection
            await connection.aclose()
        return None

    async def put(self, connection: Connection) -> None:
        """Keep a connection for the next request, or close it if it cannot be reused."""
        if self._closed or not connection.is_reusable():
            await connection.aclose()
            return
        waiting = self._origins.setdefault(connection.key, deque())
        waiting.append(connection)
        self._oldest_first[connection] = None
        if len(waiting) > MAX_IDLE_PER_ORIGIN:
            await self._drop(waiting[0])
        for _ in range(2):
            oldest = next(iter(self._oldest_first), None)
            if oldest is not None and (len(self) > self._limit or oldest.has_expired()):
                await self._drop(oldest)

    async def aclose(self) -> None:
        self._closed = True
        while self._oldest_first:
            await self._drop(next(iter(self._oldest_first)))

    async def _drop(self, connection: Connection) -> None:
        self._remove(connection)
        await connection.aclose()

    def _remove(self, connection: Connection) -> None:
        """Remove a connection in O(1): it is the newest or the oldest of its origin."""
        del self._oldest_first[connection]
        waiting = self._origins[connection.key]
        if waiting[-1] is connection:
            waiting.pop()
        else:
            waiting.popleft()
        if not waiting:
            del self._origins[connection.key]


class Transport:
    """Sends requests to destinations that the guard allows, over its own connections.

    There are no redirects, environment variables, HTTP/2 or content decoding: h11 has none of these. The only proxy is
    that of the rules.
    """

    def __init__(
        self, guard: Guard, ssl_context: ssl.SSLContext, inner: httpcore.AsyncNetworkBackend | None = None
    ) -> None:
        self._guard = guard
        self._usual = Trust(b"", ssl_context)
        self._inner = inner or TcpBackend()
        self._idle = IdleConnections(min(MAX_IDLE, file_limit() // 4))

    async def send(self, request: Request, route: Route, trust: Trust, tenant: str) -> Response:
        """One exchange. Raises `EndpointFailure` and `LocalError`.

        The server may have closed a keep-alive connection just before the request arrived. If the connection fails
        before any byte of a response, the request is sent once more, at once, on a new connection.
        """
        reusable = await self._idle.take(origin_key(request.url, trust))
        if reusable is not None:
            route.reused = True
            try:
                return await self._exchange(reusable, request, route)
            except EndpointFailure as failure:
                if reusable.response_began or failure.code is not FailureCode.RESET:
                    raise
                route.reused, route.redialed = False, True
        return await self._exchange(self._connection(request.url, trust, tenant), request, route)

    async def aclose(self) -> None:
        await self._idle.aclose()

    def _connection(self, url: httpx.URL, trust: Trust, tenant: str) -> Connection:
        proxy = self._guard.rules.proxy
        inner = self._inner if proxy is None else ConnectBackend(proxy, self._inner, self._guard.resolver)
        line = Line(self._guard, inner, plain=url.scheme == "http", limit=CONNECT_LIMIT, tenant=tenant)
        return Connection(url, line, trust)

    async def _exchange(self, connection: Connection, request: Request, route: Route) -> Response:
        try:
            response = await connection.exchange(request, route)
        except BaseException:
            await connection.aclose()
            raise
        finally:
            route.peer_address = connection.line.peer_address
            route.at_proxy = connection.line.at_proxy
        await self._idle.put(connection)
        return response
