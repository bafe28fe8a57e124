"""Starting the workflows of deliveries: in the background, fairly by endpoint, and never two of one."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError
from structlog.testing import capture_logs
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError

from everhook.circuit.machine import CircuitState, Hold
from everhook.circuit.states_store import EndpointStates
from everhook.circuit.store import EndpointState
from everhook.contracts import AttemptOutcome, DeliveryInput, DeliveryStatus, PreviousAttempt, TaskQueue, Verdict
from everhook.delivery import starter as module
from everhook.delivery.inputs_store import InputDefaults, load_input
from everhook.delivery.parked_store import accept_again
from everhook.delivery.recorder_store import Recorder
from everhook.delivery.starter import Starter, StarterLimits
from everhook.ids import delivery_workflow_id
from everhook.storage.engine import Database
from everhook.storage.tables import Delivery, Endpoint, now
from testing.waiting import assert_eventually
from tests.activities.desk import Desk
from tests.delivery.fakes import AWAY, INVALID, OVERLOADED, FakeTemporal, HeldDatabase
from tests.stores.factories import Store
from tests.workflows.engine import time_skipping_server

HOUR = timedelta(hours=1)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AWAY_PAUSE_S", 0.02)
    monkeypatch.setattr(module, "MARK_INTERVAL_S", 0.02)


@pytest.fixture
async def starter(desk: Desk, temporal: FakeTemporal) -> AsyncIterator[Starter]:
    starter = desk.starter(temporal)
    yield starter
    temporal.gate.set()
    await starter.close()


async def order_of(store: Store, delivery: Delivery) -> DeliveryInput:
    async with store.database.read_connection() as connection:
        input = await load_input(connection, InputDefaults(), delivery.gid)
    assert input is not None
    return input


async def inputs(store: Store, count: int, endpoint: Endpoint | None = None) -> list[DeliveryInput]:
    rows = await store.deliveries(count, endpoint, due_at=now() + HOUR)
    return [await order_of(store, row) for row in rows]


def delivered(input: DeliveryInput) -> DeliveryInput:
    outcome = AttemptOutcome(Verdict.DELIVERED, status_code=202, attempt_gid="att_1", duration_ms=17)
    return replace(input, previous=PreviousAttempt(outcome))


async def read(store: Store, input: DeliveryInput) -> Delivery:
    async with store.database.reading() as session:
        return await session.get_one(Delivery, input.delivery_gid)


async def until_started(temporal: FakeTemporal, *wanted: DeliveryInput) -> None:
    def all_started() -> None:
        assert set(temporal.started) >= {input.delivery_gid for input in wanted}

    await assert_eventually(all_started)


# Starting


async def test_a_first_start_never_runs_a_workflow_another_time(
    store: Store, starter: Starter, temporal: FakeTemporal
) -> None:
    (input,) = await inputs(store, 1)
    starter.start_soon(input)
    await until_started(temporal, input)
    (start,) = temporal.starts
    assert start.input == input
    assert start.options["id"] == delivery_workflow_id(input.delivery_gid)
    assert start.options["task_queue"] is TaskQueue.DELIVERIES
    assert start.options["id_reuse_policy"] is WorkflowIDReusePolicy.REJECT_DUPLICATE
    assert start.options["id_conflict_policy"] is WorkflowIDConflictPolicy.USE_EXISTING
    assert start.options["start_signal"] is None


async def test_a_workflow_that_has_ended_is_not_run_again_by_a_late_first_start(
    store: Store, desk: Desk, database: Database
) -> None:
    first, late = await inputs(store, 2)
    async with time_skipping_server() as env:
        handle = env.client.get_workflow_handle(delivery_workflow_id(first.delivery_gid))
        runs: list[str] = []
        for following in (first, late):
            starter = Starter(env.client, database, desk.recorder, desk.states)
            starter.start_soon(first)
            starter.start_soon(following)
            await until_idle(starter)
            await starter.close()
            runs.append((await handle.describe()).run_id)
            if following is first:
                await handle.terminate()
    assert runs[0] == runs[1]
    assert (await read(store, first)).dispatched_at is not None


async def until_idle(starter: Starter) -> None:
    def idle() -> None:
        assert starter.is_idle

    await assert_eventually(idle)


async def test_a_start_is_confirmed_in_the_database(store: Store, starter: Starter, temporal: FakeTemporal) -> None:
    started = await inputs(store, 3)
    for input in started:
        starter.start_soon(input)

    async def confirmed() -> None:
        for input in started:
            row = await read(store, input)
            assert row.status is DeliveryStatus.SENDING and row.dispatched_at is not None

    await assert_eventually(confirmed)


async def test_a_start_of_a_workflow_that_has_run_is_confirmed_as_well(
    store: Store, starter: Starter, temporal: FakeTemporal
) -> None:
    (input,) = await inputs(store, 1)
    temporal.error = WorkflowAlreadyStartedError(input.delivery_gid, "Delivery")
    starter.start_soon(input)
    await until_idle(starter)
    await starter.close()
    assert (await read(store, input)).dispatched_at is not None


async def test_a_database_that_is_away_keeps_no_start_from_being_made(
    store: Store, desk: Desk, temporal: FakeTemporal, lost_database: Database
) -> None:
    (input,) = await inputs(store, 1)
    starter = Starter(temporal.client, lost_database, desk.recorder, desk.states)
    starter.start_soon(input)
    await until_started(temporal, input)
    await starter.close()


async def test_one_endpoint_gets_its_share_of_the_starts_in_flight(
    store: Store, desk: Desk, temporal: FakeTemporal
) -> None:
    starter = desk.starter(temporal, StarterLimits(concurrency=32))
    many, (one,) = await inputs(store, 20), await inputs(store, 1)
    temporal.gate.clear()
    for input in [*many, one]:
        starter.start_soon(input)

    def under_way() -> None:
        assert temporal.under_way == 3
        assert one.delivery_gid in temporal.tried

    await assert_eventually(under_way)
    temporal.gate.set()
    await until_started(temporal, *many, one)
    assert temporal.most_under_way == 3
    await starter.close()


async def test_starts_beyond_the_limits_are_left_to_the_reconciler(
    store: Store, desk: Desk, temporal: FakeTemporal
) -> None:
    starter = desk.starter(temporal, StarterLimits(concurrency=1, waiting=1))
    given = await inputs(store, 4)
    for input in given:
        starter.start_soon(input)
    await until_idle(starter)
    await starter.close()
    assert temporal.started == [input.delivery_gid for input in given[:2]]
    rows = [await read(store, input) for input in given]
    assert [row.dispatched_at is None for row in rows] == [False, False, True, True]


# Temporal away


class Failure:
    """Temporal raises `error` until `ends` is called."""

    def __init__(self, temporal: FakeTemporal, error: Exception) -> None:
        self._temporal = temporal
        temporal.error = error

    def ends(self) -> None:
        self._temporal.error = None


@pytest.mark.parametrize(
    "error", [AWAY, OVERLOADED, RuntimeError("cannot connect")], ids=["away", "overloaded", "never connected"]
)
async def test_starts_wait_while_temporal_is_away_and_continue_when_it_is_back(
    store: Store, starter: Starter, temporal: FakeTemporal, error: Exception
) -> None:
    given = await inputs(store, 5)
    failure = Failure(temporal, error)
    with capture_logs() as logs:
        for input in given:
            starter.start_soon(input)
        await assert_eventually(lambda: assert_tries(temporal, 8))
        failure.ends()
        await until_started(temporal, *given)
    assert sorted(temporal.started) == sorted(input.delivery_gid for input in given)
    assert {line["log_level"] for line in logs} == {"warning"}


async def test_starts_wait_while_the_database_is_away(store: Store, desk: Desk, temporal: FakeTemporal) -> None:
    class Away(EndpointStates):
        tries = 0

        async def get(self, endpoint_gid: str, *, fresh: bool = False) -> EndpointState | None:
            self.tries += 1
            if self.tries <= 3:
                raise OperationalError("SELECT", {}, Exception("the database is away"))
            return await super().get(endpoint_gid, fresh=fresh)

    starter = Starter(temporal.client, store.database, desk.recorder, Away(store.database))
    (input,) = await inputs(store, 1)
    starter.start_soon(input)
    await until_started(temporal, input)
    await starter.close()


def assert_tries(temporal: FakeTemporal, tries: int) -> None:
    assert len(temporal.tried) >= tries


async def test_a_process_can_end_while_temporal_is_away(
    store: Store, desk: Desk, temporal: FakeTemporal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "AWAY_PAUSE_S", 0.5)
    starter = desk.starter(temporal)
    temporal.error = AWAY
    (input,) = await inputs(store, 1)
    starter.start_soon(input)
    await assert_eventually(lambda: assert_tries(temporal, 1))
    async with asyncio.timeout(30):
        await starter.close()
    assert (await read(store, input)).dispatched_at is None


async def test_a_refused_start_is_logged_and_does_not_affect_others(
    store: Store, starter: Starter, temporal: FakeTemporal
) -> None:
    endpoint = await store.subscribed()
    given = await inputs(store, 6, endpoint)
    temporal.refused = {given[0].delivery_gid: INVALID, given[3].delivery_gid: INVALID}
    with capture_logs() as logs:
        for input in given:
            starter.start_soon(input)
        await until_idle(starter)
    await starter.close()
    refused = [given[0], given[3]]
    assert [line["delivery_gid"] for line in logs] == [input.delivery_gid for input in refused]
    assert {line["log_level"] for line in logs} == {"error"}
    assert len(temporal.tried) == 6
    for input in given:
        assert ((await read(store, input)).dispatched_at is None) == (input in refused)


async def test_starts_under_way_are_finished_and_others_left_when_the_process_ends(
    store: Store, desk: Desk, temporal: FakeTemporal
) -> None:
    starter = desk.starter(temporal, StarterLimits(concurrency=1))
    first, second = await inputs(store, 2)
    temporal.gate.clear()
    starter.start_soon(first)
    starter.start_soon(second)
    await assert_eventually(lambda: assert_tries(temporal, 1))
    closing = asyncio.create_task(starter.close())
    await asyncio.sleep(0)
    temporal.gate.set()
    await closing
    assert temporal.started == [first.delivery_gid]
    assert (await read(store, first)).dispatched_at is not None
    assert (await read(store, second)).dispatched_at is None


async def test_a_write_under_way_is_finished_when_the_process_ends(
    store: Store, desk: Desk, temporal: FakeTemporal, held_database: HeldDatabase
) -> None:
    (input,) = await inputs(store, 1)
    starter = Starter(temporal.client, held_database, desk.recorder, desk.states)
    starter.start_soon(input)

    def writing() -> None:
        assert held_database.waiting == 1

    await assert_eventually(writing)
    closing = asyncio.create_task(starter.close())
    for _ in range(10):
        await asyncio.sleep(0)
    held_database.gate.set()
    await closing
    assert held_database.cancelled == 0
    assert (await read(store, input)).dispatched_at is not None


# What the Temporal UI shows


async def test_a_settled_workflow_shows_its_result_and_has_the_lowest_priority(
    store: Store, starter: Starter, temporal: FakeTemporal
) -> None:
    (input,) = await inputs(store, 1)
    starter.start_soon(delivered(input))
    await until_started(temporal, input)
    (start,) = temporal.starts
    assert start.options["priority"].priority_key == 5
    assert start.options["priority"].fairness_key == input.endpoint_gid
    attributes = {pair.key.name: pair.value for pair in start.options["search_attributes"]}
    assert (attributes["DeliveryStatus"], attributes["Endpoint"]) == ("delivered", input.endpoint_gid)
    details = start.options["static_details"]
    assert all(part in details for part in ("att_1", "**delivered**", "HTTP 202", "17 ms"))


async def test_an_open_workflow_has_the_default_priority(
    store: Store, starter: Starter, temporal: FakeTemporal
) -> None:
    (input,) = await inputs(store, 1)
    starter.start_soon(input)
    await until_started(temporal, input)
    (start,) = temporal.starts
    assert (start.options["priority"].priority_key, start.options["static_details"]) == (None, None)


# The circuit, when its turn has come


@pytest.mark.parametrize(
    "circuit", [{"state": CircuitState.OPEN}, {"hold": Hold.PAUSED}, {"hold": Hold.DISABLED}], ids=str
)
async def test_a_delivery_whose_endpoint_cannot_receive_by_then_is_parked_without_a_workflow(
    store: Store, starter: Starter, temporal: FakeTemporal, circuit: dict[str, Any]
) -> None:
    endpoint = await store.subscribed(policy={"maxWindowSeconds": 7_200})
    (input,) = await inputs(store, 1, endpoint)
    await store.circuit(endpoint, **circuit)
    before = now()
    starter.start_soon(input)
    await until_idle(starter)
    row = await read(store, input)
    assert (row.status, row.dispatched_at, temporal.tried) == (DeliveryStatus.PARKED, None, [])
    assert row.due_at is not None and before + 2 * HOUR <= row.due_at <= now() + 2 * HOUR


async def test_the_probe_of_a_half_open_circuit_is_started(
    store: Store, starter: Starter, temporal: FakeTemporal
) -> None:
    endpoint = await store.subscribed()
    (input,) = await inputs(store, 1, endpoint)
    await store.circuit(endpoint, state=CircuitState.HALF_OPEN)
    starter.start_soon(input)
    await until_started(temporal, input)


async def test_a_delivery_whose_first_attempt_was_made_is_started_in_every_state_of_the_circuit(
    store: Store, starter: Starter, temporal: FakeTemporal
) -> None:
    endpoint = await store.subscribed()
    (input,) = await inputs(store, 1, endpoint)
    await store.circuit(endpoint, state=CircuitState.OPEN)
    failed = PreviousAttempt(AttemptOutcome(Verdict.RETRY, status_code=503), now() + HOUR)
    starter.start_soon(replace(input, previous=failed))
    await until_started(temporal, input)
    assert temporal.inputs[0].previous == failed


async def test_a_delivery_to_a_deleted_endpoint_is_started_so_that_its_workflow_ends_it(
    store: Store, starter: Starter, temporal: FakeTemporal
) -> None:
    (input,) = await inputs(store, 1)
    starter.start_soon(replace(input, endpoint_gid="ep_none"))
    await until_started(temporal, input)


async def test_a_circuit_that_closed_before_it_was_known_here_leaves_nothing_parked(
    store: Store, desk: Desk, starter: Starter, temporal: FakeTemporal
) -> None:
    endpoint = await store.subscribed()
    (input,) = await inputs(store, 1, endpoint)
    await store.circuit(endpoint, state=CircuitState.OPEN)
    await desk.states.get(endpoint.gid)
    await store.circuit(endpoint, state=CircuitState.CLOSED)
    starter.start_soon(input)
    await until_started(temporal, input)
    row = await read(store, input)
    assert row.status in (DeliveryStatus.ACCEPTED, DeliveryStatus.SENDING) and row.parked_at is None


class Closing(Recorder):
    """The circuit closes just as a delivery is parked; `released` is what then follows."""

    def __init__(self, store: Store, endpoint: Endpoint, released: Callable[[str], Awaitable[object]]) -> None:
        super().__init__(store.database)
        self._store, self._endpoint, self._released = store, endpoint, released

    async def parked(self, delivery_gid: str, due_at: datetime, *, has_workflow: bool = True) -> bool:
        recorded = await super().parked(delivery_gid, due_at, has_workflow=has_workflow)
        await self._store.circuit(self._endpoint, state=CircuitState.CLOSED)
        await self._released(delivery_gid)
        return recorded


@pytest.mark.parametrize("released", [False, True], ids=["too late for its release", "in time for its release"])
async def test_a_delivery_that_is_parked_as_the_circuit_closes_is_continued_exactly_once(
    store: Store, temporal: FakeTemporal, released: bool
) -> None:
    taken: list[str] = []

    async def release(delivery_gid: str) -> None:
        if released:
            async with store.database.write_connection() as connection:
                taken.extend(await accept_again(connection, [delivery_gid], now(), HOUR))

    endpoint = await store.subscribed()
    (input,) = await inputs(store, 1, endpoint)
    await store.circuit(endpoint, state=CircuitState.OPEN)
    recorder = Closing(store, endpoint, release)
    starter = Starter(temporal.client, store.database, recorder, EndpointStates(store.database))
    starter.start_soon(input)
    await until_idle(starter)
    row = await read(store, input)
    await starter.close()
    assert row.status is not DeliveryStatus.PARKED
    assert [*taken, *temporal.started] == [input.delivery_gid]
