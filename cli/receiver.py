"""The local receiver of `everhook receive` and `everhook simulate`: an ASGI application with planned responses."""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cachetools import LRUCache

from everhook.signing.verify import Verification, verify

MAX_BODY_BYTES = 8 * 1024 * 1024
REMEMBERED = 10_000
UNAUTHORIZED = 401


@dataclass(frozen=True)
class Arrival:
    """A request and the response to it. `verification` is None if there is no secret."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    number: int
    verification: Verification | None
    status: int

    @property
    def message_gid(self) -> str:
        return self.headers.get("webhook-id") or self.headers.get("x-idempotency-key", "")

    @property
    def event_type(self) -> str:
        return self.headers.get("x-webhook-event", "")


@dataclass
class ResponsePlan:
    """Statuses of the responses in order, of which the last repeats; each message starts with the first."""

    statuses: Sequence[int]
    delay_s: float = 0.0
    _requests: LRUCache[str, int] = field(default_factory=lambda: LRUCache(REMEMBERED))

    def next(self, message_gid: str) -> tuple[int, int]:
        """The number of this request for its message, from 1, and the status of its response."""
        number = self._requests[message_gid] = self._requests.get(message_gid, 0) + 1
        return number, self.statuses[min(number, len(self.statuses)) - 1]


class Receiver:
    """Responds with 401 to requests that are not signed with one of the secrets, otherwise as `responses` says."""

    def __init__(self, responses: ResponsePlan, secrets: Sequence[str], on_arrival: Callable[[Arrival], None]) -> None:
        self._responses = responses
        self.secrets = list(secrets)
        self._on_arrival = on_arrival

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body = await _body(receive)
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        checked = verify(headers, body, self.secrets) if self.secrets else None
        number, status = self._responses.next(headers.get("webhook-id", headers.get("x-idempotency-key", "")))
        if checked is not None and not checked.is_genuine:
            status = UNAUTHORIZED
        self._on_arrival(Arrival(scope["method"], scope["path"], headers, body, number, checked, status))
        await asyncio.sleep(self._responses.delay_s)
        await _respond(send, status)


async def _body(receive: Any) -> bytes:
    """Read the body; bytes beyond the limit are discarded."""
    body = bytearray()
    while True:
        message = await receive()
        if len(body) <= MAX_BODY_BYTES:
            body += message.get("body", b"")
        if not message.get("more_body", False):
            return bytes(body[:MAX_BODY_BYTES])


async def _respond(send: Any, status: int) -> None:
    content = json.dumps({"from": "everhook receive", "status": status}).encode()
    if status in (204, 304):
        content = b""
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
