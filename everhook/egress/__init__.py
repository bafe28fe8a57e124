"""The only way out: one POST to an endpoint, guarded, bounded, and answered by a value.

Everything that touches httpx stands behind `EgressClient`, so that the HTTP client can be changed here. What an
endpoint does wrong is an `Exchange` with a `failure`; what goes wrong on our side is an `OurFault`.
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

import httpx

from everhook.contracts import FailureCode
from everhook.egress.dial import Guard
from everhook.egress.errors import EndpointFailure, OurFault, TlsRefused, UrlRefused
from everhook.egress.pool import ROUTE, TRUST, GuardedTransport, Route
from everhook.egress.resolver import CachingResolver, NameUnresolved, Resolver
from everhook.egress.tls import TlsContexts, TlsExtras, Trust, make_context
from everhook.egress.url import EgressRules, normalise_url, parse_url

__all__ = [
    "EgressClient",
    "EgressRules",
    "Exchange",
    "OurFault",
    "TlsExtras",
    "TlsRefused",
    "UrlRefused",
    "normalise_url",
    "parse_retry_after",
]

KEPT_BODY_BYTES = 16 * 1024
KEPT_HEADERS = 50
KEPT_HEADER_BYTES = 8 * 1024
MAX_RETRY_AFTER = timedelta(hours=24)
MAX_TIMEOUT = timedelta(seconds=30)
"""The Standard Webhooks specification asks for 15 to 30 s."""

_FRAMING = frozenset({"host", "content-length", "transfer-encoding", "connection", "accept-encoding"})
_UNSTORED = frozenset({"set-cookie", "set-cookie2"})

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Exchange:
    """What came of one POST: either a `status` or a `failure`, never both.

    `detail` is short, for people, and holds no secret and no address. `headers` are the answer's, names in lower
    case, at most 50 and 8 KB; `body` is its first 16 KiB as they came. `duration` is by the monotonic clock.
    `peer_address` is who was on the line, or, behind an egress proxy, whom the proxy was asked for.
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
    """Sends webhooks. One a process: it holds the connections, the TLS contexts and the resolver's threads."""

    def __init__(
        self, rules: EgressRules, *, resolver: Resolver | None = None, ssl_context: ssl.SSLContext | None = None
    ) -> None:
        self._rules = rules
        self._own_resolver: CachingResolver | None = None
        if resolver is None:
            resolver = self._own_resolver = CachingResolver()
        self._guard = Guard(rules, resolver)
        usual = ssl_context or ssl.create_default_context()
        self._contexts = TlsContexts(usual)
        self._transport = GuardedTransport(self._guard, usual)

    async def check_url(self, url: str) -> str:
        """`url` normalised, if an endpoint may have it as of now. Raises `UrlRefused`, `OurFault`.

        A name that does not resolve passes: it may not exist yet, and is judged again whenever it is dialled.
        """
        parsed = parse_url(url, self._rules)
        with suppress(NameUnresolved):
            # `raw_host`: httpx turns `host` back from IDNA into what no name server knows.
            await self._guard.addresses(parsed.raw_host.decode("ascii"), plain=parsed.scheme == "http")
        return str(parsed)

    async def check_tls(self, extras: TlsExtras) -> None:
        """Whether an endpoint may have these. Raises `TlsRefused`, `OurFault`."""
        await asyncio.to_thread(make_context, extras)

    async def post(
        self,
        url: str,
        headers: Sequence[tuple[str, str]],
        body: bytes,
        timeout: timedelta,
        tls: TlsExtras | None = None,
    ) -> Exchange:
        """POST `body` with exactly `headers` plus `Host`, `Content-Length` and `Accept-Encoding: identity`.

        `timeout` is for everything together, name and body included, and 30 s at most. `tls` is what the
        endpoint has beyond the usual. Raises `OurFault` only.
        """
        route = Route()
        started = time.monotonic()
        try:
            parsed = parse_url(url, self._rules)
            async with asyncio.timeout(min(timeout, MAX_TIMEOUT).total_seconds()):
                request = _request(parsed, headers, body, route, await self._contexts.get(tls))
                response, kept, cut = await self._send(request)
        except UrlRefused as refused:
            return _failed(FailureCode.BLOCKED, refused.rule, started, route)
        except TlsRefused as refused:
            return _failed(FailureCode.TLS, f"the endpoint's TLS settings: {refused.rule}", started, route)
        except EndpointFailure as failure:
            return _failed(failure.code, failure.detail, started, route)
        except TimeoutError:
            if route.at_proxy:
                raise OurFault("the egress proxy did not take our connection in time") from None
            return _failed(FailureCode.TIMEOUT_TOTAL, "no complete answer in time", started, route)
        return _answered(response, kept, cut, started, route)

    async def aclose(self) -> None:
        await self._transport.aclose()
        if self._own_resolver is not None:
            self._own_resolver.close()

    async def _send(self, request: httpx.Request) -> tuple[httpx.Response, bytes, bool]:
        response = await self._transport.handle_async_request(request)
        try:
            return response, *await _read_capped(response)
        finally:
            await response.aclose()


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


def _request(
    url: httpx.URL, headers: Sequence[tuple[str, str]], body: bytes, route: Route, trust: Trust
) -> httpx.Request:
    """Built without httpx's client, which would add headers of its own and cost more than the rest of the request."""
    encoded = [*map(_encoded, headers), (b"Accept-Encoding", b"identity")]
    return httpx.Request("POST", url, headers=encoded, content=body, extensions={ROUTE: route, TRUST: trust})


def _encoded(header: tuple[str, str]) -> tuple[bytes, bytes]:
    """The API validates headers when they are stored; what is wrong here is wrong with us and must not be sent."""
    name, value = header
    if name.lower() in _FRAMING:
        raise OurFault(f"the header {name!r} is not the caller's to set")
    try:
        return name.encode("ascii"), value.encode("ascii")
    except UnicodeEncodeError:
        raise OurFault(f"the header {name!r} has characters outside ASCII") from None


async def _read_capped(response: httpx.Response) -> tuple[bytes, bool]:
    """The first bytes of the body as they came, never inflated, and whether there were more."""
    kept = bytearray()
    async for chunk in response.aiter_raw():
        kept += chunk
        if len(kept) > KEPT_BODY_BYTES:
            return bytes(kept[:KEPT_BODY_BYTES]), True
    return bytes(kept), False


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


def _answered(response: httpx.Response, kept: bytes, cut: bool, started: float, route: Route) -> Exchange:
    retry_after = response.headers.get("retry-after")
    return Exchange(
        status=response.status_code,
        failure=None,
        detail=_status_detail(response.status_code),
        duration=_since(started),
        headers=_kept_headers(response.headers.raw),
        body=kept,
        body_truncated=cut,
        peer_address=route.peer_address,
        reused=route.reused,
        redialed=route.redialed,
        retry_after=None if retry_after is None else parse_retry_after(retry_after, datetime.now(UTC)),
    )


def _status_detail(status: int) -> str:
    """Our words, not the endpoint's reason phrase, which may say anything."""
    if 300 <= status < 400:
        return f"HTTP {status} (redirects are not followed)"
    return f"HTTP {status} {PHRASES.get(status, '')}".rstrip()


def _kept_headers(raw: Sequence[tuple[bytes, bytes]]) -> Headers:
    kept: list[tuple[str, str]] = []
    size = 0
    for name, value in ((name.decode("ascii").lower(), value.decode("latin-1")) for name, value in raw):
        size += len(name) + len(value)
        if len(kept) == KEPT_HEADERS or size > KEPT_HEADER_BYTES:
            break
        if name not in _UNSTORED:
            kept.append((name, value))
    return tuple(kept)


def _since(started: float) -> timedelta:
    return timedelta(seconds=time.monotonic() - started)
