"""Connections by origin, kept alive between requests; each step is O(1).

httpcore's own pool looks at every connection for every request: 43 requests a second at 1,000 kept-alive hosts.
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
"""1,000 hosts in turn must each find their connection again: at 512 many requests dialled (222 µs of CPU, not 150).
One takes 5 KB, with TLS about 28 KB; and at most a quarter of the file descriptors we may have are spent on them."""
MAX_IDLE_PER_ORIGIN = 8
CONNECT_LIMIT = timedelta(seconds=5)


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
            if not connection.has_expired():
                return connection
            await connection.aclose()
        return None

    async def put(self, connection: Connection) -> None:
        """Keep a connection for the next request, or close it if it is not fit for one."""
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
        """O(1): the one that leaves is the newest or the oldest of its origin."""
        del self._oldest_first[connection]
        waiting = self._origins[connection.key]
        if waiting[-1] is connection:
            waiting.pop()
        else:
            waiting.popleft()
        if not waiting:
            del self._origins[connection.key]


class Transport:
    """Sends requests where the guard allows, over connections of its own.

    No redirects, environment variables, HTTP/2 or content decoding: h11 knows none of these. No proxy but the one of
    the rules.
    """

    def __init__(
        self, guard: Guard, ssl_context: ssl.SSLContext, inner: httpcore.AsyncNetworkBackend | None = None
    ) -> None:
        self._guard = guard
        self._usual = Trust(b"", ssl_context)
        self._inner = inner or TcpBackend()
        self._idle = IdleConnections(min(MAX_IDLE, file_limit() // 4))

    async def send(self, request: Request, route: Route, trust: Trust, tenant: str) -> Response:
        """One exchange. Raises `EndpointFailure`, `LocalError`.

        A kept-alive connection may have been closed by the server just before our request reached it. If it dies
        before one byte of a response, the request is sent once more, on a fresh connection, at once.
        """
        kept = await self._idle.take(origin_key(request.url, trust))
        if kept is not None:
            route.reused = True
            try:
                return await self._exchange(kept, request, route)
            except EndpointFailure as failure:
                if kept.response_began or failure.code is not FailureCode.RESET:
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
