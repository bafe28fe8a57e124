"""A publisher that behaves as a good one should: an idempotency key for each message, and retries with the same key."""

import asyncio
import json
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from testing.arrivals import sha256
from testing.ledgers import Ack, AckedDelivery, PublisherLedger, PublishWithoutResponse

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
    """The API responded with a status that a retry will not change."""

    def __init__(self, response: httpx.Response) -> None:
        super().__init__(f"{response.status_code}: {response.text[:500]}")
        self.status_code = response.status_code


class Publisher:
    """Publishes over HTTP and writes down each `202`, and each publish that never got a response.

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
        self._subscribed: dict[str, list[str]] = defaultdict(list)
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
        if channel is not None:
            self._subscribed[channel].append(endpoint.gid)
        return endpoint

    async def publish(
        self,
        channel: str,
        payload: bytes,
        *,
        type: str | None = None,
        key: str | None = None,
        due: float | None = None,
        **options: Any,
    ) -> Ack | None:
        """Publish one message; None if it was given up without a response. Raises PublishRefused on a 4xx.

        `options` as the API names them (`groupKey`, `endpointGid`, `retry`, …). The endpoints of a scheduled message
        are those that `create_endpoint` subscribed to the channel, without `events`.
        """
        key = key or str(uuid.uuid4())
        outgoing = _Outgoing(channel, payload, key, {"type": type, **options})
        path = f"/v1/channels/{channel}/messages"
        call = await self._persist(path, key, outgoing.body())
        if isinstance(call, str):
            self.ledger.gave_up(PublishWithoutResponse(key, sha256(payload), call))
            return None
        return self._acked(call.response, outgoing, call, due)

    async def publish_transactional(
        self, channel: str, payloads: Sequence[bytes], options: Sequence[Mapping[str, Any]]
    ) -> list[Ack]:
        """Publish messages in one transaction, each with its options; none if it was given up without a response."""
        key = str(uuid.uuid4())
        outgoing = [
            _Outgoing(channel, payload, f"{key}[{index}]", each)
            for index, (payload, each) in enumerate(zip(payloads, options, strict=True))
        ]
        body = b'{"messages":[' + b",".join(each.body(channel=channel) for each in outgoing) + b"]}"
        call = await self._persist("/v1/messages/transactional", key, body)
        if isinstance(call, str):
            for each in outgoing:
                self.ledger.gave_up(PublishWithoutResponse(each.key, sha256(each.payload), call))
            return []
        found = call.response["data"]
        return [self._acked(response, each, call) for each, response in zip(outgoing, found, strict=True)]

    async def cancel(self, ack: Ack) -> bool:
        """Cancel a scheduled message, persistently. False if it was too late."""
        call = await self._persist(f"/v1/messages/{ack.message_gid}/cancel", str(uuid.uuid4()), b"", good=(200, 409))
        assert not isinstance(call, str), call
        if call.status == 200:
            self.ledger.was_cancelled(ack.message_gid)
        return call.status == 200

    async def _persist(self, path: str, key: str, body: bytes, good: Collection[int] = (202,)) -> "_Call | str":
        """Call until there is a response; or why there was none in `patience` seconds."""
        started = time.monotonic()
        error, tries = "", 0
        while time.monotonic() - started < self._patience:
            result = await self._try(path, key, body, good)
            tries += 1
            if isinstance(result, httpx.Response):
                return _Call(result.json(), result.status_code, tries, started, time.monotonic())
            error = result
            await asyncio.sleep(_BACKOFF_SECONDS[min(tries, len(_BACKOFF_SECONDS)) - 1])
        return error

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
        """Publish `n` messages and return those that were acknowledged.

        Closed loop: `concurrency` at a time. With `rate` open loop: message i is sent at i / rate seconds,
        independently of those before it, so that a stall shows in the latencies (count them from `Ack.due`).
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

    async def _try(self, path: str, key: str, body: bytes, good: Collection[int]) -> httpx.Response | str:
        """The response, or why there is none yet (no connection, 429, 5xx)."""
        headers = {"idempotency-key": key, "content-type": "application/json"}
        try:
            response = await self._client.post(path, content=body, headers=headers)
        except httpx.TransportError as error:
            return repr(error)
        if response.status_code == 429 or response.status_code >= 500:
            return f"{response.status_code}: {response.text[:200]}"
        if response.status_code not in good:
            raise PublishRefused(response)
        return response

    def _acked(
        self, response: Mapping[str, Any], outgoing: "_Outgoing", call: "_Call", due: float | None = None
    ) -> Ack:
        deliveries = [(each["deliveryGid"], each["endpointGid"]) for each in response["deliveries"]]
        deliver_at = response.get("deliverAt")
        if deliver_at is not None and not deliveries:
            target = outgoing.options.get("endpointGid")
            deliveries = [("", gid) for gid in ([target] if target else self._subscribed[outgoing.channel])]
        ack = Ack(
            outgoing.key,
            response["messageGid"],
            sha256(outgoing.payload),
            tuple(AckedDelivery(gid, endpoint, self.endpoints[endpoint]) for gid, endpoint in deliveries),
            bool(response.get("duplicate", False)),
            tries=call.tries,
            due=due or call.started,
            sent=call.started,
            responded=call.responded,
            at=time.time(),
            not_before=datetime.fromisoformat(deliver_at).timestamp() if deliver_at is not None else 0.0,
            group=outgoing.options.get("groupKey"),
            retry=outgoing.options.get("retry", True),
        )
        self.ledger.acked(ack)
        return ack


@dataclass(frozen=True)
class _Outgoing:
    channel: str
    payload: bytes
    key: str
    options: Mapping[str, Any]

    def body(self, **more: Any) -> bytes:
        """The request with the payload's bytes as they are: a JSON library would write them its own way."""
        given = {**more, **self.options}
        head = b"".join(f'"{name}":{json.dumps(value)},'.encode() for name, value in given.items() if value is not None)
        return b"{" + head + b'"payload":' + self.payload + b"}"


@dataclass(frozen=True)
class _Call:
    """A call that got a response. Times are monotonic."""

    response: Any
    status: int
    tries: int
    started: float
    responded: float


async def create_channel(client: httpx.AsyncClient, name: str, policy: Mapping[str, Any] | None = None) -> None:
    body = {"name": name} if policy is None else {"name": name, "policy": dict(policy)}
    _created(await client.post("/v1/channels", json=body))


async def create_endpoint(
    client: httpx.AsyncClient, url: str, channel: str | None = None, events: Sequence[str] | None = None, **more: Any
) -> CreatedEndpoint:
    """`more`: further fields of the request, as the API names them (`rateLimit`, `policy`, `format`, …)."""
    given = {"url": url, "channel": channel, "events": None if events is None else list(events), **more}
    body = {name: value for name, value in given.items() if value is not None}
    created = _created(await client.post("/v1/endpoints", json=body)).json()
    return CreatedEndpoint(created["endpointGid"], url, created["secret"])


def _created(response: httpx.Response) -> httpx.Response:
    if response.status_code != 201:
        raise AssertionError(
            f"{response.request.method} {response.request.url}: {response.status_code} {response.text}"
        )
    return response
