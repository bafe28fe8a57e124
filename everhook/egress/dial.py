"""Dialling: resolve the name, check every address, connect to a checked address, check the peer once more.

Names are resolved only here, and the address that was checked is the one that is dialled, so a name whose addresses
change between check and use (DNS rebinding) has no effect. TLS still uses the *name*: server name indication,
certificate verification and `Host` are the endpoint's.
"""

import ssl
import time
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import ip_address

import httpcore

from everhook.contracts import FailureCode
from everhook.egress.address_rules import Address, inside, refusal
from everhook.egress.errors import EndpointFailure, LocalError, UnsendableRequest, UrlRefused, dial_failure
from everhook.egress.proxy import ConnectBackend
from everhook.egress.resolver import NameUnresolved, Resolver
from everhook.egress.tls_stream import NotTls, TlsStream
from everhook.egress.url import (
    ALLOW,
    PLAIN_HTTP_INSIDE_ONLY,
    EgressRules,
    address_not_allowed,
    literal_address,
    permitting,
)

NOT_PUBLIC = "has a host name that resolves to an address that is not allowed"
MAX_DIALS = 4

_TLS_REASONS = {
    "TLSV1_ALERT_PROTOCOL_VERSION": "the server accepts none of our TLS versions (1.2 and 1.3)",
    "UNSUPPORTED_PROTOCOL": "the server accepts none of our TLS versions (1.2 and 1.3)",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "the server refused the handshake; it may require a client certificate",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "the server requires a client certificate",
    "TLSV1_ALERT_UNKNOWN_CA": "the server does not trust the authority of our client certificate",
    "SSLV3_ALERT_BAD_CERTIFICATE": "the server refused our client certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "the server refused our client certificate as expired",
    "TLSV1_UNRECOGNIZED_NAME": "the server does not know this host name",
}


@dataclass(frozen=True)
class Guard:
    """The SSRF guard: the rules and the resolver, which decide where a request may go."""

    rules: EgressRules
    resolver: Resolver

    async def addresses(self, host: str, tenant: str, *, plain: bool) -> tuple[Address, ...]:
        """All addresses of `host`, each of them allowed. `plain`: the request is plain HTTP. `tenant` is charged for
        the look-up.

        One forbidden address refuses the name: an honest name has none, and choosing among the addresses would let the
        owner of the name server influence the destination. Raises `UrlRefused`, `NameUnresolved` and `LocalError`.
        """
        literal = literal_address(host)
        if literal is not None:
            self.check_address(literal, plain=plain, named=False)
            return (literal,)
        addresses = tuple(dict.fromkeys(_address(text) for text in await self.resolver(host, tenant)))
        if not addresses:
            raise NameUnresolved("no address")
        for address in addresses:
            self.check_address(address, plain=plain, named=True)
        return addresses

    def check_address(self, address: Address, *, plain: bool, named: bool) -> None:
        rule = refusal(address, self.rules.allow)
        if rule is not None:
            raise UrlRefused(NOT_PUBLIC if named else address_not_allowed(rule), permitting(rule))
        if plain and not inside(address, self.rules.allow):
            raise UrlRefused(PLAIN_HTTP_INSIDE_ONLY, ALLOW)


class Line:
    """Dials one connection and holds what is known about it. Each connection has its own."""

    def __init__(
        self, guard: Guard, inner: httpcore.AsyncNetworkBackend, *, plain: bool, limit: timedelta, tenant: str = ""
    ) -> None:
        self._guard = guard
        self._inner = inner
        self._plain = plain
        self._limit = limit.total_seconds()
        self._tenant = tenant
        self._connect_by = 0.0
        self.peer_address: str | None = None

    @property
    def at_proxy(self) -> bool:
        """Whether the egress proxy has not accepted the connection yet."""
        return isinstance(self._inner, ConnectBackend) and self._inner.at_proxy

    async def connect(self, host: str, port: int) -> httpcore.AsyncNetworkStream:
        """A TCP connection to an allowed address of `host`. Raises `EndpointFailure`, `LocalError`."""
        addresses = await self._allowed(host, port)
        self._connect_by = time.monotonic() + self._limit
        stream = await self._dial_first(addresses[:MAX_DIALS], port)
        self.peer_address = await self._checked_peer(stream)
        return stream

    async def secured(
        self, stream: httpcore.AsyncNetworkStream, context: ssl.SSLContext, name: str
    ) -> httpcore.AsyncNetworkStream:
        """TLS over `stream` with the server `name`. Raises `EndpointFailure` and `LocalError`."""
        try:
            secure = TlsStream(stream, context, name)
        except ValueError:
            await stream.aclose()
            raise UnsendableRequest("TLS does not support the host name of the URL") from None
        try:
            await secure.shake_hands(self._time_left)
        except BaseException as error:
            await stream.aclose()
            failure = _tls_failure(error)
            if failure is None:
                raise
            raise failure from error
        return secure

    @property
    def _time_left(self) -> float:
        """The seconds that are left for connecting and the TLS handshake together."""
        return max(self._connect_by - time.monotonic(), 0.0)

    async def _allowed(self, host: str, port: int) -> tuple[Address, ...]:
        if not self._guard.rules.allows_port(port):
            raise EndpointFailure(FailureCode.BLOCKED, f"port {port}")
        try:
            return await self._guard.addresses(host, self._tenant, plain=self._plain)
        except UrlRefused as refused:
            raise EndpointFailure(FailureCode.BLOCKED, str(refused)) from None
        except NameUnresolved as unresolved:
            raise EndpointFailure(FailureCode.DNS, f"the name does not resolve: {unresolved}") from None

    async def _dial_first(self, addresses: tuple[Address, ...], port: int) -> httpcore.AsyncNetworkStream:
        """Connect to the first address that accepts. Each gets its share of the time left, so that a silent one leaves
        some.

        If none accepts, the first failure is reported: the system sorts addresses without a route last.
        """
        failures: list[EndpointFailure] = []
        for tried, address in enumerate(addresses):
            try:
                return await self._dial(address, port, self._time_left / (len(addresses) - tried))
            except EndpointFailure as failure:
                failures.append(failure)
        raise failures[0]

    async def _dial(self, address: Address, port: int, limit: float) -> httpcore.AsyncNetworkStream:
        try:
            return await self._inner.connect_tcp(str(address), port, limit)
        except httpcore.ConnectTimeout:
            raise EndpointFailure(FailureCode.TIMEOUT_CONNECT, "no response to the connection attempt") from None
        except (httpcore.ConnectError, OSError) as error:
            raise dial_failure(error, ipv6=address.version == 6) from error

    async def _checked_peer(self, stream: httpcore.AsyncNetworkStream) -> str:
        """The address of the peer, checked again, in case `inner` connected to another address than the given one."""
        peer = str(stream.get_extra_info("server_addr")[0])
        try:
            self._guard.check_address(_address(peer), plain=self._plain, named=True)
        except UrlRefused as refused:
            await stream.aclose()
            raise EndpointFailure(FailureCode.BLOCKED, str(refused)) from None
        return peer


def _tls_failure(error: BaseException) -> EndpointFailure | None:
    """The failure of a TLS handshake. A reset counts as well: many servers refuse a name that way."""
    if isinstance(error, TimeoutError):
        return EndpointFailure(FailureCode.TIMEOUT_CONNECT, "the TLS handshake took too long")
    if isinstance(error, LocalError) or not isinstance(error, Exception):
        return None
    return EndpointFailure(FailureCode.TLS, tls_detail(error))


def tls_detail(error: BaseException | None) -> str:
    """What went wrong with TLS, for the operators of the server; in OpenSSL's words if they are clear."""
    while error is not None:
        if isinstance(error, NotTls):
            return str(error)
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"certificate refused: {error.verify_message}"
        if isinstance(error, ssl.SSLError) and error.reason:
            reason = _TLS_REASONS.get(error.reason)
            return f"TLS failed: {reason} ({error.reason})" if reason else f"TLS failed: {error.reason}"
        error = error.__cause__ or error.__context__
    return "the connection ended during the TLS handshake"


def _address(text: str) -> Address:
    try:
        return ip_address(text)
    except ValueError:
        raise NameUnresolved("not a valid address") from None
