"""What workers tell endpoint entities, and what those ask for."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from temporalio.service import RPCError
from temporalio.testing import ActivityEnvironment, WorkflowEnvironment

from activities.circuits import Circuits, OutcomeReporter, merge
from everhook.circuit import Circuit, CircuitState, Hold
from everhook.contracts import (
    CircuitProjection,
    DeadLetterReason,
    DeliveryStatus,
    FailureCode,
    OutcomeReport,
    ReleaseNote,
    ReleaseOrder,
    ReleaseResult,
)
from everhook.ids import delivery_workflow_id
from everhook.storage import endpoints
from everhook.storage.engine import Database
from everhook.storage.orders import OrderDefaults
from everhook.storage.tables import Delivery, Endpoint, now
from everhook.verdict import Judgement, classify
from tests.activities.desk import FakeEntities
from tests.everhook.storage.factories import Store
from tests.support.waiting import assert_eventually
from tests.workflows.engine import time_skipping_server

DELIVERED, FAILED, REJECTED, GONE = (classify(status) for status in (200, 503, 404, 410))
BLOCKED = classify(None, FailureCode.BLOCKED)


@pytest.fixture
def entities() -> FakeEntities:
    return FakeEntities()


@pytest.fixture
def reporter(entities: FakeEntities) -> OutcomeReporter:
    return OutcomeReporter(entities)


# --- telling


async def test_healthy_traffic_tells_nothing(entities: FakeEntities, reporter: OutcomeReporter) -> None:
    for judgement in [DELIVERED, REJECTED, BLOCKED] * 20:
        reporter.note("ep_1", "acme", judgement, in_streak=False)
    await reporter.close()
    assert entities.tries == 0


async def test_failures_at_the_same_time_are_told_in_one_report(
    entities: FakeEntities, reporter: OutcomeReporter
) -> None:
    for _ in range(7):
        reporter.note("ep_1", "acme", FAILED, in_streak=False)
    reporter.note("ep_2", "acme", FAILED, in_streak=False)
    await reporter.close()
    assert sorted(entities.reports) == [("ep_1", OutcomeReport(failures=7)), ("ep_2", OutcomeReport(failures=1))]


@pytest.mark.parametrize("judgement", [DELIVERED, REJECTED], ids=["delivered", "rejected"])
async def test_an_answer_that_ends_a_streak_of_the_circuit_is_told(
    entities: FakeEntities, reporter: OutcomeReporter, judgement: Judgement
) -> None:
    reporter.note("ep_1", "acme", judgement, in_streak=True)
    await reporter.close()
    assert entities.reports == [("ep_1", OutcomeReport(succeeded=True))]


async def test_a_success_behind_a_failure_that_this_process_saw_is_told_once(
    entities: FakeEntities, reporter: OutcomeReporter
) -> None:
    for judgement in (FAILED, DELIVERED, DELIVERED, DELIVERED):
        reporter.note("ep_1", "acme", judgement, in_streak=False)
    await reporter.close()
    reporter.note("ep_1", "acme", DELIVERED, in_streak=False)
    await reporter.close()
    assert entities.reports == [("ep_1", OutcomeReport(succeeded=True))]


async def test_failures_behind_a_success_are_told_with_it(entities: FakeEntities, reporter: OutcomeReporter) -> None:
    for judgement in (FAILED, FAILED, DELIVERED, FAILED, FAILED, FAILED):
        reporter.note("ep_1", "acme", judgement, in_streak=False)
    await reporter.close()
    assert entities.reports == [("ep_1", OutcomeReport(succeeded=True, failures=3))]


async def test_our_own_policy_says_nothing_of_the_endpoint(entities: FakeEntities, reporter: OutcomeReporter) -> None:
    reporter.note("ep_1", "acme", BLOCKED, in_streak=True)
    await reporter.close()
    assert entities.tries == 0


async def test_gone_is_told_of_a_healthy_endpoint_too(entities: FakeEntities, reporter: OutcomeReporter) -> None:
    reporter.note("ep_1", "acme", GONE, in_streak=False)
    await reporter.close()
    assert entities.reports == [("ep_1", OutcomeReport(succeeded=True, gone=True))]


async def test_a_report_that_fails_is_told_later_together_with_what_came_since(
    entities: FakeEntities, reporter: OutcomeReporter
) -> None:
    entities.failing = 1
    for _ in range(2):
        reporter.note("ep_1", "acme", FAILED, in_streak=False)
    await assert_eventually(lambda: assert_tries(entities, 1))
    for _ in range(3):
        reporter.note("ep_1", "acme", FAILED, in_streak=False)
    await assert_eventually(lambda: assert_tries(entities, 2))
    await reporter.close()
    assert entities.reports == [("ep_1", OutcomeReport(failures=5))]


async def test_a_worker_can_end_while_temporal_is_away(entities: FakeEntities, reporter: OutcomeReporter) -> None:
    entities.failing = 1_000
    reporter.note("ep_1", "acme", FAILED, in_streak=False)
    async with asyncio.timeout(5):
        await reporter.close()
    assert 1 <= entities.tries <= 2


def assert_tries(entities: FakeEntities, tries: int) -> None:
    assert entities.tries >= tries


@pytest.mark.parametrize(
    ("older", "newer", "merged"),
    [
        (OutcomeReport(failures=2), OutcomeReport(failures=3), OutcomeReport(failures=5)),
        (OutcomeReport(failures=2), OutcomeReport(succeeded=True), OutcomeReport(succeeded=True)),
        (
            OutcomeReport(succeeded=True, failures=2),
            OutcomeReport(failures=3),
            OutcomeReport(succeeded=True, failures=5),
        ),
        (
            OutcomeReport(failures=9),
            OutcomeReport(succeeded=True, failures=1),
            OutcomeReport(succeeded=True, failures=1),
        ),
        (OutcomeReport(gone=True), OutcomeReport(succeeded=True), OutcomeReport(succeeded=True, gone=True)),
        (OutcomeReport(failures=1), OutcomeReport(gone=True), OutcomeReport(failures=1, gone=True)),
    ],
)
def test_two_reports_make_one(older: OutcomeReport, newer: OutcomeReport, merged: OutcomeReport) -> None:
    assert merge(older, newer) == merged


# --- what entities ask for


@pytest.fixture
async def env() -> AsyncIterator[WorkflowEnvironment]:
    async with time_skipping_server() as environment:
        yield environment


@pytest.fixture
def circuits(env: WorkflowEnvironment, database: Database) -> Circuits:
    return Circuits(env.client, database, OrderDefaults())


async def release(circuits: Circuits, endpoint: Endpoint, limit: int, reason: DeadLetterReason | None = None) -> bool:
    """Release so many at least; whether there are more."""
    order = ReleaseOrder(endpoint.gid, limit, reason)
    result: ReleaseResult = await ActivityEnvironment().run(circuits.release_parked, order)
    assert result.released == limit
    return result.remaining


async def notes(env: WorkflowEnvironment, delivery: Delivery) -> list[ReleaseNote]:
    """The releases that a delivery's workflow was sent; none where it never was started."""
    handle = env.client.get_workflow_handle(delivery_workflow_id(delivery.gid))
    try:
        history = await handle.fetch_history()
    except RPCError:
        return []
    inputs = [
        event.workflow_execution_signaled_event_attributes.input.payloads
        for event in history.events
        if event.HasField("workflow_execution_signaled_event_attributes")
    ]
    converter = env.client.data_converter
    return [(await converter.decode(payloads, [ReleaseNote]))[0] for payloads in inputs]


async def test_the_oldest_parked_deliveries_are_woken_and_no_longer_parked(
    circuits: Circuits, store: Store, env: WorkflowEnvironment
) -> None:
    endpoint = await store.subscribed()
    parked = await store.deliveries(3, endpoint, status=DeliveryStatus.PARKED, parked_at=now(), attempts=2)
    (other,) = await store.deliveries(1, await store.endpoint(), status=DeliveryStatus.PARKED, parked_at=now())
    assert await release(circuits, endpoint, 2)
    assert [await store.status(delivery) for delivery in [*parked, other]] == [
        DeliveryStatus.RETRYING,
        DeliveryStatus.RETRYING,
        DeliveryStatus.PARKED,
        DeliveryStatus.PARKED,
    ]
    assert [len(await notes(env, delivery)) for delivery in [*parked, other]] == [1, 1, 0, 0]
    assert not await release(circuits, endpoint, 1)


async def test_those_given_up_are_told_why(circuits: Circuits, store: Store, env: WorkflowEnvironment) -> None:
    delivery = await store.delivery(status=DeliveryStatus.PARKED, parked_at=now())
    async with store.database.reading() as session:
        endpoint = await session.get_one(Endpoint, delivery.endpoint_gid)
    await release(circuits, endpoint, 1, DeadLetterReason.ENDPOINT_DELETED)
    assert await notes(env, delivery) == [ReleaseNote(DeadLetterReason.ENDPOINT_DELETED)]


async def test_one_that_parks_again_while_it_is_being_woken_stays_parked(circuits: Circuits, store: Store) -> None:
    later = now() + timedelta(minutes=1)
    delivery = await store.delivery(status=DeliveryStatus.PARKED, parked_at=later)
    async with store.database.reading() as session:
        endpoint = await session.get_one(Endpoint, delivery.endpoint_gid)
    await release(circuits, endpoint, 1)
    assert await store.status(delivery) is DeliveryStatus.PARKED


async def test_a_projected_circuit_is_the_one_that_is_loaded(circuits: Circuits, store: Store) -> None:
    endpoint = await store.endpoint()
    circuit = Circuit(CircuitState.OPEN, Hold.PAUSED, "", 5, now(), 1, now() + timedelta(seconds=30), version=4)
    await ActivityEnvironment().run(circuits.project_circuit, CircuitProjection(endpoint.gid, circuit))
    await ActivityEnvironment().run(circuits.project_circuit, CircuitProjection(endpoint.gid, Circuit(version=3)))
    assert await ActivityEnvironment().run(circuits.load_circuit, endpoint.gid) == circuit


async def test_a_deleted_endpoint_has_no_circuit(circuits: Circuits, store: Store) -> None:
    endpoint = await store.endpoint()
    async with store.database.writing() as session:
        await endpoints.remove(session, await session.get_one(Endpoint, endpoint.gid))
    assert await ActivityEnvironment().run(circuits.load_circuit, endpoint.gid) is None
