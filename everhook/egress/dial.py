"""Dialling: resolve, judge every answer, connect to the literal address, look at the peer once more.

A name is resolved here and nowhere else, and what was judged is what is dialled, so an answer that changes between
check and use (DNS rebinding) changes nothing. httpcore still hands the *name* to `start_tls`: server name
indication, certificate check and `Host` stay the endpoint's.
"""

import ssl
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import ip_address
from typing import Any

import httpcore

from everhook.contracts import FailureCode
from everhook.egress.address_rules import Address, inside, refusal
from everhook.egress.errors import EndpointFailure, OurFault, UrlRefused, dial_failure
from everhook.egress.proxy import ConnectBackend
from everhook.egress.resolver import NameUnresolved, Resolver
from everhook.egress.tls_stream import TlsStream
from everhook.egress.url import PLAIN_HTTP_INSIDE_ONLY, EgressRules, literal_address

NOT_PUBLIC = "its name resolves to an address that is not allowed"
MAX_DIALS = 4
MAX_RECEIVED = 256 * 1024


@dataclass(frozen=True)
class Guard:
    """The rules and the resolver: all that decides where a request may go."""

    rules: EgressRules
    resolver: Resolver

    async def addresses(self, host: str, *, plain: bool) -> tuple[Address, ...]:
        """Every address of `host`, all of them allowed; `plain` asks for plain HTTP.

        One bad answer refuses the whole set: an honest name has none, and picking the good ones would let the
        resolver's owner steer us. Raises `UrlRefused`, `NameUnresolved`, `OurFault`.
        """
        literal = literal_address(host)
        if literal is not None:
            self.judge(literal, plain=plain, named=False)
            return (literal,)
        addresses = tuple(dict.fromkeys(_address(text) for text in await self.resolver(host)))
        if not addresses:
            raise NameUnresolved("no address")
        for address in addresses:
            self.judge(address, plain=plain, named=True)
        return addresses

    def judge(self, address: Address, *, plain: bool, named: bool) -> None:
        rule = refusal(address, self.rules.allow)
        if rule is not None:
            raise UrlRefused(NOT_PUBLIC if named else rule)
        if plain and not inside(address, self.rules.allow):
            raise UrlRefused(PLAIN_HTTP_INSIDE_ONLY)


class PinnedBackend(httpcore.AsyncNetworkBackend):
    """Dials one connection and keeps what there is to know of it; each connection has its own.

    `received` counts response bytes since `begin`: none means that an answer has not even started. More than
    `MAX_RECEIVED` ends the exchange: h11 bounds one block of headers, but not how many 103s may come before it.
    """

    def __init__(self, guard: Guard, inner: httpcore.AsyncNetworkBackend, *, plain: bool, limit: timedelta) -> None:
        self._guard = guard
        self._inner = inner
        self._plain = plain
        self._limit = limit.total_seconds()
        self._connect_by = 0.0
        self.peer_address: str | None = None
        self.received = 0

    def begin(self) -> None:
        self.received = 0

    def count(self, size: int) -> None:
        self.received += size
        if self.received > MAX_RECEIVED:
            raise EndpointFailure(FailureCode.PROTOCOL, f"more than {MAX_RECEIVED // 1024} KiB without a usable answer")

    @property
    def at_proxy(self) -> bool:
        """The egress proxy has yet to take our connection."""
        return isinstance(self._inner, ConnectBackend) and self._inner.at_proxy

    @property
    def time_left(self) -> float:
        """Seconds until connect and TLS handshake together have taken too long."""
        return max(self._connect_by - time.monotonic(), 0.0)

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        addresses = await self._allowed(host, port)
        self._connect_by = time.monotonic() + self._limit
        stream = await self._dial_first(addresses[:MAX_DIALS], port)
        self.peer_address = await self._checked_peer(stream)
        return _CountedStream(stream, self)

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        raise EndpointFailure(FailureCode.BLOCKED, "no unix sockets")

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)

    async def _allowed(self, host: str, port: int) -> tuple[Address, ...]:
        if not self._guard.rules.allows_port(port):
            raise EndpointFailure(FailureCode.BLOCKED, f"port {port}")
        try:
            return await self._guard.addresses(host, plain=self._plain)
        except UrlRefused as refused:
            raise EndpointFailure(FailureCode.BLOCKED, refused.rule) from None
        except NameUnresolved as unresolved:
            raise EndpointFailure(FailureCode.DNS, f"the name does not resolve: {unresolved}") from None

    async def _dial_first(self, addresses: tuple[Address, ...], port: int) -> httpcore.AsyncNetworkStream:
        """The first address that answers. Each gets its share of the time left: one that is silent leaves some.

        When none does, the first failure is told: the system sorts addresses it has no route to last.
        """
        failures: list[EndpointFailure] = []
        for tried, address in enumerate(addresses):
            try:
                return await self._dial(address, port, self.time_left / (len(addresses) - tried))
            except EndpointFailure as failure:
                failures.append(failure)
        raise failures[0]

    async def _dial(self, address: Address, port: int, limit: float) -> httpcore.AsyncNetworkStream:
        try:
            return await self._inner.connect_tcp(str(address), port, limit)
        except httpcore.ConnectTimeout:
            raise EndpointFailure(FailureCode.TIMEOUT_CONNECT, "no answer to the connection attempt") from None
        except (httpcore.ConnectError, OSError) as error:
            raise dial_failure(error, ipv6=address.version == 6) from error

    async def _checked_peer(self, stream: httpcore.AsyncNetworkStream) -> str:
        """Belt and braces: whatever `inner` did with the address it was given, this is who is on the line."""
        peer = str(stream.get_extra_info("server_addr")[0])
        try:
            self._guard.judge(_address(peer), plain=self._plain, named=True)
        except UrlRefused as refused:
            await stream.aclose()
            raise EndpointFailure(FailureCode.BLOCKED, refused.rule) from None
        return peer


class _CountedStream(httpcore.AsyncNetworkStream):
    """Counts what is received, and bounds and names what goes wrong in a TLS handshake."""

    def __init__(self, inner: httpcore.AsyncNetworkStream, line: PinnedBackend) -> None:
        self._inner = inner
        self._line = line

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        data = await self._inner.read(max_bytes, timeout)
        self._line.count(len(data))
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await self._inner.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            secure = await TlsStream.connected(self._inner, ssl_context, server_hostname, self._line.time_left)
        except BaseException as error:
            await self._inner.aclose()  # httpcore would not when cancelled
            failure = _tls_failure(error)
            if failure is None:
                raise
            raise failure from error
        return _CountedStream(secure, self._line)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


def _tls_failure(error: BaseException) -> EndpointFailure | None:
    """Everything that ends a handshake is a TLS failure, a reset too: that is how many servers refuse a name."""
    if isinstance(error, TimeoutError):
        return EndpointFailure(FailureCode.TIMEOUT_CONNECT, "the TLS handshake took too long")
    if isinstance(error, OurFault) or not isinstance(error, Exception):
        return None
    return EndpointFailure(FailureCode.TLS, tls_detail(error))


def tls_detail(error: BaseException | None) -> str:
    """OpenSSL's own words, for whoever has to mend the certificate."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"certificate refused: {error.verify_message}"
        if isinstance(error, ssl.SSLError) and error.reason:
            return f"TLS failed: {error.reason}"
        error = error.__cause__ or error.__context__
    return "the connection ended during the TLS handshake"


def _address(text: str) -> Address:
    try:
        return ip_address(text)
    except ValueError:
        raise NameUnresolved("an answer that is not an address") from None
