"""A publisher that behaves as a good one should: an idempotency key for each message, and retries with the same key."""

import asyncio
import json
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx

from testing.arrivals import sha256
from testing.ledgers import Ack, AckedDelivery, PublisherLedger, Unanswered

Payload = Callable[[int], bytes]
_BACKOFF_SECONDS = (0.05, 0.1, 0.2, 0.4, 0.8)


def sample_payload(n: int) -> bytes:
    """A payload whose very bytes matter: odd white space, number forms, escapes, UTF-8. Unique for each `n`."""
    return f'{{ "event":"order.created", "n":{n},"total": 10.10, "e":1E2,"note":"Zoë \\u00e9\\/ \\n ☂" }}'.encode()


@dataclass(frozen=True)
class CreatedEndpoint:
    gid: str
    url: str
    secret: str


class PublishRefused(Exception):
    """The API answered with a status that a retry will not change."""

    def __init__(self, response: httpx.Response) -> None:
        super().__init__(f"{response.status_code}: {response.text[:500]}")
        self.status_code = response.status_code


class Publisher:
    """Publishes over HTTP and writes down each `202`, and each publish that never got an answer.

    Endpoints must be made by `create_endpoint`, or named in `endpoints` (gid → URL), so that the ledger says where
    each delivery is promised to arrive. A publish is given up after `patience` seconds of errors.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        *,
        ledger: Path | None = None,
        endpoints: Mapping[str, str] | None = None,
        patience: float = 60.0,
    ) -> None:
        self.ledger = PublisherLedger(ledger)
        self.endpoints = dict(endpoints or {})
        self._client = client
        self._patience = patience

    @property
    def acks(self) -> list[Ack]:
        return self.ledger.acks

    async def create_channel(self, name: str, policy: Mapping[str, Any] | None = None) -> None:
        await create_channel(self._client, name, policy)

    async def create_endpoint(
        self, url: str, channel: str | None = None, events: Sequence[str] | None = None, **more: Any
    ) -> CreatedEndpoint:
        endpoint = await create_endpoint(self._client, url, channel, events, **more)
        self.endpoints[endpoint.gid] = url
        return endpoint

    async def publish(
        self,
        channel: str,
        payload: bytes,
        *,
        type: str | None = None,
        key: str | None = None,
        due: float | None = None,
        group: str | None = None,
    ) -> Ack | None:
        """Publish one message; None if it was given up without an answer. Raises PublishRefused on a 4xx."""
        key = key or str(uuid.uuid4())
        body = _body(payload, type, group)
        started = time.monotonic()
        error, tries = "", 0
        while time.monotonic() - started < self._patience:
            answer = await self._try(channel, key, body)
            tries += 1
            if isinstance(answer, httpx.Response):
                return self._acked(answer, payload, key, tries, started, due)
            error = answer
            await asyncio.sleep(_BACKOFF_SECONDS[min(tries, len(_BACKOFF_SECONDS)) - 1])
        self.ledger.gave_up(Unanswered(key, sha256(payload), error))
        return None

    async def publish_many(
        self,
        channel: str,
        n: int,
        *,
        concurrency: int = 16,
        rate: float | None = None,
        payload: Payload = sample_payload,
        type: str | None = None,
    ) -> list[Ack]:
        """Publish `n` messages and answer with those acknowledged.

        Closed loop: `concurrency` at a time. With `rate` open loop: message i is sent at i / rate seconds whatever
        became of those before it, so that a stall shows in the latencies (count them from `Ack.due`).
        """
        if rate is not None:
            acks = await self._open_loop(channel, n, rate, payload, type)
        else:
            acks = await self._closed_loop(channel, n, concurrency, payload, type)
        return [ack for ack in acks if ack is not None]

    async def _closed_loop(
        self, channel: str, n: int, concurrency: int, payload: Payload, type: str | None
    ) -> list[Ack | None]:
        slots = asyncio.Semaphore(concurrency)

        async def one(i: int) -> Ack | None:
            async with slots:
                return await self.publish(channel, payload(i), type=type)

        return await asyncio.gather(*(one(i) for i in range(n)))

    async def _open_loop(
        self, channel: str, n: int, rate: float, payload: Payload, type: str | None
    ) -> list[Ack | None]:
        start = time.monotonic()

        async def one(i: int) -> Ack | None:
            due = start + i / rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            return await self.publish(channel, payload(i), type=type, due=due)

        return await asyncio.gather(*(one(i) for i in range(n)))

    async def _try(self, channel: str, key: str, body: bytes) -> httpx.Response | str:
        """The answer, or why there is none yet (no connection, 429, 5xx)."""
        headers = {"idempotency-key": key, "content-type": "application/json"}
        try:
            response = await self._client.post(f"/v1/channels/{channel}/messages", content=body, headers=headers)
        except httpx.TransportError as error:
            return repr(error)
        if response.status_code == 429 or response.status_code >= 500:
            return f"{response.status_code}: {response.text[:200]}"
        if response.status_code != 202:
            raise PublishRefused(response)
        return response

    def _acked(
        self, response: httpx.Response, payload: bytes, key: str, tries: int, started: float, due: float | None
    ) -> Ack:
        answered = time.monotonic()
        ack = ack_of(response.json(), payload, key, self.endpoints)
        ack = replace(ack, tries=tries, due=due or started, sent=started, answered=answered, at=time.time())
        self.ledger.acked(ack)
        return ack


def ack_of(answer: Mapping[str, Any], payload: bytes, key: str, endpoints: Mapping[str, str]) -> Ack:
    """The promise in the body of a `202` (or in one answer of a batch). KeyError: an endpoint not created here."""
    deliveries = tuple(
        AckedDelivery(delivery["deliveryGid"], delivery["endpointGid"], endpoints[delivery["endpointGid"]])
        for delivery in answer["deliveries"]
    )
    return Ack(key, answer["messageGid"], sha256(payload), deliveries, bool(answer.get("duplicate", False)))


def _body(payload: bytes, type: str | None, group: str | None = None) -> bytes:
    """The request with the payload's bytes as they are: a JSON library would write them its own way."""
    given = {"type": type, "groupKey": group}
    head = b"".join(f'"{name}":{json.dumps(value)},'.encode() for name, value in given.items() if value is not None)
    return b"{" + head + b'"payload":' + payload + b"}"


async def create_channel(client: httpx.AsyncClient, name: str, policy: Mapping[str, Any] | None = None) -> None:
    body = {"name": name} if policy is None else {"name": name, "policy": dict(policy)}
    _created(await client.post("/v1/channels", json=body))


async def create_endpoint(
    client: httpx.AsyncClient, url: str, channel: str | None = None, events: Sequence[str] | None = None, **more: Any
) -> CreatedEndpoint:
    """`more`: further fields of the request, as the API names them (`rateLimit`, `policy`, `format`, …)."""
    given = {"url": url, "channel": channel, "events": None if events is None else list(events), **more}
    body = {name: value for name, value in given.items() if value is not None}
    answer = _created(await client.post("/v1/endpoints", json=body)).json()
    return CreatedEndpoint(answer["endpointGid"], url, answer["secret"])


def _created(response: httpx.Response) -> httpx.Response:
    if response.status_code != 201:
        raise AssertionError(
            f"{response.request.method} {response.request.url}: {response.status_code} {response.text}"
        )
    return response
