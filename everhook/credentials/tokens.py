"""Access tokens of OAuth 2.0 for client credentials (RFC 6749 section 4.4).

Token endpoints are untrusted input, as endpoints are: all requests leave through the guarded egress, which checks
every address, follows no redirects, and bounds time and size. An OAuth library would bring an HTTP client of its own,
past these checks; what is left of the protocol without it is one form and one JSON object.
"""

import asyncio
import re
import time
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from urllib.parse import quote_plus, urlencode

import orjson
from cachetools import LRUCache

from everhook import __version__
from everhook.credentials.auth import basic
from everhook.egress import EgressClient, Exchange, TlsExtras

REQUEST_TIMEOUT = timedelta(seconds=10)
"""For one request to a token endpoint. An attempt waits for less, if its own timeout is shorter."""

MARGIN_S = 30.0
"""A token is not used in the last 30 s, or the last tenth, of its lifetime. A request takes at most 30 s."""

UNSAID_LIFETIME_S = 300.0
"""Of a token whose response has no usable `expires_in`. A receiver that refuses it earlier is noticed by its 401."""

MAX_LIFETIME_S = 12 * 3600.0
MAX_CLIENTS = 5_000

_OK = 200
_REFUSED_CLIENT = frozenset({400, 401})
_TOKEN = re.compile(r"[\x21-\x7e]{1,8192}")
_SECONDS = re.compile(r"[0-9]{1,12}")
_ERRORS = frozenset(
    {
        "invalid_request", "invalid_client", "invalid_grant", "unauthorized_client", "unsupported_grant_type",
        "invalid_scope",
    }
)  # fmt: skip
"""Those of RFC 6749 section 5.2. Other texts of a token endpoint are not repeated: they may hold anything."""


class TokenUnavailable(Exception):
    """A token endpoint issued no usable token. The message is for people, and holds no secret and no address."""


@dataclass(frozen=True)
class TokenClient:
    """Who asks which token endpoint. Endpoints with equal ones share a token. `ca`: authorities that are trusted in
    addition, in PEM."""

    tenant_gid: str
    token_url: str
    client_id: str
    client_secret: str = field(repr=False)
    scope: str | None = None
    audience: str | None = None
    ca: str | None = field(default=None, repr=False)


@dataclass(frozen=True, eq=False)
class Token:
    """An access token. Times are by the monotonic clock, in seconds."""

    value: str = field(repr=False)
    requested_at: float
    good_until: float


@dataclass(eq=False)
class _Slot:
    """What is known of a client. `in_body`: how it presents its secret, once that has worked."""

    token: Token | None = None
    fetch: "asyncio.Task[Token | Exception] | None" = None
    in_body: bool | None = None


class TokenSource:
    """Fetches tokens, and caches them until shortly before they expire. One for each process.

    Concurrent callers share one request (single flight), which continues if a caller gives up.
    """

    def __init__(self, egress: EgressClient) -> None:
        self._egress = egress
        self._slots: LRUCache[TokenClient, _Slot] = LRUCache(MAX_CLIENTS)

    async def get(self, client: TokenClient, patience: timedelta, *, rejected: Token | None = None) -> Token:
        """A token, and not the `rejected` one. Raises TokenUnavailable, and LocalError for a fault of Everhook."""
        slot = self._slots.get(client)
        if slot is None:
            slot = self._slots[client] = _Slot()
        token = slot.token
        if token is not None and token is not rejected and time.monotonic() < token.good_until:
            return token
        if slot.fetch is None:
            slot.fetch = asyncio.create_task(self._fetch(client, slot))
        try:
            async with asyncio.timeout(patience.total_seconds()):
                found = await asyncio.shield(slot.fetch)
        except TimeoutError:
            raise TokenUnavailable("the token endpoint did not respond in time") from None
        if isinstance(found, Exception):
            raise found
        return found

    async def _fetch(self, client: TokenClient, slot: _Slot) -> Token | Exception:
        """Errors are values: if all callers have given up, an exception would never be retrieved."""
        try:
            slot.token = await self._request(client, slot)
        except Exception as error:
            return error
        finally:
            slot.fetch = None
        return slot.token

    async def _request(self, client: TokenClient, slot: _Slot) -> Token:
        """Present the secret as RFC 6749 prefers it, in `Authorization`. If that is refused, try the body once, which
        some servers insist on, and remember what worked."""
        styles = (False, True) if slot.in_body is None else (slot.in_body,)
        for in_body in styles:
            requested_at = time.monotonic()
            exchange = await self._post(client, in_body=in_body)
            if exchange.status == _OK:
                token = _token(exchange, requested_at)
                slot.in_body = in_body
                return token
            if exchange.status not in _REFUSED_CLIENT:
                break
            slot.in_body = None
        raise TokenUnavailable(f"the token endpoint: {exchange.detail}{_error_of(exchange)}")

    async def _post(self, client: TokenClient, *, in_body: bool) -> Exchange:
        fields = {"grant_type": "client_credentials", "scope": client.scope, "audience": client.audience}
        headers = [
            ("content-type", "application/x-www-form-urlencoded"),
            ("accept", "application/json"),
            ("user-agent", f"Everhook/{__version__}"),
        ]
        if in_body:
            fields |= {"client_id": client.client_id, "client_secret": client.client_secret}
        else:  # section 2.3.1: both are encoded as in a form
            headers.append(("authorization", basic(quote_plus(client.client_id), quote_plus(client.client_secret))))
        body = urlencode({name: value for name, value in fields.items() if value is not None}).encode()
        tls = TlsExtras(ca=client.ca) if client.ca is not None else None
        return await self._egress.post(client.token_url, headers, body, REQUEST_TIMEOUT, tls, client.tenant_gid)


def _token(exchange: Exchange, requested_at: float) -> Token:
    document = _document(exchange)
    value, kind = document.get("access_token"), document.get("token_type", "bearer")
    if not isinstance(value, str) or not _TOKEN.fullmatch(value):
        raise TokenUnavailable("the response of the token endpoint has no usable `access_token`")
    if not isinstance(kind, str) or kind.lower() != "bearer":
        raise TokenUnavailable("the response of the token endpoint has a `token_type` other than Bearer")
    return Token(value, requested_at, requested_at + _good_for(document.get("expires_in")))


def _document(exchange: Exchange) -> dict[str, Any]:
    if exchange.body_truncated:
        raise TokenUnavailable("the response of the token endpoint has more than 16 KiB")
    try:
        document = orjson.loads(exchange.body)
    except orjson.JSONDecodeError:
        document = None
    if not isinstance(document, dict):
        raise TokenUnavailable("the response of the token endpoint is not a JSON object")
    return document


def _good_for(expires_in: object) -> float:
    """For how many seconds a token is used. None is too short: callers that waited for the token use it once."""
    if isinstance(expires_in, str) and _SECONDS.fullmatch(expires_in):
        expires_in = int(expires_in)
    if isinstance(expires_in, bool) or not isinstance(expires_in, int | float):
        expires_in = UNSAID_LIFETIME_S
    lifetime = min(max(float(expires_in), 0.0), MAX_LIFETIME_S)
    return lifetime - min(MARGIN_S, lifetime / 10)


def _error_of(exchange: Exchange) -> str:
    try:
        error = orjson.loads(exchange.body).get("error")
    except (orjson.JSONDecodeError, AttributeError):
        return ""
    return f" ({error})" if isinstance(error, str) and error in _ERRORS else ""
