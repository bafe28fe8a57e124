"""What the reconciler, circuits and publishers ask again and again costs what it finds: no query reads every delivery.

With many rows and statistics, so that the planners choose as they do in production.
"""

import re
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from everhook.circuit import store as circuits
from everhook.circuit.machine import Hold
from everhook.contracts import DeliveryStatus
from everhook.delivery import overdue_store, parked_store
from everhook.delivery import store as deliveries
from everhook.delivery.inputs_store import InputDefaults, load_dead_letters
from everhook.health.overview_store import troubled_circuits
from everhook.redelivery.windows_store import ReplaySelection, Window, read_window
from everhook.storage.engine import Database
from everhook.storage.tables import CircuitRow, Endpoint, ReplayMode, now
from tests.stores.factories import CHANNEL, Store, moment
from tests.stores.past import keep
from tests.stores.plans import plan_of, recorded, without_partitions

pytestmark = pytest.mark.both_databases

MANY = 500
HOUR = timedelta(hours=1)
STRANDED = "who is stranded"
ALL_THAT_FAILED = "a window of a replay: all that failed"
SORTS_A_WINDOW = ("what is overdue", "what is overdue of a share, after a window", ALL_THAT_FAILED)
"""A bounded number of rows: so that endpoints take turns, and to merge two statuses."""

Question = Callable[[AsyncConnection, Endpoint], Awaitable[Any]]


async def window(
    connection: AsyncConnection,
    end: Endpoint,
    mode: ReplayMode = ReplayMode.ALL,
    *,
    endpoint: bool = False,
    tenant: bool = False,
) -> Window:
    selection = ReplaySelection(
        CHANNEL,
        mode,
        now() - 24 * HOUR,
        now() + HOUR,
        endpoint_gid=end.gid if endpoint else None,
        tenant_gid=end.tenant_gid if endpoint or tenant else None,
    )
    return await read_window(connection, selection, "", 100)


QUESTIONS: dict[str, tuple[Question, str]] = {
    "what is overdue": (
        lambda connection, end: overdue_store.overdue_window(connection, moment(), None, rows=500, share=50),
        "ix_delivery_due",
    ),
    "what is overdue of a share, after a window": (
        lambda connection, end: overdue_store.overdue_window(
            connection, moment(), (moment(), "dlv_"), rows=500, share=50, endings="07abc"
        ),
        "ix_delivery_due",
    ),
    "dead letters, page by page": (
        lambda connection, end: load_dead_letters(connection, InputDefaults(), now(), "dlv_z", 100),
        "ix_delivery_astray",
    ),
    "what is parked at paused endpoints past its window": (
        lambda connection, end: overdue_store.defer_paused(connection, HOUR, 500),
        "ix_delivery_due",
    ),
    "how many wait for a workflow": (
        lambda connection, end: deliveries.count_undispatched(connection, 1_000),
        "ix_delivery_undispatched",
    ),
    STRANDED: (lambda connection, end: circuits.stranded(connection, now()), "ix_delivery_parked"),
    "the oldest parked of an endpoint": (
        lambda connection, end: parked_store.oldest_parked(connection, end.gid, 100),
        "ix_delivery_parked",
    ),
    "a window of a replay: an endpoint": (
        lambda connection, end: window(connection, end, endpoint=True),
        "ix_delivery_endpoint",
    ),
    "a window of a replay: a tenant": (
        lambda connection, end: window(connection, end, tenant=True),
        "ix_delivery_tenant",
    ),
    "a window of a replay: the channel": (lambda connection, end: window(connection, end), "ix_delivery_channel"),
    ALL_THAT_FAILED: (lambda connection, end: window(connection, end, ReplayMode.FAILED), "ix_delivery_astray"),
    "a window of a replay: what is missing": (
        lambda connection, end: window(connection, end, ReplayMode.MISSING, endpoint=True),
        "ix_message_channel",
    ),
    "how many are parked at an endpoint": (
        lambda connection, end: parked_store.count_parked(connection, end.gid),
        "ix_delivery_parked",
    ),
}


SORTED = re.compile(r"""TEMP B-TREE FOR ORDER BY|Sort Key: (?!\(\("ANY_subquery"\.gid\))""")
"""The few rows that an update has found may be sorted, to find each once."""


@pytest.fixture
async def end(store: Store, database: Database) -> Endpoint:
    """Of its deliveries few are parked, overdue or wait for a workflow, and very many are over."""
    end, paused = await store.subscribed(), await store.subscribed()
    await store.circuit(paused, hold=Hold.PAUSED)
    later = now() + HOUR
    await store.deliveries(MANY, end, status=DeliveryStatus.DELIVERED, due_at=None, dispatched_at=now())
    await store.deliveries(MANY, end, status=DeliveryStatus.RETRYING, due_at=later, dispatched_at=now())
    await store.deliveries(MANY, paused, status=DeliveryStatus.PARKED, due_at=later)
    await store.deliveries(5, end, status=DeliveryStatus.PARKED, due_at=later)
    await store.deliveries(5, end)
    async with database.write_connection() as connection:
        await connection.execute(text("ANALYZE"))
    return end


async def test_each_query_uses_the_index_that_holds_only_its_rows(database: Database, end: Endpoint) -> None:
    for name, (question, index) in QUESTIONS.items():
        sql, parameters = await asked(database, question, end)
        plan = await plan_of(database, sql, parameters)
        assert index in plan, f"{name}\n{plan}"
        assert SORTED.search(plan) is None or name in SORTS_A_WINDOW, f"{name}\n{plan}"
        if name == STRANDED:
            await assert_one_look_at_each_endpoint(database, sql, parameters)


async def assert_one_look_at_each_endpoint(database: Database, sql: str, parameters: Any) -> None:
    """And not one at each parked delivery: a loose index scan."""
    if database.is_sqlite:
        assert "SCAN delivery" not in await plan_of(database, sql, parameters)
        return
    async with database.read_connection() as connection:
        rows = await connection.exec_driver_sql(f"EXPLAIN (ANALYZE, TIMING OFF) {sql}", parameters)
        plan = await without_partitions(connection, "\n".join(str(row[0]) for row in rows))
    steps = [step for step in plan.splitlines() if "on delivery" in step]
    assert steps
    for step in steps:
        read = float(step.partition("(actual rows=")[2].partition(" ")[0])
        assert "ix_delivery_parked" in step and read <= 1, step


async def asked(database: Database, question: Question, end: Endpoint) -> tuple[str, Any]:
    statements = recorded(database)
    async with database.write_connection() as connection:
        await question(connection, end)
    ((sql, parameters),) = [one for one in statements.items() if "delivery" in one[0]]
    return sql, parameters


async def test_circuits_that_are_not_closed_are_found_without_reading_the_others(
    database: Database, store: Store
) -> None:
    """The reconciler and the overview ask every few seconds, also with 100,000 endpoints."""
    tenant_gid = (await store.subscribed()).tenant_gid
    endpoints = [Endpoint(tenant_gid=tenant_gid, url="https://a.example/", signatures=[]) for _ in range(MANY)]
    await keep(database, *endpoints)
    await keep(database, *(CircuitRow(endpoint_gid=each.gid) for each in endpoints))
    async with database.write_connection() as connection:
        await connection.execute(text("ANALYZE"))
    statements = recorded(database)
    async with database.read_connection() as connection:
        await circuits.stalled_circuits(connection, now(), HOUR)
    async with database.reading() as session:
        await troubled_circuits(session, None)
    stalled, unhealthy = [one for one in statements.items() if "circuit" in one[0]]
    assert "ix_circuit_until" in await plan_of(database, *stalled)
    if not database.is_sqlite:  # which reads the table for an OR of two conditions
        plan = await plan_of(database, *unhealthy)
        assert "ix_circuit_until" in plan and "ix_circuit_hold" in plan, plan
