"""The egress proxy: every request is sent through its own CONNECT tunnel.

The proxy is given a checked address and never a name: it resolves nothing, so the SSRF guard works even if the proxy
forbids nothing. The address of the proxy is configured by the operator and is not checked.

Who is charged when there is no tunnel:

| what the proxy does | charged | because |
|---|---|---|
| cannot be reached, closes, sends invalid data, 401, 407, 503, all other statuses | Everhook | the proxy is at fault |
| 502 | the endpoint, `unreachable` | RFC 9110: the fault is upstream; most proxies use it so |
| 504, or no response to CONNECT in time | the endpoint, `timeout_connect` | a silent endpoint looks like this |
| 403 | policy, `blocked` | it forbids the destination, like Everhook's own rules |

502, 503 and 504 are ambiguous, so a specific header takes precedence over the status: `Proxy-Status` (RFC 9209), and
`X-Squid-Error`, because Squid responds 503 when an endpoint refuses. Once the tunnel is open, every failure is charged
to the endpoint: a proxy that fails cannot be distinguished from an endpoint that closes.
"""

import asyncio
import errno
import re
import time
from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any, Self
from urllib.parse import unquote_to_bytes, urlsplit

import httpcore

from everhook.contracts import FailureCode
from everhook.egress.errors import EndpointFailure, LocalError, error_number
from everhook.egress.resolver import NameUnresolved, Resolver

_STATUSES = {
    403: (FailureCode.BLOCKED, "the egress proxy forbids this destination"),
    502: (FailureCode.UNREACHABLE, "the egress proxy cannot reach it"),
    504: (FailureCode.TIMEOUT_CONNECT, "the egress proxy got no response from it in time"),
}
_ALWAYS_LOCAL = (401, 407)

_ERRORS = {
    "dns_error": FailureCode.DNS,
    "dns_timeout": FailureCode.DNS,
    "destination_not_found": FailureCode.UNREACHABLE,
    "destination_unavailable": FailureCode.UNREACHABLE,
    "destination_ip_unroutable": FailureCode.UNREACHABLE,
    "destination_ip_prohibited": FailureCode.BLOCKED,
    "http_request_denied": FailureCode.BLOCKED,
    "connection_refused": FailureCode.REFUSED,
    "connection_terminated": FailureCode.RESET,
    "connection_timeout": FailureCode.TIMEOUT_CONNECT,
    "connection_read_timeout": FailureCode.TIMEOUT_CONNECT,
    "connection_write_timeout": FailureCode.TIMEOUT_CONNECT,
    "err_connect_fail": FailureCode.UNREACHABLE,
    "err_dns_fail": FailureCode.DNS,
    "err_access_denied": FailureCode.BLOCKED,
}
"""The errors of RFC 9209 section 2.3 and of Squid. An error that is not listed is the proxy's own."""

_OPERATOR = "(operator)"
"""Charged for look-ups instead of a tenant, because all tenants use the proxy."""

_PROXY_STATUS = re.compile(rb'; *error *= *"?([a-z_]{1,40})')
_SQUID_ERROR = re.compile(rb"(ERR_[A-Z_]{1,40})")


@dataclass(frozen=True)
class Proxy:
    """The address of the proxy, and the value of `Proxy-Authorization`, if it requires one."""

    host: str
    port: int
    authorization: bytes | None = field(default=None, repr=False)

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Parse `http://[user:password@]host:port`, percent-encoded, as validated by the settings."""
        parts = urlsplit(url)
        if parts.hostname is None or parts.port is None:
            raise ValueError("not the URL of a proxy")
        if parts.username is None:
            return cls(parts.hostname, parts.port)
        pair = unquote_to_bytes(parts.username) + b":" + unquote_to_bytes(parts.password or "")
        return cls(parts.hostname, parts.port, b"Basic " + b64encode(pair))


class ConnectBackend(httpcore.AsyncNetworkBackend):
    """Opens tunnels instead of connections; each connection has its own.

    `at_proxy` is True until the proxy has accepted the connection: a timeout until then is not charged to the endpoint.
    """

    def __init__(self, proxy: Proxy, inner: httpcore.AsyncNetworkBackend, resolver: Resolver) -> None:
        self._proxy = proxy
        self._inner = inner
        self._resolver = resolver
        self.at_proxy = False

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Open a tunnel to `host`, a literal address. Raises `EndpointFailure` and `LocalError`."""
        give_up_at = None if timeout is None else time.monotonic() + timeout
        self.at_proxy = True
        stream = await self._connect(timeout)
        self.at_proxy = False
        try:
            async with asyncio.timeout(None if give_up_at is None else give_up_at - time.monotonic()):
                return _Tunnel(await self._ask(stream, host, port), host, port)
        except TimeoutError:
            await stream.aclose()
            raise EndpointFailure(*_STATUSES[504]) from None
        except BaseException:
            await stream.aclose()
            raise

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)

    async def _connect(self, timeout: float | None) -> httpcore.AsyncNetworkStream:
        """Connect to the first address of the proxy that accepts."""
        addresses = await self._addresses()
        for address in addresses[:-1]:
            try:
                return await self._dial(address, timeout and timeout / len(addresses))
            except LocalError:
                continue
        return await self._dial(addresses[-1], timeout and timeout / len(addresses))

    async def _addresses(self) -> tuple[str, ...]:
        try:
            return (str(ip_address(self._proxy.host)),)
        except ValueError:
            pass
        try:
            return await self._resolver(self._proxy.host, _OPERATOR)
        except NameUnresolved as unresolved:
            raise LocalError(f"the name of the egress proxy does not resolve: {unresolved}") from None

    async def _dial(self, address: str, timeout: float | None) -> httpcore.AsyncNetworkStream:
        try:
            return await self._inner.connect_tcp(address, self._proxy.port, timeout)
        except httpcore.ConnectTimeout:
            raise LocalError("the egress proxy does not respond") from None
        except (httpcore.ConnectError, OSError) as error:
            name = errno.errorcode.get(error_number(error) or 0, "no route")
            raise LocalError(f"the egress proxy cannot be reached ({name})") from error

    async def _ask(self, stream: httpcore.AsyncNetworkStream, host: str, port: int) -> httpcore.AsyncNetworkStream:
        proxy, target = self._proxy, _authority(host, port)
        headers = [(b"Host", target)]
        if proxy.authorization is not None:
            headers.append((b"Proxy-Authorization", proxy.authorization))
        url = httpcore.URL(scheme=b"http", host=proxy.host.encode(), port=proxy.port, target=target)
        connection = httpcore.AsyncHTTP11Connection(origin=url.origin, stream=stream)
        try:
            response = await connection.handle_async_request(httpcore.Request(b"CONNECT", url, headers=headers))
        except (httpcore.NetworkError, httpcore.ProtocolError, OSError) as error:
            raise LocalError("the egress proxy gave no valid response to CONNECT") from error
        if not 200 <= response.status < 300:
            raise connect_failure(response.status, response.headers)
        tunnel: httpcore.AsyncNetworkStream = response.extensions["network_stream"]
        return tunnel


def connect_failure(status: int, headers: Sequence[tuple[bytes, bytes]]) -> EndpointFailure | LocalError:
    """What a failed CONNECT means; see the table at the top of this file."""
    local = LocalError(f"the egress proxy responded to CONNECT with {status}")
    if status in _ALWAYS_LOCAL:
        return local
    named = _named_error(headers)
    if named is None:
        return EndpointFailure(*_STATUSES[status]) if status in _STATUSES else local
    code = _ERRORS.get(named)
    return local if code is None else EndpointFailure(code, f"the egress proxy reports: {named}")


def _named_error(headers: Sequence[tuple[bytes, bytes]]) -> str | None:
    for name, value in headers:
        pattern = {b"proxy-status": _PROXY_STATUS, b"x-squid-error": _SQUID_ERROR}.get(name.lower())
        if pattern is not None and (found := pattern.search(value)):
            return found[1].decode("ascii").lower()
    return None


def _authority(host: str, port: int) -> bytes:
    return (f"[{host}]:{port}" if ":" in host else f"{host}:{port}").encode("ascii")


class _Tunnel(httpcore.AsyncNetworkStream):
    """A tunnel. `server_addr` is the address that the proxy was asked for."""

    def __init__(self, inner: httpcore.AsyncNetworkStream, host: str, port: int) -> None:
        self._inner = inner
        self._far_end = (host, port)

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return await self._inner.read(max_bytes, timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await self._inner.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._inner.aclose()

    def get_extra_info(self, info: str) -> Any:
        return self._far_end if info == "server_addr" else self._inner.get_extra_info(info)
