"""The dashboard's queries use indexes on both databases: none reads every delivery or message."""

import re
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncSession

from everhook.contracts import DeliveryStatus
from everhook.dead_letters import store as dead_letters
from everhook.dead_letters.store import DeadLetterFilter
from everhook.delivery import attempts_store as delivery_attempts
from everhook.delivery import store as deliveries
from everhook.delivery.store import DeliveryFilter
from everhook.endpoints import list_store as endpoint_list
from everhook.endpoints import store as endpoints
from everhook.publishing import store as messages
from everhook.publishing.store import MessageFilter
from everhook.storage.engine import Database
from everhook.storage.tables import DEFAULT_TENANT_GID, now
from everhook.storage.tenant_scope import TenantScope
from tests.stores.factories import Store
from tests.stores.plans import analyze, multiply, without_partitions

pytestmark = pytest.mark.both_databases

LARGE = ("delivery", "message", "attempt", "endpoint_minute", "endpoint_minute_error", "operational_event")
"""What grows with every message. Endpoints, circuits and channels do not."""

Question = Callable[[AsyncSession], Awaitable[Any]]


def _deliveries(**chosen: Any) -> Question:
    return lambda session: deliveries.page(session, DeliveryFilter(**chosen), after="dlv_9", limit=50)


def _dead(**chosen: Any) -> Question:
    return lambda session: dead_letters.page(session, DeadLetterFilter(**chosen), after="dlv_9", limit=50)


QUESTIONS: dict[str, Question] = {
    "deliveries": _deliveries(),
    "deliveries of an endpoint": _deliveries(endpoint_gid="ep_1"),
    **{f"{status} deliveries": _deliveries(status=status) for status in DeliveryStatus if status != "delivered"},
    "deliveries of a channel": _deliveries(channel="orders"),
    "deliveries of a type": _deliveries(event_type="order.paid"),
    "deliveries of a channel and a type": _deliveries(channel="orders", event_type="order.paid"),
    "deliveries before a moment": _deliveries(until=now()),
    "dead letters": _dead(),
    "dead letters of a channel": _dead(channel="orders", status_code=503),
    "how many dead letters": lambda session: dead_letters.count(session, DeadLetterFilter()),
    "dead letters by endpoint": lambda session: endpoint_list.dead_letters(session, ["ep_1", "ep_2"]),
    "what endpoints did": lambda session: endpoint_list.traffic(session, ["ep_1", "ep_2"], now()),
    "a circuit's history": lambda session: endpoint_list.circuit_events(session, "ep_1", now(), 50),
    "recent attempts": lambda session: endpoint_list.recent_attempts(session, "ep_1", deliveries=20, limit=15),
    "a delivery": lambda session: deliveries.with_message(session, "dlv_1"),
    "its attempts": lambda session: delivery_attempts.newest_attempts(session, "dlv_1", before=(2, 3), limit=20),
    "its receipts": lambda session: delivery_attempts.receipts_in_order(session, "dlv_1", after=(2, 3), limit=20),
    "the receipts of attempts": lambda session: delivery_attempts.receipts_of(session, "dlv_1", []),
    "messages": lambda session: messages.page(session, MessageFilter(), after="msg_9", limit=50),
    "messages of a channel": lambda session: messages.page(
        session, MessageFilter(channel="orders"), after="msg_9", limit=50
    ),
    "messages of a type": lambda session: messages.page(
        session, MessageFilter(event_type="order.paid"), after="msg_9", limit=50
    ),
    "deliveries of a message": _deliveries(message_gid="msg_1"),
    "how many deliveries of a message": lambda session: deliveries.counts_of_message(session, "msg_1"),
    "endpoints by gid": lambda session: endpoints.by_gid(session, ["ep_1"]),
}


async def test_every_page_is_read_by_an_index(store: Store, database: Database) -> None:
    """Those of all tenants, and those of one."""
    await store.deliveries(3)
    scans = {
        (name, tenant_gid): await full_scans(database, question, tenant_gid)
        for name, question in QUESTIONS.items()
        for tenant_gid in (None, DEFAULT_TENANT_GID)
    }
    assert {page: steps for page, steps in scans.items() if steps} == {}


async def test_a_query_without_an_index_is_detected(database: Database) -> None:
    async def by_error(session: AsyncSession) -> None:
        await session.execute(text("SELECT count(*) FROM delivery WHERE last_error = 'x'"))

    assert await full_scans(database, by_error, None) != []


OWN_INDEXES = {
    DeliveryStatus.ACCEPTED: "ix_delivery_undispatched",
    DeliveryStatus.SENDING: "ix_delivery_due",
    DeliveryStatus.RETRYING: "ix_delivery_astray",
    DeliveryStatus.PARKED: "ix_delivery_astray",
    DeliveryStatus.DEAD_LETTERED: "ix_delivery_astray",
    DeliveryStatus.DISCARDED: "ix_delivery_astray",
}


async def test_rare_statuses_are_found_among_many_deliveries_by_their_own_indexes(
    store: Store, database: Database
) -> None:
    """The primary key would do as well, and look at every delivery of another status on its way."""
    end = await store.subscribed()
    over = await store.delivery(end, status=DeliveryStatus.DELIVERED, due_at=None, dispatched_at=now())
    await multiply(database, over, 1_000)
    for status in OWN_INDEXES:
        await store.delivery(end, status=status, dispatched_at=None if status is DeliveryStatus.ACCEPTED else now())
    await analyze(database)
    for status, index in OWN_INDEXES.items():
        steps = await plan_of(database, _deliveries(status=status), None)
        assert any(index in step or "ix_delivery_parked" in step for step in steps), steps  # as good for a single one
    several = await plan_of(database, _deliveries(status=tuple(OWN_INDEXES)), None)
    assert all(any(index in step for step in several) for index in OWN_INDEXES.values()), several


async def test_rare_rows_are_found_by_their_own_index(store: Store, database: Database) -> None:
    """In the order of the primary key, the database would look at everything else on its way."""
    await multiply(database, await store.delivery(), 1_000)
    await analyze(database)
    for question, index in (
        (_deliveries(event_type="never.was"), "ix_delivery_type"),
        (_deliveries(channel="never-was"), "ix_delivery_channel"),
        (
            lambda session: messages.page(session, MessageFilter(event_type="never.was"), after=None, limit=50),
            "ix_message_type",
        ),
        (
            lambda session: messages.page(session, MessageFilter(is_unrouted=True), after=None, limit=50),
            "ix_message_unrouted",
        ),
    ):
        steps = await plan_of(database, question, None)
        assert any(index in step for step in steps), steps


async def test_a_page_of_a_messages_deliveries_costs_the_page(store: Store, database: Database) -> None:
    """And not a sort of all of them, which may be very many."""
    await store.deliveries(100, message_gid="msg_1")
    await multiply(database, await store.delivery(), 2_000)
    await analyze(database)
    steps = await plan_of(database, _deliveries(message_gid="msg_1"), None)
    assert any("ix_delivery_message" in step for step in steps), steps
    assert not any("Sort" in step or "ORDER BY" in step for step in steps), steps


async def test_a_range_of_time_is_a_range_of_keys(store: Store, database: Database) -> None:
    """So what is newer is not looked at."""
    await store.deliveries(3)
    hour_ago = now() - timedelta(hours=1)
    for since, until in ((hour_ago, None), (None, now()), (hour_ago, now())):
        for question in (
            _deliveries(since=since, until=until),
            lambda session, a=since, b=until: messages.page(
                session, MessageFilter(since=a, until=b), after=None, limit=50
            ),
        ):
            steps = " ".join(await plan_of(database, question, None))
            assert re.search(r"\(gid[<>]\?", steps) or re.search(r"Index Cond: .*gid", steps), steps


async def full_scans(database: Database, question: Question, tenant_gid: str | None) -> Sequence[str]:
    """The steps of its plans that go through a large table from end to end."""
    return [step for step in await plan_of(database, question, tenant_gid) if _is_full_scan(step)]


async def plan_of(database: Database, question: Question, tenant_gid: str | None) -> Sequence[str]:
    asked: list[tuple[str, Any]] = []

    def note(connection: Any, cursor: Any, statement: str, parameters: Any, *rest: Any) -> None:
        asked.append((statement, parameters))

    async with TenantScope(database, tenant_gid).reading() as session:
        connection = await session.connection()
        if not database.is_sqlite:  # tables this small are read whole by default
            await connection.execute(text("SET enable_seqscan = off"))
        event.listen(connection.sync_connection, "before_cursor_execute", note)
        await question(session)
        event.remove(connection.sync_connection, "before_cursor_execute", note)
        explain = "EXPLAIN QUERY PLAN " if database.is_sqlite else "EXPLAIN (COSTS OFF) "
        steps = []
        for statement, parameters in asked:
            plan = await connection.exec_driver_sql(explain + statement, parameters)
            lines = "\n".join(str(row[-1]) for row in plan)
            steps += (lines if database.is_sqlite else await without_partitions(connection, lines)).splitlines()
        if not database.is_sqlite:
            await connection.execute(text("RESET enable_seqscan"))
    assert steps
    return steps


def _is_full_scan(step: str) -> bool:
    """SQLite says `SCAN delivery`, PostgreSQL `Seq Scan on delivery`. Along an index both may stop early."""
    table = re.search(r"\bSCAN (\w+)(?! USING)|Seq Scan on (\w+)", step)
    return table is not None and " USING " not in step and (table[1] or table[2]) in LARGE
