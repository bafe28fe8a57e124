"""From a committed delivery to its first attempt, its workflow, or both."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.exc import DataError, OperationalError
from structlog.testing import capture_logs

from everhook.circuit import states_store as endpoint_states
from everhook.circuit.machine import CircuitState, Hold
from everhook.contracts import (
    AttemptRecord,
    DeadLetterReason,
    DeliveryInput,
    DeliveryMode,
    DeliveryStatus,
    PreviousAttempt,
    Verdict,
)
from everhook.delivery import dispatcher as module
from everhook.delivery import sender
from everhook.delivery.classify import classify
from everhook.delivery.dispatcher import Dispatcher, LaneLimits
from everhook.delivery.history import History, HistoryLimits
from everhook.delivery.inputs import NewDelivery
from everhook.delivery.inputs_store import InputDefaults, load_input
from everhook.delivery.recorder_store import Recorder, Transcript
from everhook.endpoints import store as endpoints
from everhook.storage.engine import Database
from everhook.storage.tables import Delivery, Endpoint, now
from testing.receiver import Fault, Response
from testing.waiting import assert_eventually
from tests.activities.desk import Desk
from tests.delivery.fakes import FakeTemporal
from tests.stores.factories import accepted, publication
from tests.stores.plans import executed

HOUR = timedelta(hours=1)
FAILED = classify(503)
NARROW = LaneLimits(in_flight=1)
"""One attempt at a time to an endpoint: the others wait."""


class Kept(History):
    """Keeps the orders of what this process delivered."""

    def __init__(self) -> None:
        self.inputs: list[DeliveryInput] = []
        self.replayed: list[str] = []

    def add(self, delivery: DeliveryInput, *, replayed: bool = False) -> None:
        self.inputs.append(delivery)
        if replayed:
            self.replayed.append(delivery.delivery_gid)


@pytest.fixture
def kept() -> Kept:
    return Kept()


@asynccontextmanager
async def running(dispatcher: Dispatcher, kept: Kept) -> AsyncIterator[Dispatcher]:
    dispatcher.keep_history(kept)
    try:
        yield dispatcher
    finally:
        await dispatcher.close()


@pytest.fixture
async def dispatcher(desk: Desk, temporal: FakeTemporal, kept: Kept) -> AsyncIterator[Dispatcher]:
    async with running(desk.dispatcher(temporal), kept) as dispatcher:
        yield dispatcher


async def subscribed(desk: Desk, **changes: Any) -> Endpoint:
    endpoint = await desk.endpoint(**changes)
    await desk.store.channel()
    await desk.store.subscription(endpoint)
    return endpoint


async def accept(desk: Desk, count: int = 1, content: Any = None) -> list[NewDelivery]:
    """Commit this many messages, one delivery each."""
    acceptances = await desk.store.acceptor().accept_all([publication(content) for _ in range(count)])
    return [new for acceptance in acceptances for new in accepted(acceptance).new]


def gids(deliveries: list[NewDelivery]) -> list[str]:
    return [new.input.delivery_gid for new in deliveries]


async def row_of(desk: Desk, new: NewDelivery) -> Delivery:
    async with desk.store.database.reading() as session:
        return await session.get_one(Delivery, new.input.delivery_gid)


async def until_idle(dispatcher: Dispatcher) -> None:
    def idle() -> None:
        assert dispatcher.is_idle

    await assert_eventually(idle)


def arrived(desk: Desk) -> list[str]:
    return [arrival.id for arrival in desk.receiver.arrivals]


def messages(deliveries: list[NewDelivery]) -> list[str]:
    return [new.input.message_gid for new in deliveries]


# The first attempt, and then the workflow


async def test_a_delivery_to_a_healthy_endpoint_is_made_at_once_and_its_workflow_shows_it(
    desk: Desk, temporal: FakeTemporal, dispatcher: Dispatcher, kept: Kept
) -> None:
    await subscribed(desk)
    (new,) = await accept(desk)
    dispatcher.dispatch([new])
    await until_idle(dispatcher)
    attempt = await desk.attempt(await row_of(desk, new))
    (input,) = kept.inputs
    assert input.is_delivered and input.previous is not None
    assert (input.delivery_gid, input.attempt, input.previous.next_attempt_at) == (new.input.delivery_gid, 1, None)
    outcome = input.previous.outcome
    assert (outcome.attempt_gid, outcome.status_code, outcome.duration_ms) == (attempt.gid, 200, attempt.duration_ms)
    assert (arrived(desk), temporal.tried) == ([new.input.message_gid], [])
    assert (await row_of(desk, new)).status is DeliveryStatus.DELIVERED


async def test_a_settled_workflow_is_started_with_the_attempt_that_delivered(
    desk: Desk, temporal: FakeTemporal
) -> None:
    dispatcher = desk.dispatcher(temporal)
    history = History(temporal.client, desk.store.database, dispatcher.traffic, HistoryLimits())
    dispatcher.keep_history(history)
    await subscribed(desk)
    deliveries = await accept(desk, 3)
    dispatcher.dispatch(deliveries)

    def all_started() -> None:
        assert sorted(temporal.started) == sorted(gids(deliveries))

    await assert_eventually(all_started)
    assert all(input.is_delivered for input in temporal.inputs)
    await dispatcher.close()
    await history.close()


async def test_a_delivery_of_a_replay_is_attempted_here_and_is_no_fresh_traffic(
    desk: Desk, temporal: FakeTemporal, dispatcher: Dispatcher, kept: Kept
) -> None:
    await subscribed(desk)
    first, second = await accept(desk, 2)
    assert dispatcher.attempt_replayed(first)
    assert not dispatcher.traffic.is_busy
    await until_idle(dispatcher)
    assert not dispatcher.traffic.flows
    dispatcher.dispatch([second])
    assert dispatcher.traffic.is_busy
    await until_idle(dispatcher)
    assert (dispatcher.traffic.is_busy, dispatcher.traffic.flows) == (False, True)
    assert arrived(desk) == messages([first, second])
    assert [input.delivery_gid for input in kept.inputs] == gids([first, second])
    assert kept.replayed == gids([first])


async def test_a_replay_whose_first_attempt_failed_continues_with_a_lower_priority(
    desk: Desk, temporal: FakeTemporal, dispatcher: Dispatcher
) -> None:
    desk.receiver.respond(500)
    await subscribed(desk)
    (new,) = await accept(desk)
    assert dispatcher.attempt_replayed(new)
    await until_idle(dispatcher)
    (start,) = temporal.starts
    assert start.options["priority"].priority_key == 4


async def test_a_delivery_that_is_older_than_its_replay_is_left_to_a_workflow(
    desk: Desk, dispatcher: Dispatcher
) -> None:
    await subscribed(desk)
    (new,) = await accept(desk)
    assert not dispatcher.attempt_replayed(NewDelivery(new.input))
    assert arrived(desk) == []


async def test_without_a_history_a_delivery_delivered_at_once_makes_no_call_to_temporal(
    desk: Desk, temporal: FakeTemporal
) -> None:
    dispatcher = desk.dispatcher(temporal)
    await subscribed(desk)
    dispatcher.dispatch(await accept(desk, 5))
    await dispatcher.close()
    assert (desk.receiver.count, temporal.tried) == (5, [])


async def test_a_first_attempt_reads_nothing_back_that_the_process_has_in_memory(
    desk: Desk, temporal: FakeTemporal, kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FRESH_S", 60.0)
    monkeypatch.setattr(endpoint_states, "FRESH_S", 0.0)
    await subscribed(desk)
    async with running(desk.dispatcher(temporal), kept) as dispatcher:
        dispatcher.dispatch(await accept(desk))
        await until_idle(dispatcher)
        later = await accept(desk, 3)
        statements = executed(desk.store.database)
        dispatcher.dispatch(later)
        await until_idle(dispatcher)
    assert statements and not [sql for sql in statements if sql.lstrip().upper().startswith("SELECT")]


@pytest.mark.parametrize(
    ("step", "verdict"),
    [
        (500, Verdict.RETRY),
        (Fault.RESET, Verdict.RETRY),
        (Response(429, headers=(("retry-after", "90"),)), Verdict.RETRY),
        (404, Verdict.REJECTED),
    ],
    ids=["failed", "no response", "named a time to come back", "rejected"],
)
async def test_a_first_attempt_that_does_not_deliver_starts_a_workflow_with_its_outcome(
    desk: Desk, temporal: FakeTemporal, dispatcher: Dispatcher, kept: Kept, step: Any, verdict: Verdict
) -> None:
    desk.receiver.respond(step)
    await subscribed(desk)
    (new,) = await accept(desk)
    dispatcher.dispatch([new])
    await until_idle(dispatcher)
    attempt = await desk.attempt(await row_of(desk, new))
    (input,) = temporal.inputs
    assert input.attempt == 1 and input.previous is not None
    assert (input.previous.outcome.verdict, input.previous.outcome.attempt_gid) == (verdict, attempt.gid)
    assert input.previous.next_attempt_at == attempt.next_attempt_at
    assert (attempt.next_attempt_at is not None) == (verdict is Verdict.RETRY)
    assert kept.inputs == []


async def test_a_message_that_cannot_be_sent_starts_a_workflow_that_tries_again(
    desk: Desk, temporal: FakeTemporal, dispatcher: Dispatcher
) -> None:
    await subscribed(desk, headers={"x-a": "trailing blank "})
    deliveries = await accept(desk, 3)
    dispatcher.dispatch(deliveries)
    await until_idle(dispatcher)
    assert sorted(temporal.started) == sorted(gids(deliveries))
    for input in temporal.inputs:
        assert input.previous is not None and input.previous.next_attempt_at is not None
        assert input.previous.outcome.reason is DeadLetterReason.UNSENDABLE


# Where the workflow makes the first attempt


async def assert_left_to_workflows(dispatcher: Dispatcher, desk: Desk, temporal: FakeTemporal) -> None:
    deliveries = await accept(desk, 2)
    dispatcher.dispatch(deliveries)
    await until_idle(dispatcher)
    assert sorted(temporal.started) == sorted(gids(deliveries))
    assert all(input.previous is None for input in temporal.inputs)
    assert desk.receiver.count == 0


async def test_a_failing_endpoint_is_not_fit_for_the_lane(
    desk: Desk, temporal: FakeTemporal, dispatcher: Dispatcher
) -> None:
    endpoint = await subscribed(desk)
    for _ in range(3):
        desk.fitness.note(endpoint.gid, timedelta(milliseconds=1), FAILED)
    await assert_left_to_workflows(dispatcher, desk, temporal)


async def test_a_slow_endpoint_is_not_fit_for_the_lane(
    desk: Desk, temporal: FakeTemporal, dispatcher: Dispatcher
) -> None:
    endpoint = await subscribed(desk)
    desk.fitness.note(endpoint.gid, HOUR, classify(200))
    await assert_left_to_workflows(dispatcher, desk, temporal)


async def test_an_endpoint_whose_circuit_counts_failures_is_not_fit_for_the_lane(
    desk: Desk, temporal: FakeTemporal, dispatcher: Dispatcher
) -> None:
    """Other processes saw them."""
    await desk.store.circuit(await subscribed(desk), failures=3)
    await assert_left_to_workflows(dispatcher, desk, temporal)


async def test_the_probe_of_a_half_open_circuit_is_left_to_its_workflow(
    desk: Desk, temporal: FakeTemporal, dispatcher: Dispatcher
) -> None:
    await desk.store.circuit(await subscribed(desk), state=CircuitState.HALF_OPEN)
    (probe,) = await accept(desk, 3)
    dispatcher.dispatch([probe])
    await until_idle(dispatcher)
    assert (temporal.started, desk.receiver.count) == ([probe.input.delivery_gid], 0)


async def test_an_endpoint_with_a_rate_limit_does_not_take_the_lane(
    desk: Desk, temporal: FakeTemporal, dispatcher: Dispatcher
) -> None:
    await subscribed(desk, rate_limit=5.0)
    await assert_left_to_workflows(dispatcher, desk, temporal)


@pytest.mark.parametrize("circuit", [{}, {"state": CircuitState.OPEN}, {"hold": Hold.PAUSED}], ids=str)
async def test_a_delivery_to_an_inbox_starts_its_workflow_and_is_never_sent_or_parked(
    desk: Desk, dispatcher: Dispatcher, temporal: FakeTemporal, circuit: dict[str, Any]
) -> None:
    endpoint = await desk.store.subscribed(mode=DeliveryMode.INBOX, url="", options={"name": "Managers"})
    await desk.store.circuit(endpoint, **circuit)
    (new,) = await accept(desk)
    dispatcher.dispatch([new])
    await until_idle(dispatcher)
    assert temporal.started == [new.input.delivery_gid]
    assert (await row_of(desk, new)).status is DeliveryStatus.AWAITING_DECISION


async def test_a_limit_that_is_set_while_deliveries_wait_in_the_lane_counts_for_them(
    desk: Desk, temporal: FakeTemporal, kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FRESH_S", 0.0)
    monkeypatch.setattr(endpoint_states, "FRESH_S", 0.0)
    end = await subscribed(desk)
    respond = asyncio.Event()
    desk.receiver.respond(Response(200, until=respond))
    deliveries = await accept(desk, 8)
    uncached = desk.with_()
    async with running(uncached.dispatcher(temporal, LaneLimits(in_flight=2)), kept) as dispatcher:
        dispatcher.dispatch(deliveries)
        await desk.receiver.wait_for(2)
        async with desk.store.database.writing() as session:
            await endpoints.change(session, end, {"rate_limit": 5.0})
        respond.set()
        await until_idle(dispatcher)
    assert desk.receiver.count == 2
    assert {input.rate_limit for input in temporal.inputs} == {5.0}
    assert len(temporal.inputs) == 6


async def test_a_process_without_a_lane_sends_nothing(desk: Desk, temporal: FakeTemporal, kept: Kept) -> None:
    await subscribed(desk)
    async with running(desk.dispatcher(temporal, lane=None), kept) as dispatcher:
        await assert_left_to_workflows(dispatcher, desk, temporal)


# The lane


async def test_a_burst_to_one_fast_endpoint_is_sent_through_the_lane(
    desk: Desk, temporal: FakeTemporal, dispatcher: Dispatcher, kept: Kept
) -> None:
    await subscribed(desk)
    deliveries = await accept(desk, 200)
    dispatcher.dispatch(deliveries)
    await until_idle(dispatcher)
    assert sorted(arrived(desk)) == sorted(messages(deliveries))
    assert desk.receiver.peak_in_flight <= LaneLimits().in_flight
    assert (len(kept.inputs), temporal.tried) == (200, [])


async def test_an_endpoint_with_many_that_wait_does_not_hold_up_another(
    desk: Desk, temporal: FakeTemporal, kept: Kept
) -> None:
    limits = LaneLimits(in_flight=2, in_flight_in_all=3)
    busy = await subscribed(desk, url=desk.receiver.url_for("/busy"))
    desk.receiver.respond(Response(200, delay=0.1), path="/busy")
    many = await accept(desk, 20)
    async with desk.store.database.writing() as session:
        await endpoints.remove(session, await session.get_one(Endpoint, busy.gid))
    other = await desk.endpoint(url=desk.receiver.url_for("/other"))
    await desk.store.subscription(other)
    (one,) = await accept(desk)
    async with running(desk.dispatcher(temporal, limits), kept) as dispatcher:
        dispatcher.dispatch([*many, one])
        await desk.receiver.wait_for(1, path="/other")
        assert len(desk.receiver.at("/busy")) <= 4


async def test_deliveries_that_the_lane_has_no_room_for_are_left_to_workflows(
    desk: Desk, temporal: FakeTemporal, kept: Kept
) -> None:
    desk.receiver.respond(Response(200, delay=0.2))
    await subscribed(desk)
    deliveries = await accept(desk, 5)
    async with running(desk.dispatcher(temporal, LaneLimits(in_flight=2, waiting_per_endpoint=1)), kept) as dispatcher:
        dispatcher.dispatch(deliveries)
        await until_idle(dispatcher)
    assert sorted(arrived(desk)) == sorted(messages(deliveries[:3]))
    assert sorted(temporal.started) == sorted(gids(deliveries[3:]))


async def test_deliveries_that_would_wait_too_long_are_left_to_workflows_at_once(
    desk: Desk, temporal: FakeTemporal, kept: Kept
) -> None:
    desk.receiver.respond(Response(200, delay=0.1))
    endpoint = await subscribed(desk)
    desk.fitness.note_turn(endpoint.gid, 2.0)
    deliveries = await accept(desk, 6)
    async with running(desk.dispatcher(temporal, LaneLimits(in_flight=1, wait_s=5.0)), kept) as dispatcher:
        dispatcher.dispatch(deliveries)  # one is made, and those after it would wait for 0, 2, 4 and 6 s
        await until_idle(dispatcher)
    assert arrived(desk) == messages(deliveries[:4])
    assert sorted(temporal.started) == sorted(gids(deliveries[4:]))


async def test_deliveries_that_wait_for_a_stalled_endpoint_are_handed_over_to_workflows(
    desk: Desk, temporal: FakeTemporal, kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SWEEP_S", 0.02)
    respond = asyncio.Event()
    desk.receiver.respond(Response(200, until=respond))
    await subscribed(desk)
    deliveries = await accept(desk, 5)
    limits = LaneLimits(in_flight=2, wait_s=0.1, memory_bytes=sum(new.size for new in deliveries))
    async with running(desk.dispatcher(temporal, limits), kept) as dispatcher:
        dispatcher.dispatch(deliveries)

        def handed_over() -> None:
            assert sorted(temporal.started) == sorted(gids(deliveries[2:]))

        await assert_eventually(handed_over)
        assert sorted(arrived(desk)) == sorted(messages(deliveries[:2]))
        respond.set()
        assert all(input.previous is None for input in temporal.inputs)
        await until_idle(dispatcher)
        large = await accept(desk, content="x" * 3 * deliveries[0].size)
        dispatcher.dispatch(large)  # there is room for their payloads again
        await until_idle(dispatcher)
    assert sorted(arrived(desk)) == sorted(messages([*deliveries[:2], *large]))


async def test_the_payloads_that_the_lane_keeps_in_memory_are_bounded(
    desk: Desk, temporal: FakeTemporal, kept: Kept
) -> None:
    desk.receiver.respond(Response(200, delay=0.2))
    await subscribed(desk)
    deliveries = await accept(desk, 3)
    assert {new.size for new in deliveries} == {len(b'{"a": 1}')}
    limits = LaneLimits(memory_bytes=2 * deliveries[0].size)
    async with running(desk.dispatcher(temporal, limits), kept) as dispatcher:
        dispatcher.dispatch(deliveries)
        await until_idle(dispatcher)
        assert temporal.started == gids(deliveries[2:])
        later = await accept(desk, 2)
        dispatcher.dispatch(later)
        await until_idle(dispatcher)
    assert sorted(arrived(desk)) == sorted(messages([*deliveries[:2], *later]))


# What changed while it waited


@pytest.fixture
def stale(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if every delivery that waits had waited for more than a second."""
    monkeypatch.setattr(module, "FRESH_S", 0.0)
    monkeypatch.setattr(endpoint_states, "FRESH_S", 0.0)


async def change(desk: Desk, endpoint: Endpoint, **changes: Any) -> None:
    async with desk.store.database.writing() as session:
        await endpoints.change(session, await session.get_one(Endpoint, endpoint.gid), changes)


@pytest.mark.usefixtures("stale")
async def test_an_endpoint_that_was_changed_meanwhile_is_used_as_it_is_now(desk: Desk, dispatcher: Dispatcher) -> None:
    endpoint = await subscribed(desk)
    dispatcher.dispatch(await accept(desk))
    await until_idle(dispatcher)
    waiting = await accept(desk)
    await change(desk, endpoint, url=desk.receiver.url_for("/moved"))
    dispatcher.dispatch(waiting)
    await until_idle(dispatcher)
    assert [arrival.path for arrival in desk.receiver.arrivals] == ["/hook", "/moved"]


@pytest.mark.usefixtures("stale")
@pytest.mark.parametrize("circuit", [{"hold": Hold.PAUSED}, {"state": CircuitState.OPEN}], ids=["paused", "open"])
async def test_a_delivery_whose_endpoint_cannot_receive_by_then_is_parked(
    desk: Desk, temporal: FakeTemporal, dispatcher: Dispatcher, circuit: dict[str, Any]
) -> None:
    endpoint = await subscribed(desk)
    (new,) = await accept(desk)
    await desk.store.circuit(endpoint, **circuit)
    dispatcher.dispatch([new])
    await until_idle(dispatcher)
    row = await row_of(desk, new)
    assert (row.status, row.dispatched_at) == (DeliveryStatus.PARKED, None)
    assert (desk.receiver.count, temporal.tried) == (0, [])


@pytest.mark.usefixtures("stale")
async def test_nothing_is_sent_to_an_endpoint_that_was_deleted_meanwhile(
    desk: Desk, temporal: FakeTemporal, dispatcher: Dispatcher
) -> None:
    endpoint = await subscribed(desk)
    (new,) = await accept(desk)
    async with desk.store.database.writing() as session:
        await endpoints.remove(session, await session.get_one(Endpoint, endpoint.gid))
    dispatcher.dispatch([new])
    await until_idle(dispatcher)
    assert (desk.receiver.count, temporal.started) == (0, [new.input.delivery_gid])


async def test_an_endpoint_that_fails_while_many_deliveries_wait_does_not_get_the_rest(
    desk: Desk, temporal: FakeTemporal, kept: Kept
) -> None:
    desk.receiver.respond(500)
    await subscribed(desk)
    deliveries = await accept(desk, 10)
    async with running(desk.dispatcher(temporal, NARROW), kept) as dispatcher:
        dispatcher.dispatch(deliveries)
        await until_idle(dispatcher)
    assert arrived(desk) == messages(deliveries[:3])
    assert sorted(temporal.started) == sorted(gids(deliveries))
    made = {input.delivery_gid for input in temporal.inputs if input.previous is not None}
    assert made == set(gids(deliveries[:3]))


# Deliveries that were released, and are read from the database


async def released(desk: Desk, delivery: Delivery) -> NewDelivery:
    async with desk.store.database.read_connection() as connection:
        input = await load_input(connection, InputDefaults(), delivery.gid)
    assert input is not None
    return NewDelivery(input)


async def test_a_released_delivery_is_read_and_made(desk: Desk, dispatcher: Dispatcher, kept: Kept) -> None:
    delivery = await desk.delivery()
    dispatcher.dispatch([await released(desk, delivery)])
    await until_idle(dispatcher)
    assert [input.delivery_gid for input in kept.inputs] == [delivery.gid]


@pytest.mark.parametrize(
    "changes", [{"status": DeliveryStatus.DELIVERED}, {"attempts": 1, "status": DeliveryStatus.RETRYING}], ids=str
)
async def test_a_released_delivery_that_another_process_took_is_not_sent(
    desk: Desk, dispatcher: Dispatcher, changes: dict[str, Any]
) -> None:
    delivery = await desk.delivery()
    new = await released(desk, delivery)
    async with desk.store.database.writing() as session:
        row = await session.get_one(Delivery, delivery.gid)
        for name, value in changes.items():
            setattr(row, name, value)
    dispatcher.dispatch([new])
    await until_idle(dispatcher)
    assert desk.receiver.count == 0


async def test_a_released_delivery_whose_circuit_has_opened_again_is_parked_again(
    desk: Desk, temporal: FakeTemporal, dispatcher: Dispatcher
) -> None:
    endpoint = await desk.endpoint()
    new = await released(desk, await desk.delivery(endpoint))
    await desk.store.circuit(endpoint, state=CircuitState.OPEN)
    dispatcher.dispatch([new])
    await until_idle(dispatcher)
    assert (await row_of(desk, new)).status is DeliveryStatus.PARKED
    assert (desk.receiver.count, temporal.tried) == (0, [])


# Faults


async def test_a_database_that_is_away_before_the_request_leaves_the_attempt_to_the_workflow(
    desk: Desk, temporal: FakeTemporal, kept: Kept
) -> None:
    class Away(type(desk.sender)):  # type: ignore[misc]
        async def first_attempt(self, *_: Any) -> PreviousAttempt | None:
            raise OperationalError("SELECT", {}, Exception("the database is away"))

    assert await left_to_the_workflow(desk, temporal, kept, Away) == []


async def test_an_unexpected_fault_is_logged_and_leaves_the_attempt_to_the_workflow(
    desk: Desk, temporal: FakeTemporal, kept: Kept
) -> None:
    class Broken(type(desk.sender)):  # type: ignore[misc]
        async def first_attempt(self, *_: Any) -> PreviousAttempt | None:
            raise ZeroDivisionError

    (line,) = await left_to_the_workflow(desk, temporal, kept, Broken)
    assert (line["log_level"], line["delivery_gid"]) == ("error", temporal.started[0])


async def left_to_the_workflow(desk: Desk, temporal: FakeTemporal, kept: Kept, broken: Any) -> list[Any]:
    """What is logged."""
    desk.sender.__class__ = broken
    await subscribed(desk)
    (new,) = await accept(desk)
    async with running(desk.dispatcher(temporal), kept) as dispatcher:
        with capture_logs() as logs:
            dispatcher.dispatch([new])
            await until_idle(dispatcher)
    assert temporal.started == [new.input.delivery_gid]
    assert temporal.inputs[0].previous is None
    return logs


class Refusing(Recorder):
    """A database that takes no attempts."""

    async def attempt(self, record: AttemptRecord, transcript: Transcript, **known: bool) -> bool:
        raise DataError("INSERT", {}, Exception("no such value"))


@pytest.mark.parametrize("status", [200, 500])
async def test_an_attempt_that_could_not_be_recorded_is_left_to_the_workflow_to_record(
    desk: Desk, temporal: FakeTemporal, kept: Kept, status: int
) -> None:
    desk.receiver.respond(status)
    await subscribed(desk)
    (new,) = await accept(desk)
    refusing = desk.with_(recorder=Refusing)
    async with running(refusing.dispatcher(temporal), kept) as dispatcher:
        dispatcher.dispatch([new])
        await until_idle(dispatcher)
    (input,) = temporal.inputs
    assert input.previous is not None and input.previous.outcome.unrecorded is not None
    assert input.previous.outcome.unrecorded.status_code == status
    assert kept.inputs == []


# The end of a process


async def test_running_and_waiting_attempts_are_finished_when_the_process_ends(
    desk: Desk, temporal: FakeTemporal, kept: Kept
) -> None:
    desk.receiver.respond(Response(200, delay=0.05))
    await subscribed(desk)
    deliveries = await accept(desk, 5)
    async with running(desk.dispatcher(temporal, NARROW), kept) as dispatcher:
        dispatcher.dispatch(deliveries)
    assert arrived(desk) == messages(deliveries)
    assert [(await row_of(desk, new)).status for new in deliveries] == [DeliveryStatus.DELIVERED] * 5


async def test_attempts_that_wait_after_the_drain_time_are_left_to_the_reconciler_when_the_process_ends(
    desk: Desk, temporal: FakeTemporal, kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DRAIN_S", 0.1)
    respond = asyncio.Event()
    desk.receiver.respond(Response(200, until=respond))
    await subscribed(desk)
    deliveries = await accept(desk, 3)
    async with running(desk.dispatcher(temporal, NARROW), kept) as dispatcher:
        dispatcher.dispatch(deliveries)

        async def respond_when_withdrawn() -> None:
            await assert_eventually(none_waits)
            respond.set()

        def none_waits() -> None:
            assert dispatcher._lane.waiting == 0

        await desk.receiver.wait_for(1)
        responding = asyncio.create_task(respond_when_withdrawn())
    await responding
    assert (arrived(desk), temporal.tried) == (messages(deliveries[:1]), [])
    first, *others = [await row_of(desk, new) for new in deliveries]
    assert first.status is DeliveryStatus.DELIVERED
    for row in others:
        assert (row.status, row.dispatched_at) == (DeliveryStatus.ACCEPTED, None)
        assert row.due_at is not None and now() < row.due_at


async def test_a_process_ends_although_its_database_is_away(
    desk: Desk, temporal: FakeTemporal, kept: Kept, lost_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "RECORD_PATIENCE_S", 0.3)
    await subscribed(desk)
    deliveries = await accept(desk, 2)
    await desk.issuers.get()
    lost = desk.with_(recorder=lambda _: Recorder(lost_database))
    async with asyncio.timeout(15):
        async with running(lost.dispatcher(temporal), kept) as dispatcher:
            dispatcher.dispatch(deliveries)
    assert sorted(arrived(desk)) == sorted(messages(deliveries))
