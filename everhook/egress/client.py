"""The client that sends webhooks: one POST to an endpoint, with its outcome as a value.

If the endpoint fails, the outcome is an `Exchange` with a `failure`. If Everhook fails, the client raises a
`LocalError`; its subclass `UnsendableRequest` means that the client refuses to send the request.
"""

import asyncio
import re
import ssl
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http.client import responses as PHRASES

import httpcore

from everhook.contracts import FailureCode
from everhook.egress.connection import Response, Route
from everhook.egress.dial import Guard
from everhook.egress.errors import EndpointFailure, LocalError, TlsRefused, UnsendableRequest, UrlRefused
from everhook.egress.hints import RefusalHints
from everhook.egress.pool import Transport
from everhook.egress.request import compose
from everhook.egress.resolver import CachingResolver, NameUnresolved, Resolver
from everhook.egress.tls import TlsContexts, TlsExtras, make_context, shared_context
from everhook.egress.url import EgressRules, parse_url

STORED_HEADERS = 50
STORED_HEADER_BYTES = 8 * 1024
MAX_RETRY_AFTER = timedelta(hours=24)
MAX_TIMEOUT = timedelta(seconds=30)
"""The Standard Webhooks specification recommends 15 to 30 s."""
CHECKING_THREADS = 32
"""For names in URLs that are about to be stored: separate threads, so that these and deliveries do not wait for each
other."""

_UNSTORED = frozenset({"set-cookie", "set-cookie2"})

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Exchange:
    """The outcome of one POST: either a `status` or a `failure`, never both.

    `detail` is short, for people, and contains no secret and no address. `headers` are those of the response, with
    lower-case names, at most 50 and 8 KB; `body` is its first 16 KiB. `duration` is by the monotonic clock.
    `peer_address` is the address that was connected to, or, with an egress proxy, the address that the proxy was asked
    for. `retry_after` is None if there was no such header, or no valid one.
    """

    status: int | None
    failure: FailureCode | None
    detail: str
    duration: timedelta
    headers: Headers = ()
    body: bytes = b""
    body_truncated: bool = False
    peer_address: str | None = None
    reused: bool = False
    redialed: bool = False
    retry_after: timedelta | None = None


class EgressClient:
    """Sends webhooks. One for each process: it holds the connections, the TLS contexts and the resolvers' threads."""

    def __init__(
        self,
        rules: EgressRules,
        *,
        resolver: Resolver | None = None,
        ssl_context: ssl.SSLContext | None = None,
        backend: httpcore.AsyncNetworkBackend | None = None,
    ) -> None:
        """All arguments but `rules` have defaults: the system's resolver, its certificate authorities, and its TCP."""
        self.hints = RefusalHints()
        self._rules = rules
        self._resolvers = [] if resolver else [CachingResolver(), CachingResolver(threads=CHECKING_THREADS)]
        sending, checking = (resolver, resolver) if resolver else self._resolvers
        usual = ssl_context or shared_context()
        self._checking = Guard(rules, checking)
        self._contexts = TlsContexts(usual)
        self._transport = Transport(Guard(rules, sending), usual, backend)

    async def check_url(self, url: str, tenant: str = "") -> str:
        """The normalised URL, if an endpoint may have it now. Raises `UrlRefused` and `LocalError`.

        A name that does not resolve is accepted: it may not exist yet, and is checked whenever it is dialled. `tenant`
        is the caller's: tenants do not wait for each other's name servers.
        """
        parsed = parse_url(url, self._rules)
        with suppress(NameUnresolved):
            # `raw_host`, because `host` of httpx is decoded from IDNA, which no name server knows.
            await self._checking.addresses(parsed.raw_host.decode("ascii"), tenant, plain=parsed.scheme == "http")
        return str(parsed)

    async def check_tls(self, extras: TlsExtras) -> None:
        """Check that an endpoint may have these TLS settings. Raises `TlsRefused` and `LocalError`."""
        await asyncio.to_thread(make_context, extras)

    async def post(
        self,
        url: str,
        headers: Sequence[tuple[str, str]],
        body: bytes,
        timeout: timedelta,
        tls: TlsExtras | None = None,
        tenant: str = "",
    ) -> Exchange:
        """POST `body` with exactly `headers` plus `Host`, `Content-Length` and `Accept-Encoding: identity`.

        `timeout` is for the whole exchange, including name resolution and the body, and at most 30 s. `tls` is the
        endpoint's own TLS material. `tenant` is charged for the resolver's threads.

        Raises only `LocalError`, before any byte of the request was sent. The subclass `UnsendableRequest` means that
        the client refuses this request, and would refuse it again.
        """
        route = Route()
        started = time.monotonic()
        try:
            response = await self._send(url, headers, body, timeout, tls, tenant, route)
        except UrlRefused as refused:
            return _failed(FailureCode.BLOCKED, str(refused), started, route)
        except TlsRefused as refused:
            return _failed(FailureCode.TLS, f"the endpoint's TLS settings: {refused.rule}", started, route)
        except EndpointFailure as failure:
            return _failed(failure.code, failure.detail, started, route)
        except TimeoutError:
            if route.at_proxy:
                raise LocalError("the egress proxy did not accept the connection in time") from None
            return _failed(FailureCode.TIMEOUT_TOTAL, "no complete response in time", started, route)
        except LocalError:
            raise
        except Exception as error:
            if not route.sent:
                raise UnsendableRequest(
                    f"the client failed before it sent anything ({type(error).__name__})"
                ) from error
            # A bug. It is recorded as a failure, because an exception would cause another request.
            detail = f"the client failed to read the response ({type(error).__name__})"
            return _failed(FailureCode.PROTOCOL, detail, started, route)
        return _exchange(response, started, route)

    async def aclose(self) -> None:
        await self._transport.aclose()
        for resolver in self._resolvers:
            resolver.close()

    async def _send(
        self,
        url: str,
        headers: Sequence[tuple[str, str]],
        body: bytes,
        timeout: timedelta,
        tls: TlsExtras | None,
        tenant: str,
        route: Route,
    ) -> Response:
        request = compose(parse_url(url, self._rules), headers, body)
        async with asyncio.timeout(min(timeout, MAX_TIMEOUT).total_seconds()):
            return await self._transport.send(request, route, await self._contexts.get(tls), tenant)


def parse_retry_after(value: str, now: datetime) -> timedelta | None:
    """`Retry-After` (RFC 9110 section 10.2.3): seconds or an HTTP date, from zero to 24 hours; None if neither."""
    value = value.strip()
    if re.fullmatch(r"-?[0-9]+", value):
        seconds = 0 if value.startswith("-") else int(value[:10])
        return min(timedelta(seconds=seconds), MAX_RETRY_AFTER)
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError, IndexError):
        return None
    wait = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - now
    return min(max(wait, timedelta(0)), MAX_RETRY_AFTER)


def _failed(code: FailureCode, detail: str, started: float, route: Route) -> Exchange:
    return Exchange(
        status=None,
        failure=code,
        detail=detail,
        duration=_since(started),
        peer_address=route.peer_address,
        reused=route.reused,
        redialed=route.redialed,
    )


def _exchange(response: Response, started: float, route: Route) -> Exchange:
    return Exchange(
        status=response.status,
        failure=None,
        detail=_status_detail(response.status),
        duration=_since(started),
        headers=_stored_headers(response.headers),
        body=response.body,
        body_truncated=response.truncated,
        peer_address=route.peer_address,
        reused=route.reused,
        redialed=route.redialed,
        retry_after=_retry_after(response.headers),
    )


def _retry_after(headers: Sequence[tuple[bytes, bytes]]) -> timedelta | None:
    """The header's value; None if the response has none, an invalid one, or several."""
    values = [value for name, value in headers if name.lower() == b"retry-after"]
    return parse_retry_after(values[0].decode("latin-1"), datetime.now(UTC)) if len(values) == 1 else None


def _status_detail(status: int) -> str:
    """A fixed text, not the endpoint's reason phrase, which may contain anything."""
    if 300 <= status < 400:
        return f"HTTP {status} (redirects are not followed)"
    return f"HTTP {status} {PHRASES.get(status, '')}".rstrip()


def _stored_headers(raw: Sequence[tuple[bytes, bytes]]) -> Headers:
    stored: list[tuple[str, str]] = []
    size = 0
    for name, value in ((name.decode("ascii").lower(), value.decode("latin-1")) for name, value in raw):
        size += len(name) + len(value)
        if len(stored) == STORED_HEADERS or size > STORED_HEADER_BYTES:
            break
        if name not in _UNSTORED:
            stored.append((name, value))
    return tuple(stored)


def _since(started: float) -> timedelta:
    return timedelta(seconds=time.monotonic() - started)
