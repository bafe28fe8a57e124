"""Consumers against the real API: streaming, polling where that does not work, leases, failures, and the end."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from everhook_client import AsyncClient, Consumer, Message, Observer, Reject, Retry
from everhook_client.consumer import ConsumerOptions, Timing
from everhook_client.errors import AuthenticationFailed, EverhookError, NotFound
from everhook_client.messages import read_message
from everhook_client.models import LeaseResult
from testing.api import ON_SHARED, ok
from testing.waiting import assert_eventually
from tests.sdk.conftest import Fault, Server, cutting, in_thread, responding

pytestmark = ON_SHARED

QUICK = Timing(hello=30.0, first_pause=0.01, longest_pause=0.05)


class Notes(Observer):
    """What a consumer reports."""

    def __init__(self) -> None:
        self.transports: list[str] = []
        self.fallbacks: list[str] = []
        self.settlements: list[tuple[Any, str, str | None]] = []
        self.failures: list[EverhookError] = []
        self.holds: list[str | None] = []
        self.raised: list[Exception] = []

    def connected(self, transport: str) -> None:
        self.transports.append(transport)

    def fell_back(self, reason: str) -> None:
        self.fallbacks.append(reason)

    def failed(self, error: EverhookError) -> None:
        self.failures.append(error)

    def held(self, reason: str | None) -> None:
        self.holds.append(reason)

    def handler_raised(self, message: Message, error: Exception) -> None:
        self.raised.append(error)

    def settled(self, message: Message, result: LeaseResult, reason: str | None, seconds: float) -> None:
        self.settlements.append((message.payload, result["status"], reason))


@asynccontextmanager
async def consuming(server: Server, gid: str, handler: Any, **options: Any) -> AsyncIterator[tuple[Consumer, Notes]]:
    """A running consumer; at the end of the block it is stopped, and has to end without an error."""
    notes = Notes()
    async with server.async_client() as client:
        consumer = client.consumer(gid, handler, **{"timing": QUICK, "observer": notes, **options})
        running = asyncio.create_task(consumer.run())
        try:
            yield consumer, notes
        finally:
            consumer.stop()
            async with asyncio.timeout(30):
                await running


async def publish(server: Server, channel: str, count: int) -> list[Any]:
    return [await server.api.publish({"n": n}, channel) for n in range(count)]


def numbers(handled: list[Message]) -> list[int]:
    return [message.payload["n"] for message in handled]


def eventually(condition: Callable[[], bool]) -> Any:
    def holds() -> None:
        assert condition()

    return assert_eventually(holds)


@pytest.mark.parametrize("mode", ["auto", "poll"])
async def test_messages_are_handled_and_their_results_reach_the_sender(server: Server, mode: str) -> None:
    channel, gid = await server.endpoint()
    handled: list[Message] = []

    async def handle(message: Message) -> dict[str, int]:
        handled.append(message)
        return {"twice": message.payload["n"] * 2}

    (first,) = await publish(server, channel, 1)
    async with consuming(server, gid, handle, mode=mode, name="worker-3") as (_, notes):
        await eventually(lambda: len(handled) == 1)
        (second,) = await publish(server, channel, 1)
        async with server.async_client() as client:
            result = await client.wait_for(second["messageGid"])
    assert result["deliveries"][0]["result"] == {"twice": 0}
    assert [message.gid for message in handled] == [first["messageGid"], second["messageGid"]]
    assert (handled[0].channel, handled[0].type, handled[0].attempt) == (channel, "order.created", 1)
    assert notes.transports == ["stream" if mode == "auto" else "poll"]
    assert [status for _, status, _ in notes.settlements] == ["acked", "acked"]


async def test_acknowledgements_are_sent_in_batches_and_no_more_than_asked_for_run_at_once(server: Server) -> None:
    channel, gid = await server.endpoint()
    await publish(server, channel, 60)
    running, most, handled = 0, 0, 0

    async def handle(message: Message) -> None:
        nonlocal running, most, handled
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.005)
        running -= 1
        handled += 1

    async with consuming(server, gid, handle, concurrency=20):
        await eventually(lambda: handled == 60)
    assert most == 20
    assert server.proxy.requests.count("POST acks") < 30
    assert await server.attempts(gid) == [("delivered", None)] * 60


async def test_a_function_that_blocks_runs_in_threads_and_can_be_stopped_from_one(server: Server) -> None:
    channel, gid = await server.endpoint()
    await publish(server, channel, 4)
    together = threading.Barrier(2, timeout=5)
    handled: list[int] = []

    def handle(message: Message) -> None:
        together.wait()
        handled.append(message.payload["n"])

    with server.client() as client:
        consumer = client.consumer(gid, handle, concurrency=2, timing=QUICK)
        running = asyncio.create_task(in_thread(consumer.run))
        await eventually(lambda: len(handled) == 4)
        await in_thread(consumer.stop)
        await running
        await publish(server, channel, 2)
        await in_thread(client.consume, gid, handle, concurrency=2, limit=2, timing=QUICK)
    assert sorted(handled) == [0, 0, 1, 1, 2, 3]
    assert await server.attempts(gid) == [("delivered", None)] * 6


async def silent(app: Any, scope: Any, receive: Any, send: Any) -> None:
    """Respond with nothing until the client leaves."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def buffering(app: Any, scope: Any, receive: Any, send: Any) -> None:
    """Hold back everything except the start of the response, as some proxies do."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    await silent(app, scope, receive, send)


FAULTS: dict[str, list[Fault]] = {
    "406": [responding(406)],
    "404 of a proxy": [responding(404)],
    "429": [responding(429, {"retry-after": "9"})],
    "a page": [responding(200, {"content-type": "text/html"})],
    "streams that are cut": [cutting(after_chunks=1)] * 2,
    "no response": [silent],
    "a buffer": [buffering],
}


@pytest.mark.parametrize("faults", FAULTS.values(), ids=FAULTS)
async def test_messages_are_polled_where_streaming_does_not_work(server: Server, faults: list[Fault]) -> None:
    channel, gid = await server.endpoint()
    server.proxy.fail("/stream", *faults)
    handled: list[Message] = []
    timing = replace(QUICK, hello=0.2) if {silent, buffering} & {*faults} else QUICK
    async with consuming(server, gid, handled.append, timing=timing) as (_, notes):
        await eventually(lambda: notes.fallbacks != [])
        await publish(server, channel, 2)
        await eventually(lambda: len(handled) == 2)
    assert notes.transports[-1] == "poll"
    assert await server.attempts(gid) == [("delivered", None)] * 2


async def test_a_silent_stream_is_replaced_and_streaming_is_retried(server: Server) -> None:
    channel, gid = await server.endpoint()
    handled: list[Message] = []
    timing = Timing(silence=0.2, stream_again=0.01)  # the server is silent for 15 s
    async with consuming(server, gid, handled.append, timing=timing) as (_, notes):
        for count in (1, 2):
            await eventually(lambda count=count: len(notes.fallbacks) >= count)  # type: ignore[misc]
            await publish(server, channel, 1)
            await eventually(lambda count=count: len(handled) >= count)  # type: ignore[misc]
        assert notes.transports[:3] == ["stream", "poll", "stream"]
    assert all("nothing was received" in reason for reason in notes.fallbacks)


async def test_a_broken_connection_is_reopened_and_nothing_is_handled_twice(server: Server) -> None:
    channel, gid = await server.endpoint()
    await publish(server, channel, 6)
    server.proxy.fail("/stream", cutting(after_chunks=2))
    server.proxy.fail("/acks", responding(503, {"retry-after": "0"}, after=True), cutting(), responding(502))
    handled: list[Message] = []
    async with consuming(server, gid, handled.append, concurrency=2, prefetch=1) as (_, notes):
        await eventually(lambda: len(handled) == 6)
    assert sorted(numbers(handled)) == list(range(6))
    assert notes.failures != [] and notes.fallbacks == []
    assert await server.attempts(gid) == [("delivered", None)] * 6


async def test_a_lease_is_extended_while_the_handler_works(server: Server) -> None:
    channel, gid = await server.endpoint()
    await publish(server, channel, 2)
    may_end = asyncio.Event()

    async def handle(message: Message) -> None:
        await may_end.wait()

    async def lease_ends() -> list[str]:
        rows = await server.api.rows("SELECT lease_until FROM pull_queue WHERE endpoint_gid = :gid", gid=gid)
        return [row.lease_until for row in rows]

    async with consuming(server, gid, handle, concurrency=1, prefetch=1, lease_seconds=5) as (_, notes):

        async def leased() -> list[str]:
            ends = await lease_ends()
            assert all(ends)
            return ends

        before = await assert_eventually(leased)

        async def later() -> None:
            assert min(await lease_ends()) > max(before)  # also that of the message that waits for its turn

        await assert_eventually(later)
        may_end.set()
        await eventually(lambda: len(notes.settlements) == 2)
    assert await server.attempts(gid) == [("delivered", None)] * 2


class TooSoon(Exception):
    pass


@pytest.mark.parametrize(
    ("raised", "verdict", "detail"),
    [
        (TooSoon("try \ud800 later"), "retry", "TooSoon: try ? later"),
        (Retry("busy", after=60), "retry", "busy"),
        (Reject("no such order"), "rejected", "no such order"),
    ],
)
async def test_a_handler_that_raises_returns_the_message(
    server: Server, raised: Exception, verdict: str, detail: str
) -> None:
    channel, gid = await server.endpoint()
    await publish(server, channel, 1)

    async def handle(message: Message) -> None:
        raise raised

    async with consuming(server, gid, handle) as (_, notes):
        await eventually(lambda: notes.settlements != [])
    assert notes.settlements == [({"n": 0}, "nacked", detail)]
    assert notes.raised == ([raised] if isinstance(raised, TooSoon) else [])
    assert await server.attempts(gid) == [(verdict, "nacked")]
    (row,) = await server.api.rows("SELECT available_at, is_last FROM pull_queue WHERE endpoint_gid = :gid", gid=gid)
    assert bool(row.is_last) == (verdict == "rejected")


@pytest.mark.parametrize(
    "result",
    [lambda: "x" * 20_000, lambda: float("nan"), object, lambda: "\ud800", lambda: json.loads("[" * 960 + "]" * 960)],
    ids=["too large", "nan", "no json", "no text", "too deep"],
)
async def test_a_result_that_cannot_be_sent_is_a_failure(server: Server, result: Callable[[], Any]) -> None:
    channel, gid = await server.endpoint()
    await publish(server, channel, 1)

    async def handle(message: Message) -> Any:
        return result()

    async with consuming(server, gid, handle) as (_, notes):
        await eventually(lambda: notes.settlements != [])
    assert await server.attempts(gid) == [("retry", "nacked")]


async def test_a_stop_finishes_running_handlers_and_returns_the_other_messages(server: Server) -> None:
    channel, gid = await server.endpoint()
    await publish(server, channel, 12)
    begun, may_end = [], asyncio.Event()

    async def handle(message: Message) -> None:
        begun.append(message)
        await may_end.wait()

    async with consuming(server, gid, handle, concurrency=2, prefetch=8) as (consumer, notes):

        async def leased() -> None:
            assert (await server.queue(gid))["leased"] == 10

        await assert_eventually(leased)
        consumer.stop()

        async def given_back() -> None:
            assert (await server.queue(gid))["leased"] == 2

        await assert_eventually(given_back)  # at once, and not when the leases end
        assert notes.settlements == []
        may_end.set()
    assert numbers(begun) == [0, 1]
    assert [status for _, status, _ in notes.settlements] == ["acked", "acked"]
    items = ok(await server.api.get(f"/v1/endpoints/{gid}/poll", limit=100))["data"]
    assert sorted((item["payload"]["n"], item["metadata"]["attempt"]) for item in items) == [
        (n, 1) for n in range(2, 12)
    ]


async def test_a_stop_settles_also_while_the_api_is_unavailable_for_a_moment(server: Server) -> None:
    channel, gid = await server.endpoint()
    await publish(server, channel, 1)
    handled: list[Message] = []

    async def handle(message: Message) -> None:
        server.proxy.fail("/acks", *[responding(503)] * 3)
        handled.append(message)

    async with consuming(server, gid, handle, mode="poll"):
        await eventually(lambda: handled != [])
    assert await server.attempts(gid) == [("delivered", None)]


async def test_a_cancelled_consumer_settles_finished_messages_and_cancels_the_others(server: Server) -> None:
    channel, gid = await server.endpoint()
    await publish(server, channel, 2)
    begun: list[Message] = []
    cancelled: list[Message] = []

    async def handle(message: Message) -> None:
        begun.append(message)
        try:
            await asyncio.sleep(0 if message.payload["n"] == 0 else 60)
        except asyncio.CancelledError:
            cancelled.append(message)
            raise

    async with server.async_client() as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                consuming = asyncio.create_task(client.consume(gid, handle, timing=QUICK))
                await eventually(lambda: len(begun) == 2)
                consuming.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await consuming
                raise TimeoutError
    assert numbers(cancelled) == [1]
    assert await server.attempts(gid) == [("delivered", None)]
    assert (await server.queue(gid))["leased"] == 1  # until its lease ends


async def test_a_permanent_error_ends_a_consumer(server: Server) -> None:
    _, gid = await server.endpoint()
    async with server.async_client() as client, server.async_client("ek_wrong") as unauthenticated:
        for mode in ("auto", "poll"):
            with pytest.raises(NotFound):
                await client.consume("ep_01m83prhbfe23sdyzab24cmhby", print, mode=mode)
            with pytest.raises(AuthenticationFailed):
                await unauthenticated.consume(gid, print, mode=mode)
    wrong: list[ConsumerOptions] = [{"concurrency": 0}, {"limit": 0}]
    for options in wrong:
        with pytest.raises(ValueError, match=next(iter(options))):
            Consumer(client, gid, print, **options)
    with pytest.raises(ValueError, match="after"):
        Retry(after=float("nan"))


async def test_an_observer_that_raises_ends_a_consumer(server: Server) -> None:
    channel, gid = await server.endpoint()
    await publish(server, channel, 1)

    class Strict(Observer):
        def handler_raised(self, message: Message, error: Exception) -> None:
            raise error

    async def handle(message: Message) -> None:
        raise TooSoon

    async with server.async_client() as client:
        with pytest.raises(TooSoon):
            await client.consume(gid, handle, observer=Strict(), timing=QUICK)


async def test_an_endpoint_that_is_paused_is_reported(server: Server) -> None:
    _, gid = await server.endpoint()
    await server.api.change_rows("UPDATE circuit SET hold = 'paused' WHERE endpoint_gid = :gid", gid=gid)
    async with consuming(server, gid, print, mode="poll") as (_, notes):
        pass
    assert notes.holds in ([], ["paused"])


async def test_a_message_that_python_cannot_parse_is_rejected_and_stops_nothing(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel, gid = await server.endpoint()
    await publish(server, channel, 2)
    deep = b'"payload":' + b"[" * 2_000 + b"]" * 2_000

    def read(raw: bytes, event_id: str | None) -> Any:
        return read_message(raw.replace(b'"payload":{"n": 0}', deep), event_id)

    monkeypatch.setattr("everhook_client.consumer.read_message", read)
    handled: list[Message] = []
    async with consuming(server, gid, handled.append):
        await eventually(lambda: len(handled) == 1)
    assert sorted(await server.attempts(gid)) == [("delivered", None), ("rejected", "nacked")]


async def test_a_consumer_needs_a_gid() -> None:
    with pytest.raises(ValueError, match="neither a gid"):
        Consumer(AsyncClient("http://127.0.0.1:9", None), "../channels", print)
