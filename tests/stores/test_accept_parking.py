"""What the accept transaction does for endpoints that cannot receive now: it parks, in step with their circuits."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, text

from everhook.circuit import store as circuits
from everhook.circuit.machine import Circuit, CircuitState, Hold
from everhook.circuit.store import EndpointState, endpoint_states
from everhook.contracts import DeliveryStatus
from everhook.delivery import parked_store
from everhook.delivery import store as deliveries
from everhook.delivery.parked_store import Parked
from everhook.delivery.snapshot_store import SnapshotLoader
from everhook.publishing.publication import Accepted
from everhook.storage.engine import Database
from everhook.storage.tables import Delivery, Endpoint, now
from tests.stores.factories import Store, accepted, moment, publication
from tests.stores.locks import until_a_lock_is_awaited

ACCEPTED, PARKED = DeliveryStatus.ACCEPTED, DeliveryStatus.PARKED
HOUR = timedelta(hours=1)

CANNOT_RECEIVE: dict[str, dict[str, Any]] = {
    "open": {"state": CircuitState.OPEN},
    "paused": {"hold": Hold.PAUSED},
    "disabled": {"hold": Hold.DISABLED},
    "paused while half-open": {"hold": Hold.PAUSED, "state": CircuitState.HALF_OPEN},
    "half-open with its probe under way": {
        "state": CircuitState.HALF_OPEN,
        "probe_delivery_gid": "dlv_1",
        "probe_until": now() + HOUR,
    },
}


def statuses(acceptance: Accepted) -> list[DeliveryStatus]:
    return [delivery.status for delivery in acceptance.deliveries]


@pytest.mark.parametrize("circuit", CANNOT_RECEIVE.values(), ids=CANNOT_RECEIVE)
async def test_a_delivery_to_an_endpoint_that_cannot_receive_now_is_parked_at_once(
    store: Store, database: Database, circuit: dict[str, Any]
) -> None:
    end = await store.subscribed(policy={"maxWindowSeconds": 7_200})
    await store.circuit(end, **circuit)
    acceptance = accepted(await store.acceptor().accept(publication()))
    assert (statuses(acceptance), acceptance.new) == ([PARKED], ())
    async with database.reading() as session:
        row = (await session.execute(select(Delivery))).scalar_one()
    assert (row.status, row.attempts, row.dispatched_at, row.parked_at) == (PARKED, 0, None, row.accepted_at)
    assert row.due_at == row.accepted_at + timedelta(hours=2)
    async with database.read_connection() as connection:
        assert await deliveries.count_undispatched(connection, 10) == 0


async def test_an_endpoint_that_was_deleted_meanwhile_gets_no_delivery(store: Store, database: Database) -> None:
    """Its parked deliveries were released before: one more would be parked until the end of its window."""
    end = await store.subscribed()
    await store.circuit(end, hold=Hold.DISABLED)
    acceptor = store.acceptor()
    accepted(await acceptor.accept(publication()))  # the routes are known now
    async with database.write_connection() as connection:
        await connection.execute(text("UPDATE endpoint SET deleted_at = created_at"))
    assert accepted(await acceptor.accept(publication())).deliveries == ()


async def test_a_repeated_key_says_that_its_delivery_is_parked(store: Store) -> None:
    end = await store.subscribed()
    await store.circuit(end, hold=Hold.PAUSED)
    acceptor = store.acceptor()
    await acceptor.accept(publication(key="k"))
    again = accepted(await acceptor.accept(publication(key="k")))
    assert (again.duplicate, statuses(again)) == (True, [PARKED])


@pytest.mark.parametrize(
    "claim", [{}, {"probe_delivery_gid": "dlv_1", "probe_until": moment()}], ids=["free", "its claim has ended"]
)
async def test_a_half_open_circuit_lets_exactly_one_of_many_through_as_its_probe(
    store: Store, claim: dict[str, Any]
) -> None:
    end = await store.subscribed()
    await store.circuit(end, state=CircuitState.HALF_OPEN, **claim)
    acceptances = [accepted(one) for one in await store.acceptor().accept_all([publication() for _ in range(3)])]
    assert [statuses(acceptance) for acceptance in acceptances] == [[ACCEPTED], [PARKED], [PARKED]]
    assert [len(acceptance.new) for acceptance in acceptances] == [1, 0, 0]


async def test_each_endpoint_of_a_message_gets_what_its_own_circuit_allows(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(circuits, "MAX_STATES", 2)
    ends = [await store.subscribed() for _ in range(5)]
    for end in ends[1:4]:
        await store.circuit(end, hold=Hold.PAUSED)
    acceptance = accepted(await store.acceptor().accept(publication()))
    assert {delivery.endpoint_gid: delivery.status for delivery in acceptance.deliveries} == {
        end.gid: PARKED if end in ends[1:4] else ACCEPTED for end in ends
    }
    assert {new.input.endpoint_gid for new in acceptance.new} == {ends[0].gid, ends[4].gid}


async def test_the_snapshot_of_a_new_delivery_equals_the_one_that_the_database_returns(store: Store) -> None:
    end = await store.subscribed()
    await store.circuit(end, failures=2)
    published = publication({"käse": 1}, traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01")
    (new,) = accepted(await store.acceptor().accept(published)).new
    assert new.snapshot == await SnapshotLoader(store.database).load(new.input.delivery_gid)
    assert new.size == len(published.payload)


@pytest.mark.parametrize(
    ("fields", "sends", "may_probe"),
    [
        ({}, True, False),
        ({"hold": Hold.PAUSED}, False, False),
        ({"hold": Hold.DISABLED}, False, False),
        ({"state": CircuitState.OPEN}, False, False),
        ({"state": CircuitState.HALF_OPEN}, False, True),
        ({"state": CircuitState.HALF_OPEN, "probe_until": moment(1)}, False, False),
        ({"state": CircuitState.HALF_OPEN, "probe_until": moment(-1)}, False, True),
        ({"state": CircuitState.HALF_OPEN, "hold": Hold.PAUSED}, False, False),
    ],
)
async def test_the_state_of_an_endpoint_decides_whether_it_sends_and_whether_it_may_probe(
    store: Store, fields: dict[str, Any], sends: bool, may_probe: bool
) -> None:
    end = await store.endpoint()
    await store.circuit(end, **fields)
    state = await state_of(store, end)
    assert (state.sends, state.may_probe(moment())) == (sends, may_probe)


async def state_of(store: Store, end: Endpoint) -> EndpointState:
    async with store.database.read_connection() as connection:
        return (await endpoint_states(connection, [end.gid, "ep_none"]))[end.gid]


# The race with a circuit that closes. SQLite has none: its one writer takes turns.


def on_postgres(test: Any) -> Any:
    return pytest.mark.parametrize("database_url", ["postgres"], indirect=True)(test)


async def opened(store: Store) -> tuple[Endpoint, Circuit]:
    """An endpoint whose circuit is open, and the circuit as it is when it closes."""
    end = await store.subscribed()
    await store.circuit(end, state=CircuitState.OPEN, version=1)
    return end, Circuit(version=2)


@pytest.mark.both_databases
@on_postgres
async def test_a_message_accepted_while_a_circuit_closes_waits_for_the_commit_and_is_not_parked(
    store: Store, database: Database, other_database: Database
) -> None:
    end, closed = await opened(store)
    acceptor = Store(other_database).acceptor()
    async with database.writing() as session:
        await circuits.project(session, end.gid, closed)
        await session.flush()
        accepting = asyncio.create_task(acceptor.accept(publication()))
        await until_a_lock_is_awaited(database)
    acceptance = accepted(await accepting)
    assert (statuses(acceptance), len(acceptance.new)) == ([ACCEPTED], 1)
    assert acceptance.new[0].snapshot is not None and acceptance.new[0].snapshot.state is CircuitState.CLOSED


@pytest.mark.both_databases
@on_postgres
async def test_a_circuit_closes_after_what_is_being_parked_is_committed_so_that_its_release_finds_it(
    store: Store, database: Database, other_database: Database
) -> None:
    end, closed = await opened(store)

    async def close_and_look() -> list[Parked]:
        async with other_database.writing() as session:
            await circuits.project(session, end.gid, closed)
        async with other_database.read_connection() as connection:
            return await parked_store.oldest_parked(connection, end.gid, 10)

    async with database.write_connection() as connection:
        (acceptance,) = await store.acceptor().accept_within(connection, [publication()])
        closing = asyncio.create_task(close_and_look())
        await until_a_lock_is_awaited(database)
    (delivery,) = accepted(acceptance).deliveries
    assert delivery.status is PARKED
    assert await closing == [Parked(delivery.delivery_gid, has_workflow=False)]


@pytest.mark.both_databases
@on_postgres
async def test_publishers_to_an_endpoint_that_is_parked_do_not_wait_for_each_other(
    store: Store, database: Database, other_database: Database
) -> None:
    await opened(store)
    async with database.write_connection() as connection:
        await store.acceptor().accept_within(connection, [publication()])
        async with asyncio.timeout(30):
            acceptance = accepted(await Store(other_database).acceptor().accept(publication()))
    assert statuses(acceptance) == [PARKED]


@pytest.mark.both_databases
@on_postgres
async def test_publishers_to_a_healthy_endpoint_do_not_lock_its_circuit(
    store: Store, database: Database, other_database: Database
) -> None:
    end = await store.subscribed()
    async with database.writing() as session:
        await circuits.project(session, end.gid, Circuit(failures=1, version=1))
        await session.flush()
        async with asyncio.timeout(30):
            acceptance = accepted(await Store(other_database).acceptor().accept(publication()))
    assert statuses(acceptance) == [ACCEPTED]


@pytest.mark.both_databases
@on_postgres
async def test_publishers_and_the_reconciler_lock_circuits_in_the_same_order(
    store: Store, database: Database, other_database: Database
) -> None:
    ends = [await store.endpoint(gid=gid) for gid in ("ep_2", "ep_1")]
    for end in ends:
        await store.circuit(end, hold=Hold.PAUSED)

    async def wake() -> None:
        async with other_database.write_connection() as connection:
            await circuits.touch(connection, ["ep_2", "ep_1"])

    async with database.write_connection() as connection:
        await endpoint_states(connection, ["ep_1"], lock_held=True)
        waking = asyncio.create_task(wake())
        await until_a_lock_is_awaited(database)
        await endpoint_states(connection, ["ep_2"], lock_held=True)
    await waking


async def test_the_deliveries_of_an_endpoint_are_in_the_order_in_which_they_are_released(store: Store) -> None:
    end, _ = await opened(store)
    acceptances = [accepted(await store.acceptor().accept(publication())) for _ in range(3)]
    async with store.database.read_connection() as connection:
        parked = await parked_store.oldest_parked(connection, end.gid, 10)
    assert [one.gid for one in parked] == [acceptance.deliveries[0].delivery_gid for acceptance in acceptances]


async def test_states_are_those_of_the_endpoints_that_exist(store: Store) -> None:
    end = await store.endpoint()
    async with store.database.read_connection() as connection:
        assert (await endpoint_states(connection, ["ep_none", end.gid])).keys() == {end.gid}
        assert await endpoint_states(connection, []) == {}
