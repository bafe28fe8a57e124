"""The projection of a circuit: written by one, read by many, never going back."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from everhook.circuit import store as circuits
from everhook.circuit.machine import Circuit, CircuitState, Hold
from everhook.contracts import DeliveryStatus
from everhook.endpoints import store as endpoints
from everhook.storage.engine import Database
from everhook.storage.tables import Channel, now
from tests.stores.factories import Store, moment

OPENED = Circuit(
    state=CircuitState.OPEN,
    failures=5,
    failing_since=moment(1),
    openings=1,
    until=moment(31),
    version=3,
)  # fmt: skip
HALF_OPEN = replace(OPENED, state=CircuitState.HALF_OPEN, version=4)
CLOSED = Circuit(version=5)
PAUSED = Circuit(hold=Hold.PAUSED, version=6)
DISABLED = Circuit(hold=Hold.DISABLED, hold_reason="410", version=7)


async def project(store: Store, endpoint_gid: str, *states: Circuit) -> None:
    for state in states:
        async with store.database.writing() as session:
            await circuits.project(session, endpoint_gid, state)


async def load(database: Database, endpoint_gid: str) -> Circuit | None:
    async with database.reading() as session:
        return await circuits.load_circuit(session, endpoint_gid)


async def test_an_endpoint_begins_with_a_closed_circuit(store: Store) -> None:
    assert await load(store.database, (await store.endpoint()).gid) == Circuit()


@pytest.mark.parametrize("state", [OPENED, HALF_OPEN, CLOSED, PAUSED, DISABLED])
async def test_a_projected_circuit_is_loaded_unchanged(store: Store, state: Circuit) -> None:
    end = await store.endpoint()
    await project(store, end.gid, state)
    assert await load(store.database, end.gid) == state


@pytest.mark.parametrize("older", [OPENED, replace(OPENED, version=5), replace(HALF_OPEN, failures=99)])
async def test_a_projection_with_an_older_or_the_same_version_is_not_written(store: Store, older: Circuit) -> None:
    end = await store.endpoint()
    await project(store, end.gid, CLOSED)
    events = len(await store.events())
    await project(store, end.gid, older)
    assert await load(store.database, end.gid) == CLOSED
    assert len(await store.events()) == events


@pytest.mark.both_databases
async def test_an_unknown_endpoint_has_no_circuit_and_gets_none(store: Store) -> None:
    await project(store, "ep_none", OPENED)
    assert await load(store.database, "ep_none") is None


async def test_a_deleted_endpoint_has_no_circuit_any_more(store: Store) -> None:
    end = await store.endpoint()
    async with store.database.writing() as session:
        await endpoints.remove(session, end)
    assert await load(store.database, end.gid) is None


@pytest.mark.parametrize(
    ("states", "kinds"),
    [
        ([OPENED], ["endpoint.circuit_opened"]),
        ([OPENED, HALF_OPEN], ["endpoint.circuit_opened"]),
        ([OPENED, HALF_OPEN, CLOSED], ["endpoint.circuit_opened", "endpoint.circuit_closed"]),
        (
            [OPENED, HALF_OPEN, replace(OPENED, version=5)],
            ["endpoint.circuit_opened", "endpoint.circuit_opened"],
        ),
        ([OPENED, replace(OPENED, failures=9, version=4)], ["endpoint.circuit_opened"]),
        ([replace(CLOSED, failures=2)], []),
        ([PAUSED], ["endpoint.paused"]),
        ([PAUSED, DISABLED], ["endpoint.paused", "endpoint.disabled"]),
        ([DISABLED, replace(CLOSED, version=8)], ["endpoint.disabled", "endpoint.enabled"]),
        ([replace(OPENED, hold=Hold.DISABLED)], ["endpoint.circuit_opened", "endpoint.disabled"]),
    ],
)
async def test_each_transition_creates_one_event(store: Store, states: list[Circuit], kinds: list[str]) -> None:
    end = await store.endpoint()
    for state in states:
        await project(store, end.gid, state, state)
    events = await store.events()
    assert [event.kind for event in events] == kinds
    assert {event.endpoint_gid for event in events} <= {end.gid}


@pytest.mark.both_databases
async def test_an_event_says_how_many_failed_and_why_it_was_disabled(store: Store) -> None:
    end = await store.endpoint()
    await project(store, end.gid, OPENED, DISABLED)
    assert [event.data for event in await store.events()] == [
        {"failures": 5, "openings": 1, "reason": ""},
        {"failures": 0, "openings": 0, "reason": "410"},
        {"failures": 0, "openings": 0, "reason": "410"},
    ]


@pytest.mark.parametrize(
    ("state", "claimed"),
    [
        (replace(HALF_OPEN, version=9), "dlv_1"),
        (replace(OPENED, version=9), None),
        (replace(CLOSED, version=9), None),
    ],
    ids=["half-open still", "open again", "closed"],
)
async def test_a_new_state_frees_the_claim_on_the_probe(store: Store, state: Circuit, claimed: str | None) -> None:
    end = await store.endpoint()
    await project(store, end.gid, HALF_OPEN)
    await store.circuit(end, probe_delivery_gid="dlv_1", probe_until=moment(60))
    await project(store, end.gid, state)
    row = await store.circuit(end)
    assert (row.probe_delivery_gid, row.probe_until) == (claimed, moment(60) if claimed else None)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, True),
        ({"state": CircuitState.HALF_OPEN}, True),
        ({"state": CircuitState.CLOSED}, False),
        ({"until": moment(101)}, False),
        ({"until": None}, False),
        ({"updated_at": moment(95)}, False),
    ],
)
async def test_a_circuit_that_should_have_moved_on_is_found(
    store: Store, database: Database, changes: dict[str, Any], found: bool
) -> None:
    end = await store.endpoint(await store.tenant("acme"))
    await store.circuit(end, **({"state": CircuitState.OPEN, "until": moment(50), "updated_at": moment(50)} | changes))
    async with database.read_connection() as connection:
        left = await circuits.stalled_circuits(connection, moment(100), timedelta(seconds=10))
    assert list(left) == ([(end.gid, "acme")] if found else [])


async def test_a_deleted_endpoint_is_not_looked_for(store: Store, database: Database) -> None:
    end = await store.endpoint()
    await store.circuit(end, state=CircuitState.OPEN, until=moment(), updated_at=moment())
    async with database.writing() as session:
        await endpoints.remove(session, end)
    async with database.read_connection() as connection:
        assert list(await circuits.stalled_circuits(connection, moment(100), timedelta())) == []


@pytest.mark.both_databases
async def test_a_circuit_that_was_touched_recently_is_not_stalled(store: Store, database: Database) -> None:
    end = await store.endpoint()
    await store.circuit(end, state=CircuitState.OPEN, until=moment(), updated_at=moment())
    async with database.write_connection() as connection:
        await circuits.touch(connection, [end.gid])
    async with database.read_connection() as connection:
        assert list(await circuits.stalled_circuits(connection, now(), timedelta(minutes=1))) == []
        later = now() + timedelta(minutes=2)
        assert [gid for gid, _ in await circuits.stalled_circuits(connection, later, timedelta(minutes=1))] == [end.gid]


# Parked although the circuit is closed


async def stranded(database: Database, before: float = 100) -> list[tuple[str, str]]:
    async with database.read_connection() as connection:
        return list(await circuits.stranded(connection, moment(before)))


@pytest.mark.parametrize(
    ("circuit", "found"),
    [
        ({}, True),
        ({"hold": Hold.PAUSED}, False),
        ({"state": CircuitState.OPEN}, False),
        ({"state": CircuitState.HALF_OPEN}, False),
        ({"updated_at": moment(100)}, False),
    ],
    ids=["closed", "paused", "open", "half-open", "closed just now"],
)
async def test_an_endpoint_with_parked_deliveries_and_a_closed_circuit_is_stranded(
    store: Store, database: Database, circuit: dict[str, Any], found: bool
) -> None:
    end = await store.endpoint(await store.tenant("acme"))
    await store.deliveries(2, end, status=DeliveryStatus.PARKED)
    await store.circuit(end, **({"updated_at": moment(99)} | circuit))
    assert await stranded(database) == ([(end.gid, "acme")] if found else [])


@pytest.mark.both_databases
async def test_every_stranded_endpoint_is_found_among_those_that_are_not(store: Store, database: Database) -> None:
    ends = [await store.endpoint() for _ in range(7)]
    for number, end in enumerate(ends):
        status = DeliveryStatus.RETRYING if number == 3 else DeliveryStatus.PARKED
        await store.deliveries(3, end, status=status)
        await store.circuit(end, updated_at=moment(), hold=Hold.PAUSED if number in (0, 5) else None)
    async with database.writing() as session:
        await endpoints.remove(session, ends[6])
    assert sorted(gid for gid, _ in await stranded(database)) == sorted(ends[n].gid for n in (1, 2, 4))


async def test_an_endpoint_without_parked_deliveries_is_not_stranded(store: Store, database: Database) -> None:
    await store.delivery(status=DeliveryStatus.RETRYING)
    assert await stranded(database) == []


# Settings


async def specs(store: Store, endpoint_gid: str) -> list[dict[str, Any] | None]:
    async with store.database.reading() as session:
        return [dict(each) if each else None for each in await circuits.circuit_specs(session, endpoint_gid)]


async def test_circuit_settings_are_in_order_of_precedence_channels_first_and_the_endpoints_own_last(
    store: Store,
) -> None:
    end = await store.endpoint(circuit={"failureThreshold": 1})
    for name in ("a", "b", "c", "d"):
        await store.channel(name)
        async with store.database.writing() as session:
            (await session.get_one(Channel, name)).circuit = {"failureThreshold": ord(name)} if name != "c" else None
    for name in ("b", "c", "a"):
        await store.subscription(end, name)
    await store.subscription(end, "d", enabled=False)
    of_channels = [{"failureThreshold": ord(name)} for name in ("a", "b")]
    assert await specs(store, end.gid) == [*of_channels, {"failureThreshold": 1}]
    assert await specs(store, (await store.endpoint()).gid) == [None]


async def test_a_change_of_a_channel_concerns_endpoints_whose_workflow_runs(store: Store) -> None:
    await store.channel("a")
    ends = sorted([await store.endpoint() for _ in range(5)], key=lambda end: end.gid)
    for end in ends[:4]:
        await store.subscription(end, "a")
    await store.subscription(ends[0], "a")
    for end in [*ends[:3], ends[4]]:
        await project(store, end.gid, OPENED)
    async with store.database.read_connection() as connection:
        first = await circuits.endpoints_with_workflow(connection, "a", "", 2)
        rest = await circuits.endpoints_with_workflow(connection, "a", first[-1], 2)
    assert (first, rest) == ([ends[0].gid, ends[1].gid], [ends[2].gid])
