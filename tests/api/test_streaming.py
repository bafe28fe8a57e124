"""Streams of deliveries over real sockets: credit, reconnects, slow clients, and server shutdown."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import httpx
import pytest
import pytest_asyncio
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from api.main import end_streams
from everhook.contracts import DeadLetterReason
from everhook.delivery.store import dead_letter
from everhook.endpoints.service import EndpointService
from everhook.errors import InvalidField
from everhook.notifications.publisher_store import EventPublisher
from everhook.publishing import creation_store
from everhook.pulling import direct, queue_store
from everhook.pulling.queue_store import enqueue
from everhook.pulling.service import PullQueue
from everhook.serving import protocol
from everhook.storage.engine import SQLITE_READERS
from everhook.storage.tables import now
from everhook.streaming import service as streaming
from testing.api import API_KEY, JSON, Api, assert_problem, created, on_a_port
from testing.waiting import PATIENCE_S, assert_eventually
from tests.api.test_pulling import acks, poll, pull_endpoint


@dataclass
class Event:
    name: str
    id: str | None
    data: JSON


@dataclass
class Stream:
    """A client of a stream."""

    response: httpx.Response
    comments: int = 0
    seen: list[Event] = field(default_factory=list)
    arrived: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)

    async def read(self) -> None:
        fields: dict[str, str] = {}
        async for line in self.response.aiter_lines():
            if line.startswith(":"):
                self.comments += 1
            elif line:
                name, _, value = line.partition(": ")
                fields[name] = value
            elif fields:
                self.arrived.put_nowait(Event(fields["event"], fields.get("id"), json.loads(fields["data"])))
                fields = {}

    async def next(self, timeout: float = 5) -> Event:
        event = await asyncio.wait_for(self.arrived.get(), timeout)
        self.seen.append(event)
        return event

    async def take(self, count: int) -> list[Event]:
        events = [await self.next() for _ in range(count)]
        assert {event.name for event in events} == {"message"}
        return events

    async def is_silent(self, seconds: float = 0.4) -> bool:
        try:
            await self.next(seconds)
        except TimeoutError:
            return True
        return False


@dataclass
class Server:
    api: Api
    port: int

    @asynccontextmanager
    async def stream(
        self, gid: str, last_event_id: str | None = None, **params: Any
    ) -> AsyncIterator[tuple[Stream, JSON]]:
        """Connect, and read the first event."""
        headers = {"authorization": f"Bearer {API_KEY}"}
        if last_event_id is not None:
            headers["last-event-id"] = last_event_id
        async with (
            httpx.AsyncClient(timeout=30, trust_env=False, headers=headers) as http,
            http.stream("GET", f"http://127.0.0.1:{self.port}/v1/endpoints/{gid}/stream", params=params) as response,
        ):
            assert response.status_code == 200, (await response.aread()).decode()
            stream = Stream(response)
            reading = asyncio.create_task(stream.read())
            try:
                hello = await stream.next()
                assert hello.name == "hello"
                yield stream, hello.data
            finally:
                reading.cancel()
                await asyncio.wait([reading])

    def limit(self, **limits: Any) -> None:
        streams = self.api.services.streams
        streams.limits = replace(streams.limits, **limits)


@pytest_asyncio.fixture
async def server(api: Api) -> AsyncIterator[Server]:
    async with on_a_port(api.app, lambda: end_streams(api.app)) as port:
        await api.channel()
        yield Server(api, port)


async def publish(api: Api, count: int) -> None:
    for n in range(count):
        await api.publish({"n": n})


async def test_a_stream_hands_out_as_much_as_it_has_credit_for(server: Server) -> None:
    api = server.api
    gid = await pull_endpoint(api, "stream")
    await publish(api, 5)
    async with server.stream(gid, prefetch=2, leaseSeconds=120, consumer="worker-3") as (stream, hello):
        assert stream.response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert stream.response.headers["cache-control"] == "no-store"
        assert stream.response.headers["x-accel-buffering"] == "no"
        assert (hello["prefetch"], hello["leaseSeconds"], hello["released"]) == (2, 120, 0)
        first, second = await stream.take(2)
        assert [event.id for event in (first, second)] == [f"{hello['consumer']}.1", f"{hello['consumer']}.2"]
        assert [event.data["payload"] for event in (first, second)] == [{"n": 0}, {"n": 1}]
        assert await stream.is_silent()
        (consumer,) = (await api.get(f"/v1/endpoints/{gid}/queue")).json()["consumers"]
        assert (consumer["name"], consumer["inFlight"]) == ("worker-3", 2)
    leased = await api.rows("SELECT count(*) AS n FROM pull_queue WHERE consumer IS NOT NULL")
    assert leased[0].n == 2  # the client has them, and may still acknowledge them


async def test_an_acknowledgement_and_a_new_message_wake_a_stream(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the check of the queue once a second."""
    monkeypatch.setattr("everhook.pulling.wake_ups.CHECK_S", 600.0)
    api = server.api
    gid = await pull_endpoint(api, "stream")
    await publish(api, 2)
    async with server.stream(gid, prefetch=1) as (stream, _):
        (first,) = await stream.take(1)
        await acks(api, gid, acks=[{"lease": first.data["lease"]}])
        (second,) = await stream.take(1)
        assert second.data["payload"] == {"n": 1}
        await acks(api, gid, nacks=[{"lease": second.data["lease"], "deadLetter": True}])
        assert await stream.is_silent(0.2)
        await api.publish({"n": 2})
        (third,) = await stream.take(1)
        assert third.data["payload"] == {"n": 2}


async def test_a_client_that_reconnects_gets_unreceived_deliveries_again(server: Server) -> None:
    api = server.api
    gid = await pull_endpoint(api, "stream")
    await publish(api, 3)
    async with server.stream(gid) as (stream, hello):
        events = await stream.take(3)
        async with server.stream(gid, last_event_id=events[0].id) as (again, second_hello):
            assert second_hello["released"] == 2
            assert second_hello["consumer"] != hello["consumer"]
            assert [event.data["payload"] for event in await again.take(2)] == [{"n": 1}, {"n": 2}]
            assert [event.data["metadata"]["attempt"] for event in again.seen[1:]] == [1, 1]
            async with server.stream(gid, last_event_id=again.seen[-1].id, prefetch=0) as (idle, idle_hello):
                assert idle_hello["released"] == 0
            async with server.stream(gid, last_event_id=again.seen[1].id, prefetch=0) as (idle, idle_hello):
                assert idle_hello["released"] == 1
                assert await idle.is_silent(0.2)  # it gave back, and takes nothing
            async with server.stream(gid, last_event_id=again.seen[0].id, prefetch=0) as (_, idle_hello):
                assert idle_hello["released"] == 1  # nothing but its first event arrived
    async with server.stream(gid, last_event_id="nonsense") as (_, third_hello):
        assert third_hello["released"] == 0


async def test_a_client_that_reconnects_during_an_outage_gets_unreceived_deliveries_after_it(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = server.api
    gid = await pull_endpoint(api, "stream")
    await publish(api, 3)
    release, outages = api.services.pulls.release, iter([PoolTimeoutError(), PoolTimeoutError()])

    async def release_after_the_outage(*arguments: Any) -> int:
        for outage in outages:
            raise outage
        return await release(*arguments)

    async with server.stream(gid) as (stream, _):
        events = await stream.take(3)
        monkeypatch.setattr(streaming, "OUTAGE_PAUSE_S", 0.01)
        monkeypatch.setattr(api.services.pulls, "release", release_after_the_outage)
        async with server.stream(gid, last_event_id=events[0].id) as (again, hello):
            assert hello["released"] == 2
            assert [event.data["payload"] for event in await again.take(2)] == [{"n": 1}, {"n": 2}]


@pytest.mark.parametrize("held", ["when they open", "when they claim"])
async def test_streams_that_connect_together_leave_connections_to_the_database_for_others(
    server: Server, monkeypatch: pytest.MonkeyPatch, held: str
) -> None:
    api = server.api
    gid = await pull_endpoint(api, "stream")
    owner, name = (EndpointService, "pulled") if held == "when they open" else (queue_store, "next_available")
    read, may_end = getattr(owner, name), asyncio.Event()

    async def hold(*arguments: Any) -> Any:
        found = await read(*arguments)
        await may_end.wait()
        return found

    async def receive() -> Event:
        async with server.stream(gid, prefetch=1) as (stream, _):
            return await stream.next(PATIENCE_S)

    def turns_are_taken() -> None:
        assert api.services.pulls.turns.locked()

    monkeypatch.setattr(owner, name, hold)
    streams = [asyncio.create_task(receive()) for _ in range(SQLITE_READERS + 4)]
    await assert_eventually(turns_are_taken)
    async with asyncio.timeout(PATIENCE_S):
        await publish(api, len(streams))
        may_end.set()
        events = await asyncio.gather(*streams)
    assert len({event.data["messageGid"] for event in events}) == len(streams)


async def test_a_stream_is_kept_alive_and_ends_after_its_lifetime(server: Server) -> None:
    gid = await pull_endpoint(server.api, "stream")
    server.limit(keep_alive=0.05, lifetime=(0.3, 0.4))
    async with server.stream(gid) as (stream, _):
        bye = await stream.next()
        assert (bye.name, bye.data) == ("bye", {"reason": "rotate"})
        assert stream.comments >= 2


async def test_a_revoked_key_and_a_deleted_endpoint_end_a_stream(server: Server) -> None:
    api = server.api
    server.limit(check=0.1)
    gid = await pull_endpoint(api, "stream")
    async with server.stream(gid) as (stream, _):
        assert (await api.delete(f"/v1/endpoints/{gid}")).status_code in (204, 503)
        await api.change_rows("UPDATE endpoint SET deleted_at = :now WHERE gid = :gid", now="2026-01-01", gid=gid)
        assert (await stream.next()).data == {"reason": "closed"}


async def test_streams_of_a_tenant_that_is_erased_end(server: Server) -> None:
    api = server.api
    server.limit(check=0.1)
    gid = await pull_endpoint(api, "stream", tenant="acme")
    async with server.stream(gid) as (stream, _):
        await api.change_rows("UPDATE tenant SET erasing_since = :now WHERE name = 'acme'", now="2026-01-01 00:00:00.0")
        assert (await stream.next()).data == {"reason": "closed"}


async def test_the_number_of_streams_is_bounded(server: Server) -> None:
    api = server.api
    gid, other = await pull_endpoint(api, "stream"), await pull_endpoint(api, "stream")
    server.limit(per_endpoint=1)
    async with server.stream(gid):
        refused = await api.get(f"/v1/endpoints/{gid}/stream")
        assert gid in assert_problem(refused, 429)["detail"]
        assert 1 <= int(refused.headers["retry-after"]) <= 10
        server.limit(in_all=1)
        assert_problem(await api.get(f"/v1/endpoints/{other}/stream"), 429)
    await assert_eventually(lambda: _assert_open(api, 0))
    async with server.stream(gid):
        pass


def _assert_open(api: Api, count: int) -> None:
    assert len(api.services.streams._open) == count


async def test_a_client_that_does_not_read_is_disconnected_and_the_rest_is_handed_to_another(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "STALLED_S", 1.0)
    api = server.api
    gid = await pull_endpoint(api, "stream")
    for n in range(40):
        await api.publish({"n": n, "filler": "x" * 200_000})
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        client.connect(("127.0.0.1", server.port))
        head = f"GET /v1/endpoints/{gid}/stream?prefetch=500 HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {API_KEY}"
        client.sendall(f"{head}\r\n\r\n".encode())
        await assert_eventually(lambda: _assert_open(api, 1))
        leased = len(await poll(api, gid, limit=100))
        assert leased >= 40 - 25  # a batch has 4 MiB; nothing more is claimed while it is not written
        await assert_eventually(lambda: _assert_open(api, 0))

    async def is_released() -> None:
        assert await poll(api, gid, limit=1)

    await assert_eventually(is_released)


async def test_a_server_that_stops_ends_streams_and_releases_unsent_deliveries(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("everhook.serving.server.GRACE_S", PATIENCE_S)
    await api.channel()
    gid = await pull_endpoint(api, "stream")
    began = 0.0
    async with AsyncExitStack() as stack:
        async with on_a_port(api.app, lambda: end_streams(api.app)) as port:
            server = Server(api, port)
            stream, _ = await stack.enter_async_context(server.stream(gid))
            polled = asyncio.create_task(poll(api, gid, waitSeconds=50))
            await asyncio.sleep(0.1)
            began = time.monotonic()
        assert (await stream.next()).data == {"reason": "shutdown"}
        assert await polled == []
    assert time.monotonic() - began < PATIENCE_S / 2


# Handed out in the transaction that accepts


def cannot_claim(monkeypatch: pytest.MonkeyPatch, api: Api) -> None:
    async def claim(*_: Any) -> Any:
        raise AssertionError("claimed")

    monkeypatch.setattr(api.services.pulls, "claim", claim)


async def offered(api: Api, gid: str) -> None:
    """Wait until a stream offers to take deliveries."""

    def is_offered() -> None:
        assert gid in api.services.streams._direct._offers

    await assert_eventually(is_offered)


async def test_a_stream_that_waits_takes_deliveries_without_a_claim(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = server.api
    gid = await pull_endpoint(api, "stream")
    async with server.stream(gid, prefetch=2) as (stream, hello):
        await offered(api, gid)
        cannot_claim(monkeypatch, api)
        for n in range(5):
            await api.publish({"n": n})
            (event,) = await stream.take(1)
            assert (event.id, event.data["payload"]) == (f"{hello['consumer']}.{n + 1}", {"n": n})
            assert event.data["metadata"]["attempt"] == 1
            assert (await acks(api, gid, acks=[{"lease": event.data["lease"]}]))[0]["status"] == "acked"
            await offered(api, gid)
    assert await api.count("delivery WHERE status = 'delivered'") == 5
    assert await api.count("pull_queue") == 0


async def test_deliveries_beyond_the_credit_or_the_lease_limit_wait(server: Server) -> None:
    api = server.api
    gid = await pull_endpoint(api, "stream", options={"maxInFlight": 3})
    async with server.stream(gid, prefetch=2) as (stream, _), server.stream(gid, prefetch=10) as (other, _):
        await offered(api, gid)
        messages = [{"type": "order.created", "payload": {"n": n}} for n in range(6)]
        await api.post("/v1/channels/orders/messages/batch", {"messages": messages})

        async def leased() -> None:
            assert await api.count("pull_queue WHERE consumer IS NOT NULL") == 3

        await assert_eventually(leased)
        assert len(stream.seen) + stream.arrived.qsize() <= 1 + 2
        while not (stream.arrived.empty() and other.arrived.empty() and await api.count("pull_queue") == 0):
            for each in (stream, other):
                if not each.arrived.empty():
                    await acks(api, gid, acks=[{"lease": (await each.next()).data["lease"]}])
            await asyncio.sleep(0.01)
    taken = [event.data["payload"]["n"] for each in (stream, other) for event in each.seen if event.name == "message"]
    assert sorted(taken) == list(range(6))


async def test_a_stream_that_may_not_take_deliveries_from_publishes_claims_them(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On PostgreSQL that is one of an endpoint with `maxInFlight`."""
    monkeypatch.setattr(PullQueue, "may_offer", lambda *_: False)
    offers: list[direct.Offer] = []

    def note(_: object, offer: direct.Offer) -> AbstractContextManager[None]:
        offers.append(offer)
        return nullcontext()

    monkeypatch.setattr(direct.DirectHandOut, "offered", note)
    gid = await pull_endpoint(server.api, "stream", options={"maxInFlight": 3})
    async with server.stream(gid) as (stream, _):
        for n in range(2):
            await server.api.publish({"n": n})
            (event,) = await stream.take(1)
            assert event.data["payload"] == {"n": n}
    assert offers == []


async def test_a_publish_that_fails_does_not_change_the_stream(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    api = server.api
    gid = await pull_endpoint(api, "stream")
    async with server.stream(gid) as (stream, _):
        await offered(api, gid)
        with monkeypatch.context() as broken:
            broken.setattr(creation_store, "enqueue", _fails)
            assert_problem(await api.post("/v1/channels/orders/messages", {"type": "a", "payload": {}}), 422)
        await api.publish({"n": 1})
        (event,) = await stream.take(1)
        assert (event.data["payload"], event.data["metadata"]["attempt"]) == ({"n": 1}, 1)


async def test_all_leases_of_a_commit_without_a_response_are_released(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "MAX_BATCH", 2)
    api = server.api
    gid = await pull_endpoint(api, "stream")
    async with server.stream(gid) as (stream, _):
        await offered(api, gid)
        with monkeypatch.context() as broken:
            broken.setattr(direct._Transaction, "end", _end_without_a_response)
            messages = [{"type": "order.created", "payload": {"n": n}} for n in range(5)]
            await api.post("/v1/channels/orders/messages/batch", {"messages": messages})
            events = await stream.take(5)
        assert sorted(event.data["payload"]["n"] for event in events) == list(range(5))
        assert {event.data["metadata"]["attempt"] for event in events} == {1}


def _end_without_a_response(self: Any, _: bool) -> None:
    for endpoint in self._endpoints.values():
        for hand in endpoint.hands:
            hand.offer.settle(None)


async def _fails(*_: Any) -> None:
    raise InvalidField("payload", "fails after the hand-out")


async def test_a_delivery_for_a_stream_that_has_left_is_handed_to_another_at_once(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = server.api
    gid = await pull_endpoint(api, "stream")
    reached, may_continue = asyncio.Event(), asyncio.Event()

    async def slow(*arguments: Any) -> None:
        reached.set()
        await may_continue.wait()
        await enqueue(*arguments)

    async with server.stream(gid):
        await offered(api, gid)
        monkeypatch.setattr(creation_store, "enqueue", slow)
        publishing = asyncio.create_task(api.publish({"n": 1}))
        await reached.wait()
    await assert_eventually(lambda: _assert_open(api, 0))  # it left while its lease was not committed
    may_continue.set()
    await publishing

    async def is_released() -> None:
        assert [item["metadata"]["attempt"] for item in await poll(api, gid, limit=1)] == [1]

    await assert_eventually(is_released)


async def test_an_event_about_a_dead_letter_carries_the_payload_to_a_stream_that_waits(server: Server) -> None:
    api = server.api
    await api.endpoint(channel="orders")
    gid = created(await api.post("/v1/endpoints", {"mode": "stream"}))["endpointGid"]
    wanted = {"endpointGid": gid, "channel": "everhook.events", "includePayload": True}
    created(await api.post("/v1/subscriptions", wanted))
    (delivery,) = (await api.publish({"secret": 1}))["deliveries"]
    async with server.stream(gid) as (stream, _):
        async with api.database.writing() as session:
            until = now() + timedelta(days=1)
            await dead_letter(session, delivery["deliveryGid"], 1, DeadLetterReason.REJECTED, until)
        await EventPublisher(api.database, api.services.messages._acceptor).publish_some()
        (event,) = await stream.take(1)
    assert event.data["payload"]["data"]["payload"] == {"secret": 1}
