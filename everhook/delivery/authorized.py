"""Requests to endpoints with `auth`: the header that authenticates them, and for OAuth 2.0 the access token."""

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from everhook.contracts import FailureCode
from everhook.credentials.auth import AuthType, EndpointAuth, Header
from everhook.credentials.tokens import Token, TokenClient, TokenSource, TokenUnavailable
from everhook.delivery.snapshot_store import Destination
from everhook.egress import EgressClient, Exchange

UNAUTHORIZED = 401


class AuthorizedClient:
    """Posts with the endpoint's authentication. One for each process: it caches access tokens."""

    def __init__(self, egress: EgressClient) -> None:
        self._egress = egress
        self._tokens = TokenSource(egress)

    async def post(
        self,
        destination: Destination,
        auth: EndpointAuth,
        headers: Sequence[Header],
        body: bytes,
        timeout: timedelta,
    ) -> Exchange:
        """POST within `timeout`, which is for everything: the token, and the request. Raises LocalError.

        A token endpoint that fails is a failure of the endpoint, with the code `auth`.
        """
        if auth.type is not AuthType.OAUTH2:
            return await self._send(destination, [*headers, auth.header()], body, timeout)
        started = time.monotonic()
        try:
            exchange = await self._with_token(destination, auth, headers, body, started, timeout)
        except TokenUnavailable as failure:
            exchange = Exchange(None, FailureCode.AUTH, str(failure), timedelta())
        return replace(exchange, duration=timedelta(seconds=time.monotonic() - started))

    async def _with_token(
        self,
        destination: Destination,
        auth: EndpointAuth,
        headers: Sequence[Header],
        body: bytes,
        started: float,
        timeout: timedelta,
    ) -> Exchange:
        """A 401 for a token from the cache may mean that it was revoked: renew it and send once more, in the same
        attempt. A 401 for a token that was requested for this attempt is the receiver's response."""
        client = _client(destination, auth)

        def left() -> timedelta:
            return timeout - timedelta(seconds=time.monotonic() - started)

        async def send(token: Token) -> Exchange:
            return await self._send(destination, [*headers, auth.header(token.value)], body, left())

        token = await self._tokens.get(client, left() / 2)
        exchange = await send(token)
        if exchange.status != UNAUTHORIZED or token.requested_at >= started:
            return exchange
        exchange = await send(await self._tokens.get(client, left() / 2, rejected=token))
        return replace(exchange, detail=f"{exchange.detail}, with a new token after HTTP 401")

    async def _send(
        self, destination: Destination, headers: Sequence[Header], body: bytes, timeout: timedelta
    ) -> Exchange:
        return await self._egress.post(destination.url, headers, body, timeout, destination.tls, destination.tenant_gid)


def _client(destination: Destination, auth: EndpointAuth) -> TokenClient:
    return TokenClient(
        tenant_gid=destination.tenant_gid,
        token_url=auth.parts["tokenUrl"],
        client_id=auth.parts["clientId"],
        client_secret=auth.secret,
        scope=auth.parts.get("scope"),
        audience=auth.parts.get("audience"),
        ca=destination.tls.ca if destination.tls is not None else None,
    )
