"""A token endpoint of OAuth 2.0 (client credentials) on loopback, and a receiver that takes its tokens: real sockets.

`TokenServer.respond` makes it misbehave, as it does for any receiver of the tests.
"""

import base64
import json
import ssl
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote_plus

from testing.arrivals import Arrival
from testing.receiver import Receiver
from testing.script import Response, Step

TOKEN_PATH = "/token"
CLIENT_ID, CLIENT_SECRET = "client:1", "s3cret of the client/%"


@dataclass
class Issued:
    """A token, and when it ends by the monotonic clock."""

    value: str
    ends_at: float
    form: dict[str, str]
    in_body: bool


@dataclass
class TokenRules:
    """The tokens that a server issues, and the client authentication that it accepts. `token`: always this one."""

    expires_in: Any = 3600
    takes_header: bool = True
    takes_body: bool = True
    delay: float = 0.0
    token: str | None = None
    more: dict[str, Any] = field(default_factory=lambda: {"token_type": "Bearer"})


class TokenServer(Receiver):
    """Issues `token-1`, `token-2`, … to one client."""

    def __init__(self, *, ssl_context: ssl.SSLContext | None = None) -> None:
        super().__init__(ssl_context=ssl_context)
        self.rules = TokenRules()
        self.client = (CLIENT_ID, CLIENT_SECRET)
        self.issued: list[Issued] = []
        self.scripted = False

    @property
    def token_url(self) -> str:
        return self.url_for(TOKEN_PATH)

    def auth(self, **more: str) -> dict[str, str]:
        """The `auth` of an endpoint whose receiver wants its tokens."""
        client = {"clientId": CLIENT_ID, "clientSecret": CLIENT_SECRET}
        return {"type": "oauth2", "tokenUrl": self.token_url, **client, **more}

    def misbehave(self, *steps: Step) -> None:
        """Respond with these steps to any request."""
        self.scripted = True
        self.respond(*steps)

    def behave(self) -> None:
        self.scripted = False

    def is_live(self, token: str) -> bool:
        return any(each.value == token and time.monotonic() < each.ends_at for each in self.issued)

    def revoke(self) -> None:
        """End all tokens at once. Their clients are not notified."""
        for each in self.issued:
            each.ends_at = 0.0

    def _arrive(self, arrival: Arrival) -> Step:
        step = super()._arrive(arrival)
        return step if self.scripted else self._respond(arrival)

    def _respond(self, arrival: Arrival) -> Response:
        form = {name: values[0] for name, values in parse_qs(arrival.body.decode()).items()}
        header = arrival.header("authorization")
        in_body = header is None
        if form.get("grant_type") != "client_credentials":
            return _json(400, {"error": "unsupported_grant_type"}, self.rules.delay)
        allowed = self.rules.takes_body if in_body else self.rules.takes_header
        if not allowed or _client(header, form) != self.client:
            return _json(401, {"error": "invalid_client"}, self.rules.delay)
        lifetime = self.rules.expires_in if isinstance(self.rules.expires_in, int | float) else 3600
        value = self.rules.token or f"token-{len(self.issued) + 1}"
        self.issued.append(Issued(value, time.monotonic() + lifetime, form, in_body))
        document = {"access_token": value, "expires_in": self.rules.expires_in, **self.rules.more}
        return _json(200, document, self.rules.delay)


class GuardedReceiver(Receiver):
    """Takes requests with a live token of a server, and refuses others with 401."""

    def __init__(self, tokens: TokenServer) -> None:
        super().__init__()
        self._tokens = tokens
        self.refused = 0

    def _arrive(self, arrival: Arrival) -> Step:
        step = super()._arrive(arrival)
        scheme, _, token = (arrival.header("authorization") or "").partition(" ")
        if scheme == "Bearer" and self._tokens.is_live(token):
            return step
        self.refused += 1
        return Response(401)


def _client(header: str | None, form: dict[str, str]) -> tuple[str, str]:
    if header is None:
        return form.get("client_id", ""), form.get("client_secret", "")
    name, _, secret = base64.b64decode(header.removeprefix("Basic ")).decode().partition(":")
    return unquote_plus(name), unquote_plus(secret)


def _json(status: int, document: dict[str, Any], delay: float) -> Response:
    headers = (("content-type", "application/json"), ("cache-control", "no-store"))
    return Response(status, json.dumps(document).encode(), headers, delay)
