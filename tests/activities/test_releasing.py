"""The release of parked deliveries."""

from datetime import timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs
from temporalio.client import WorkflowHandle
from temporalio.service import RPCStatusCode
from temporalio.testing import ActivityEnvironment

from activities.releasing import ReleasingActivities
from everhook.circuit.machine import CircuitState, Hold
from everhook.contracts import (
    DeadLetterReason,
    DeliveryMode,
    DeliveryStatus,
    ReleaseInput,
    ReleaseParkedInput,
    ReleaseResult,
)
from everhook.decisions.service import TaskService
from everhook.decisions.timers import TaskTimers
from everhook.delivery.inputs_store import InputDefaults
from everhook.delivery.policy import DeliveryPolicy
from everhook.ids import delivery_workflow_id
from everhook.receipts.keys_store import IssuerCache
from everhook.storage.engine import Database
from everhook.storage.tables import Delivery, Endpoint, now
from tests.activities.desk import Desk
from tests.delivery.fakes import AWAY, Collected, FakeTemporal, refusal
from tests.stores.factories import ISSUER, KEYRING, Store, accepted, publication
from tests.workflows.engine import time_skipping_server

PARKED: dict[str, Any] = {"status": DeliveryStatus.PARKED, "parked_at": now()}
BOUND = InputDefaults().first_attempt_bound(DeliveryPolicy())
WITH_WORKFLOW: dict[str, Any] = PARKED | {"dispatched_at": now()}


@pytest.fixture
def temporal() -> FakeTemporal:
    return FakeTemporal()


@pytest.fixture
def dispatched() -> Collected:
    return Collected()


def no_timers(database: Database) -> TaskTimers:
    """For endpoints that are no inboxes."""
    issuers = IssuerCache(database, KEYRING, ISSUER)
    unused: Any = None
    return TaskTimers(database, TaskService(issuers, InputDefaults(), unused, unused, unused, unused))


@pytest.fixture
def releasing(temporal: FakeTemporal, database: Database, dispatched: Collected) -> ReleasingActivities:
    return ReleasingActivities(temporal.client, database, InputDefaults(), dispatched, no_timers(database))


async def release(
    releasing: ReleasingActivities, endpoint: Endpoint, limit: int, reason: DeadLetterReason | None = None
) -> bool:
    """Release at least this many. Returns whether there are more."""
    input = ReleaseParkedInput(endpoint.gid, limit, reason)
    result: ReleaseResult = await ActivityEnvironment().run(releasing.release_parked, input)
    assert result.released == limit
    return result.remaining


def notes(temporal: FakeTemporal, *deliveries: Delivery) -> list[list[ReleaseInput]]:
    """The releases that the workflows of these deliveries were sent; none where it never was started."""
    return [
        [
            note
            for start in temporal.starts
            if start.input.delivery_gid == delivery.gid and start.options["start_signal"] == "release"
            for note in start.options["start_signal_args"]
        ]
        for delivery in deliveries
    ]


# Parked with a workflow


async def test_the_oldest_parked_deliveries_are_woken_and_no_longer_parked(
    releasing: ReleasingActivities, store: Store, temporal: FakeTemporal, dispatched: Collected
) -> None:
    endpoint = await store.subscribed()
    parked = await store.deliveries(3, endpoint, **WITH_WORKFLOW, attempts=2)
    (other,) = await store.deliveries(1, await store.endpoint(), **WITH_WORKFLOW)
    assert await release(releasing, endpoint, 2)
    assert [await store.status(delivery) for delivery in [*parked, other]] == [
        DeliveryStatus.RETRYING,
        DeliveryStatus.RETRYING,
        DeliveryStatus.PARKED,
        DeliveryStatus.PARKED,
    ]
    assert notes(temporal, *parked, other) == [[ReleaseInput()], [ReleaseInput()], [], []]
    assert not await release(releasing, endpoint, 1)
    assert dispatched.deliveries == []


async def test_a_parked_delivery_whose_workflow_is_gone_gets_one_that_knows_of_its_release(
    store: Store, database: Database, dispatched: Collected
) -> None:
    delivery = await store.delivery(**WITH_WORKFLOW)
    async with time_skipping_server() as env:
        releasing = ReleasingActivities(env.client, database, InputDefaults(), dispatched, no_timers(database))
        await release(releasing, await endpoint_of(store, delivery), 1)
        handle: WorkflowHandle[Any, Any] = env.client.get_workflow_handle(delivery_workflow_id(delivery.gid))
        signals = [
            event.workflow_execution_signaled_event_attributes.signal_name
            for event in (await handle.fetch_history()).events
            if event.HasField("workflow_execution_signaled_event_attributes")
        ]
    assert signals == ["release"]


async def test_a_delivery_that_is_parked_again_during_its_release_stays_parked(
    releasing: ReleasingActivities, store: Store, dispatched: Collected
) -> None:
    later = now() + timedelta(minutes=1)
    for fields in (WITH_WORKFLOW, PARKED):
        delivery = await store.delivery(**(fields | {"parked_at": later}))
        await release(releasing, await endpoint_of(store, delivery), 1)
        assert await store.status(delivery) is DeliveryStatus.PARKED
    assert dispatched.deliveries == []


async def test_a_delivery_that_temporal_refuses_is_left_to_the_reconciler_and_holds_up_no_other(
    releasing: ReleasingActivities, store: Store, temporal: FakeTemporal
) -> None:
    endpoint = await store.subscribed()
    refused, other = await store.deliveries(2, endpoint, **WITH_WORKFLOW)
    temporal.refused[refused.gid] = refusal(RPCStatusCode.INVALID_ARGUMENT)
    with capture_logs() as logs:
        assert not await release(releasing, endpoint, 2)
    assert [await store.status(each) for each in (refused, other)] == [DeliveryStatus.RETRYING] * 2
    assert notes(temporal, refused, other) == [[], [ReleaseInput()]]
    assert [(entry["log_level"], entry["delivery_gid"]) for entry in logs] == [("error", refused.gid)]


async def test_a_delivery_that_could_not_be_woken_is_not_marked_as_released(
    releasing: ReleasingActivities, store: Store, temporal: FakeTemporal
) -> None:
    delivery = await store.delivery(**WITH_WORKFLOW)
    temporal.error = AWAY
    with pytest.raises(type(AWAY)):
        await release(releasing, await endpoint_of(store, delivery), 1)
    assert await store.status(delivery) is DeliveryStatus.PARKED


# Parked without a workflow


async def test_deliveries_parked_without_a_workflow_are_attempted_by_this_process_once_the_circuit_is_closed(
    releasing: ReleasingActivities, store: Store, temporal: FakeTemporal, dispatched: Collected
) -> None:
    endpoint = await store.subscribed()
    parked = await store.deliveries(3, endpoint, **PARKED)
    guarded = await store.delivery(endpoint, **WITH_WORKFLOW)
    before = now()
    assert await release(releasing, endpoint, 2)
    assert [new.input.delivery_gid for new in dispatched.deliveries] == [parked[0].gid, parked[1].gid]
    for delivery in parked[:2]:
        row = await store.read(delivery)
        assert (row.status, row.parked_at, row.dispatched_at) == (DeliveryStatus.ACCEPTED, None, None)
        # Should this process die, the reconciler takes it up after that.
        assert row.due_at is not None and before < row.due_at - BOUND <= now()
    assert not await release(releasing, endpoint, 2)
    assert [new.input.delivery_gid for new in dispatched.deliveries[2:]] == [parked[2].gid]
    assert notes(temporal, *parked, guarded) == [[], [], [], [ReleaseInput()]]


async def test_a_delivery_that_is_accepted_again_starts_like_one_that_was_never_parked(
    releasing: ReleasingActivities, store: Store, dispatched: Collected
) -> None:
    """Otherwise the time for which it was parked would count towards its window when it parks another time."""
    endpoint = await store.subscribed()
    await store.circuit(endpoint, state=CircuitState.OPEN)
    acceptance = accepted(await store.acceptor().accept(publication()))
    assert [delivery.status for delivery in acceptance.deliveries] == [DeliveryStatus.PARKED]
    await store.circuit(endpoint, state=CircuitState.CLOSED)
    await release(releasing, endpoint, 1)
    (new,) = dispatched.deliveries
    assert (new.snapshot, new.input.attempt, new.input.previous, new.input.parked_since) == (None, 1, None, None)


@pytest.mark.parametrize(
    ("circuit", "reason"),
    [
        ({"state": CircuitState.HALF_OPEN}, None),
        ({"hold": Hold.PAUSED}, None),
        ({"hold": Hold.DISABLED}, DeadLetterReason.ENDPOINT_DISABLED),
        ({}, DeadLetterReason.ENDPOINT_DELETED),
    ],
    ids=["the probe of a half-open circuit", "one that was paused again", "given up", "given up while closed"],
)
async def test_a_delivery_that_is_not_attempted_here_gets_a_workflow_that_knows_of_its_release(
    releasing: ReleasingActivities,
    store: Store,
    temporal: FakeTemporal,
    dispatched: Collected,
    circuit: dict[str, Any],
    reason: DeadLetterReason | None,
) -> None:
    endpoint = await store.subscribed()
    parked_at = now() - timedelta(hours=3)
    delivery = await store.delivery(endpoint, **(PARKED | {"parked_at": parked_at}))
    await store.circuit(endpoint, **circuit)
    await release(releasing, endpoint, 1, reason)
    assert notes(temporal, delivery) == [[ReleaseInput(reason)]]
    assert temporal.inputs[0].parked_since == parked_at
    assert dispatched.deliveries == []


async def test_a_release_that_runs_twice_dispatches_nothing_twice(
    releasing: ReleasingActivities, store: Store, dispatched: Collected
) -> None:
    endpoint = await store.subscribed()
    await store.deliveries(3, endpoint, **PARKED)
    await release(releasing, endpoint, 3)
    repeated = ReleaseParkedInput(endpoint.gid, 3)
    again: ReleaseResult = await ActivityEnvironment().run(releasing.release_parked, repeated)
    assert again == ReleaseResult(released=0, remaining=False)
    assert len(dispatched.deliveries) == 3


async def test_a_released_delivery_arrives(desk: Desk, temporal: FakeTemporal) -> None:
    dispatcher = desk.dispatcher(temporal)
    releasing = ReleasingActivities(
        temporal.client, desk.store.database, InputDefaults(), dispatcher, no_timers(desk.store.database)
    )
    endpoint = await desk.endpoint()
    delivery = await desk.delivery(endpoint, **PARKED)
    await release(releasing, endpoint, 1)
    await dispatcher.close()
    assert [arrival.id for arrival in desk.receiver.arrivals] == [delivery.message_gid]
    assert await desk.store.status(delivery) is DeliveryStatus.DELIVERED


async def test_the_tasks_of_an_inbox_that_is_given_up_are_dead_letters_and_their_workflows_learn_of_it(
    releasing: ReleasingActivities, temporal: FakeTemporal, store: Store
) -> None:
    endpoint = await store.subscribed(mode=DeliveryMode.INBOX, url="", options={"name": "Managers"})
    acceptances = await store.acceptor().accept_all([publication() for _ in range(3)])
    gids = [each.delivery_gid for one in acceptances for each in accepted(one).deliveries]
    reason = DeadLetterReason.ENDPOINT_DELETED
    for count, remaining in ((2, True), (1, False)):
        input = ReleaseParkedInput(endpoint.gid, 2, reason)
        result: ReleaseResult = await ActivityEnvironment().run(releasing.release_parked, input)
        assert (result.released, result.remaining) == (count, remaining)
    assert temporal.started == gids
    assert {start.options["start_signal"] for start in temporal.starts} == {"release"}
    async with store.database.reading() as session:
        rows = [await session.get_one(Delivery, gid) for gid in gids]
    assert {(row.status, row.reason) for row in rows} == {(DeliveryStatus.DEAD_LETTERED, reason)}


# Counting


async def test_a_release_heartbeats_with_each_signal(releasing: ReleasingActivities, store: Store) -> None:
    """One that was lost with its worker holds up the circuit of the endpoint until a heartbeat is missing."""
    endpoint = await store.subscribed()
    await store.deliveries(5, endpoint, **WITH_WORKFLOW)
    beats: list[object] = []
    environment = ActivityEnvironment()
    environment.on_heartbeat = lambda *details: beats.append(details)
    await environment.run(releasing.release_parked, ReleaseParkedInput(endpoint.gid, 5))
    assert len(beats) >= 5


async def test_the_parked_deliveries_of_an_endpoint_are_counted(releasing: ReleasingActivities, store: Store) -> None:
    endpoint = await store.subscribed()
    await store.deliveries(2, endpoint, **PARKED)
    await store.deliveries(1, endpoint, **WITH_WORKFLOW)
    assert await ActivityEnvironment().run(releasing.count_parked, endpoint.gid) == 3


async def endpoint_of(store: Store, delivery: Delivery) -> Endpoint:
    async with store.database.reading() as session:
        return await session.get_one(Endpoint, delivery.endpoint_gid)
