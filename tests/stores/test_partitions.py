"""Partitions by month on PostgreSQL: created ahead, dropped when past, and converted from tables that are in use."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
import sqlalchemy as sa
from sqlmodel import col

from everhook.contracts import DeliveryStatus
from everhook.ids import Kind, first_gid_at, new_gid
from everhook.storage import partitions
from everhook.storage.bulk import Bulk
from everhook.storage.engine import Database
from everhook.storage.migrate import migrate
from everhook.storage.partition_upkeep import change_partitions
from everhook.storage.partitions import PARTITIONED, Partition, partitions_of, roll_over
from everhook.storage.tables import Delivery, Gate, Message, Task, now
from everhook.tenants import months_store
from everhook.tenants.retention_store import RetentionPeriods, apply_retention
from testing.waiting import assert_eventually
from tests.stores import past
from tests.stores.conftest import Copies
from tests.stores.factories import Store, accepted, publication
from tests.stores.past import keep
from tests.stores.plans import recorded
from tests.stores.receipt_factory import Log
from tests.stores.schema import assert_as_modelled
from tests.stores.test_online_schema import _CutOff, connected, cut_off_at, statements_seen, upgrade_to

BEFORE_PARTITIONS = "0007"
YEAR_AGO = timedelta(days=365)


async def on(database: Database, change: Callable[[sa.Connection], Any]) -> Any:
    return await change_partitions(database, change, lambda: None)


async def months(database: Database, table: str) -> list[Partition]:
    found: list[Partition] = await on(database, lambda connection: partitions_of(connection, table))
    return found


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Database]:
    database = Database(url)
    try:
        yield database
    finally:
        await database.close()


async def a_year_old(url: str) -> None:
    await _created_at(url, now() - YEAR_AGO)


async def half_a_year_old(url: str) -> None:
    await _created_at(url, now() - timedelta(days=200))


async def _created_at(url: str, moment: datetime) -> None:
    """Make a migrated database as if it was created at that moment."""
    async with opened(url) as database:
        await on(database, lambda connection: _as_of(connection, moment))


def _as_of(connection: sa.Connection, moment: datetime) -> None:
    for table in PARTITIONED:
        for each in partitions_of(connection, table)[:-1]:
            connection.execute(sa.text(f"DROP TABLE {each.name}"))
        [last] = partitions_of(connection, table)
        connection.execute(sa.text(f"ALTER TABLE {table} DETACH PARTITION {last.name}"))
        connection.execute(sa.text(f"ALTER TABLE {last.name} RENAME TO {table}_past"))
        connection.execute(
            sa.text(f"ALTER TABLE {table} ATTACH PARTITION {table}_past FOR VALUES FROM (MINVALUE) TO (MAXVALUE)")
        )
    while moment < now():
        roll_over(connection, moment)
        moment += timedelta(days=28)
    roll_over(connection, now())


@pytest.mark.parametrize("table", PARTITIONED)
async def test_partitions_are_created_ahead_and_leave_no_gap(migrated_url: str, table: str) -> None:
    async with opened(migrated_url) as database:
        found = await months(database, table)
        assert (found[0].lower, found[-1].upper) == (None, None)
        assert [each.upper for each in found[:-1]] == [each.lower for each in found[1:]]
        _, kind = PARTITIONED[table]
        assert found[-1].lower is not None and found[-1].lower > first_gid_at(kind, now() + partitions.AHEAD)
        await on(database, lambda connection: roll_over(connection, now()))
        assert await months(database, table) == found


async def test_a_row_with_any_clock_is_accepted(migrated_url: str) -> None:
    async with opened(migrated_url) as database:
        clocks = [datetime(1999, 1, 1, tzinfo=UTC), now(), now() + timedelta(days=90), datetime(2099, 1, 1, tzinfo=UTC)]
        for moment in clocks:
            gid = first_gid_at(Kind.MESSAGE, moment)[:-16] + new_gid(Kind.MESSAGE)[-16:]
            await keep(database, past.message(0, gid=gid))
        await on(database, lambda connection: roll_over(connection, now() + YEAR_AGO))  # leaves those of 2099 alone
        assert await Store(database).count(Message) == len(clocks)


async def test_a_last_partition_in_use_is_closed_without_a_scan_under_a_lock(migrated_url: str) -> None:
    """As after months in which no process created partitions."""
    async with opened(migrated_url) as database:
        last = (await months(database, "message"))[-1]
        assert last.lower is not None
        late = now() + timedelta(days=120)
        await keep(database, past.message(-119))
        statements: list[str] = []
        with statements_seen(statements.append):
            await on(database, lambda connection: roll_over(connection, late))
        validated = next(n for n, sql in enumerate(statements) if "VALIDATE" in sql and "message_until" in sql)
        attached = next(n for n, sql in enumerate(statements) if f"ATTACH PARTITION {last.name}" in sql)
        assert validated < attached
        assert await Store(database).count(Message) == 1
        assert not any("until" in name for name in await _checks(migrated_url))


async def _checks(url: str) -> list[str]:
    async with connected(url) as connection:
        return [row[0] for row in await connection.fetch("SELECT conname FROM pg_constraint WHERE contype = 'c'")]


async def test_past_months_are_dropped_and_unfinished_messages_stay(copies: Copies) -> None:
    async with opened(await copies.of(migrate, a_year_old)) as database:
        store = Store(database)
        endpoint = await store.subscribed()
        old, dead, late = past.message(300), past.message(301, idempotency_key="k"), past.message(250)
        recent = past.message(20)
        over = past.delivery(old, endpoint, ended=299, gid=past.gid_of(Kind.DELIVERY, 300))
        waits = past.delivery(
            dead, endpoint, ended=None, status=DeliveryStatus.DEAD_LETTERED, gid=past.gid_of(Kind.DELIVERY, 301)
        )
        other = past.delivery(dead, endpoint, ended=300, gid=past.gid_of(Kind.DELIVERY, 301))
        ended_late = past.delivery(late, endpoint, ended=10, gid=past.gid_of(Kind.DELIVERY, 250))
        young = past.delivery(recent, endpoint, ended=19, gid=past.gid_of(Kind.DELIVERY, 20))
        deliveries = [over, waits, other, ended_late, young]
        await keep(database, old, dead, late, recent, *deliveries, *map(past.attempt, deliveries))
        asked = [over, waits]
        await keep(database, *map(_task, asked), *map(_gate, asked))
        before = [each.name for each in await months(database, "message")]
        await apply_retention(Bulk(database), RetentionPeriods(idempotency_keys=None, payloads=None))
        kept = [waits, other, ended_late, young]
        assert await _gids(database, "message") == {dead.gid, late.gid, recent.gid}
        assert await _gids(database, "delivery") == {each.gid for each in kept}
        assert await _gids(database, "attempt", "delivery_gid") == {each.gid for each in kept}
        for table in ("task", "gate"):
            assert await _gids(database, table, "delivery_gid") == {waits.gid}
        after = [each.name for each in await months(database, "message")]
        assert len(after) < len(before) - 6 and after[0] == "message_past"
        assert await on(database, partitions.dropped) == []
        again = accepted(await store.acceptor().accept(publication(key="k", body_sha256="")))
        assert again.duplicate and again.message_gid == dead.gid


@pytest.mark.parametrize("status", [DeliveryStatus.RETRYING, DeliveryStatus.DELIVERED])
async def test_a_delivery_that_is_replayed_after_a_pass_has_looked_at_its_month_stays(
    copies: Copies, status: DeliveryStatus
) -> None:
    async with opened(url := await copies.of(migrate, a_year_old)) as database, opened(url) as other:
        store = Store(database)
        message = past.message(300)
        endpoint = await store.subscribed()
        delivery = past.delivery(message, endpoint, ended=299, gid=past.gid_of(Kind.DELIVERY, 300))
        await keep(database, message, delivery)
        async with other.write_connection() as replay:
            # The pass comes to this month late on a busy machine, and PostgreSQL ends transactions that stand still.
            await replay.execute(sa.text("SET LOCAL idle_in_transaction_session_timeout = 0"))
            await replay.execute(sa.select(col(Message.gid)).with_for_update())
            ended = now() if status is DeliveryStatus.DELIVERED else None
            await replay.execute(sa.update(Delivery).values(status=status, completed_at=ended))
            periods = RetentionPeriods(idempotency_keys=None, payloads=None)
            passing = asyncio.create_task(apply_retention(Bulk(database), periods))
            await assert_eventually(lambda: _assert_waits(database, "delivery"))
        await passing
        assert await _gids(database, "message") == {message.gid}
        assert await _gids(database, "delivery") == {delivery.gid}


async def _assert_waits(database: Database, table: str) -> None:
    """A statement waits for a lock of a table or of one of its partitions."""
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation::regclass::text LIKE :table"
    async with database.read_connection() as connection:
        assert (await connection.execute(sa.text(waiting), {"table": f"{table}%"})).scalar_one()


def _task(of: Delivery) -> Task:
    return Task(
        tenant_gid=of.tenant_gid,
        delivery_gid=of.gid,
        message_gid=of.message_gid,
        endpoint_gid=of.endpoint_gid,
        document={},
        due_at=now(),
    )


def _gate(of: Delivery) -> Gate:
    return Gate(message_gid=of.message_gid, delivery_gid=of.gid, steps=[])


async def _gids(database: Database, table: str, column: str = "gid") -> set[str]:
    async with database.read_connection() as connection:
        return set((await connection.execute(sa.text(f"SELECT {column} FROM {table}"))).scalars())


async def test_a_month_with_too_many_unfinished_messages_stays(copies: Copies, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(months_store, "KEPT", 1)
    async with opened(await copies.of(migrate, a_year_old)) as database:
        endpoint = await Store(database).subscribed()
        for days in (121, 122):
            message = past.message(days)
            gid = past.gid_of(Kind.DELIVERY, days)
            await keep(database, message, past.delivery(message, endpoint, ended=1, gid=gid))
        before = await months(database, "message")
        await apply_retention(Bulk(database), RetentionPeriods())
        assert await months(database, "message") == before
        assert len(await _gids(database, "message")) == 2


@pytest.mark.parametrize("statement", [1, 3, 5, 8, 12, 16, 20])
async def test_dropping_months_that_was_cut_off_is_completed_by_the_next_pass(copies: Copies, statement: int) -> None:
    async with opened(await copies.of(migrate, half_a_year_old)) as database:
        endpoint = await Store(database).subscribed()
        messages = [past.message(days, idempotency_key=str(days)) for days in (150, 160)]
        ended: list[float | None] = [149, None]
        deliveries = [
            past.delivery(each, endpoint, ended=at, gid=past.gid_of(Kind.DELIVERY, 150 + 10 * n))
            for n, (each, at) in enumerate(zip(messages, ended, strict=True))
        ]
        await keep(database, *messages, *deliveries, *map(past.attempt, deliveries))
        with statements_seen(cut_off_at(statement)), pytest.raises(_CutOff):
            await apply_retention(Bulk(database), RetentionPeriods())
        await apply_retention(Bulk(database), RetentionPeriods())
        assert await _gids(database, "message") == {messages[1].gid}
        assert await _gids(database, "delivery") == {deliveries[1].gid}
        assert await _gids(database, "attempt", "delivery_gid") == {deliveries[1].gid}
        assert await on(database, partitions.dropped) == []


# Conversion of a database from before partitions

OLD_PUBLISH = (
    "INSERT INTO message (gid, channel, event_type, body_sha256, idempotency_scope, idempotency_key, published_at, "
    "accepted_at) VALUES ($1, 'orders', 'order.created', '', '', $2, now(), now()) "
    "ON CONFLICT (idempotency_scope, channel, idempotency_key) DO NOTHING RETURNING gid"
)
"""As the release before partitions publishes."""

OLD_ATTEMPT = (
    "INSERT INTO attempt (gid, delivery_gid, endpoint_gid, round, number, verdict, started_at, duration_ms, url, "
    "request_sha256, connection_reused, redialed) VALUES ($1, $2, 'ep_1', 1, 1, 'delivered', now(), 1, '', '', false, "
    "false) ON CONFLICT (delivery_gid, round, number) DO NOTHING RETURNING gid"
)


@pytest.fixture
async def old_url(copies: Copies) -> str:
    return await copies.of(before_partitions)


async def before_partitions(url: str) -> None:
    await upgrade_to(url, BEFORE_PARTITIONS)
    async with connected(url) as connection:
        await connection.execute("INSERT INTO channel (name, routes_version, created_at) VALUES ('orders', 0, now())")
        for number in range(200):
            await connection.fetch(OLD_PUBLISH, new_gid(Kind.MESSAGE), f"old-{number}" if number % 2 else None)
            await connection.fetch(OLD_ATTEMPT, new_gid(Kind.ATTEMPT), new_gid(Kind.DELIVERY))


@pytest.fixture
async def unconverted_url(copies: Copies) -> str:
    """Of the newest schema, and with the tables as they were before partitions."""
    return await copies.of(before_partitions, migrate)


async def test_processes_of_the_previous_release_keep_working_after_the_migration(old_url: str) -> None:
    """Both releases find each other's idempotency keys."""
    await migrate(old_url)
    database = Database(old_url)
    try:
        acceptor = Store(database).acceptor()
        async with connected(old_url) as old:
            gid = new_gid(Kind.MESSAGE)
            assert await old.fetchval(OLD_PUBLISH, gid, "by old") == gid
            repeat = accepted(await acceptor.accept(publication(key="by old", body_sha256="")))
            assert repeat.duplicate and repeat.message_gid == gid
            assert accepted(await acceptor.accept(publication(key="old-1", body_sha256=""))).duplicate
            assert not accepted(await acceptor.accept(publication(key="by new"))).duplicate
            assert await old.fetchval(OLD_PUBLISH, new_gid(Kind.MESSAGE), "by new") is None
    finally:
        await database.close()
    assert (await _relkind(old_url)) == "r"
    await assert_as_modelled(old_url)


async def _relkind(url: str) -> str:
    async with connected(url) as connection:
        found: str = await connection.fetchval("SELECT relkind::text FROM pg_class WHERE relname = 'message'")
        return found


async def test_publishing_continues_while_tables_are_converted(unconverted_url: str) -> None:
    done = asyncio.Event()
    database = Database(unconverted_url)
    published: list[str] = []

    async def publish() -> None:
        acceptor = Store(database).acceptor()
        while not done.is_set():
            key = f"new-{len(published)}"
            published.append(accepted(await acceptor.accept(publication(key=key))).message_gid)

    publisher = asyncio.create_task(publish())
    try:
        await migrate(unconverted_url, partition=True)
    finally:
        done.set()
        await publisher
    assert set(published) <= await _gids(database, "message")
    assert len(await _gids(database, "message")) == 200 + len(published)
    async with connected(unconverted_url) as old:
        gid = new_gid(Kind.DELIVERY)
        assert await old.fetchval(OLD_ATTEMPT, new_gid(Kind.ATTEMPT), gid)
        assert await old.fetchval(OLD_ATTEMPT, new_gid(Kind.ATTEMPT), gid) is None
    assert accepted(await Store(database).acceptor().accept(publication(key="old-3", body_sha256=""))).duplicate
    await database.close()
    await assert_as_modelled(unconverted_url)


@pytest.mark.parametrize("statement", range(1, 90, 9))
async def test_a_conversion_that_was_cut_off_anywhere_can_be_run_again(unconverted_url: str, statement: int) -> None:
    with statements_seen(cut_off_at(statement)), pytest.raises(_CutOff):
        await migrate(unconverted_url, partition=True)
    await migrate(unconverted_url, partition=True)
    assert await _relkind(unconverted_url) == "p"
    async with connected(unconverted_url) as connection:
        assert await connection.fetchval("SELECT count(*) FROM attempt") == 200
    await assert_as_modelled(unconverted_url)


BEFORE_CHANNELS = "0017"
"""The migration after it replaces the index of payloads."""


@pytest.fixture
async def partitioned(copies: Copies) -> str:
    return await copies.of(before_channels)


async def before_channels(url: str) -> None:
    """A database with partitions, before the migration that replaces an index of them."""
    await upgrade_to(url, BEFORE_CHANNELS)
    async with opened(url) as database:
        await on(database, partitions.convert)
        await on(database, lambda connection: roll_over(connection, now()))
    async with connected(url) as connection:
        for days in (60, 1):
            await connection.execute(OLD_MESSAGE, past.gid_of(Kind.MESSAGE, days))


OLD_MESSAGE = (
    "INSERT INTO message (gid, channel, event_type, payload, body_sha256, idempotency_scope, published_at, accepted_at)"
    " VALUES ($1, 'orders', 'a', 'x', '', '', now(), now())"
)


async def test_an_index_of_partitions_is_replaced_while_others_publish(partitioned: str) -> None:
    done = asyncio.Event()

    async def publish() -> int:
        written = 0
        async with connected(partitioned, lock_timeout="1s") as connection:
            while not done.is_set():
                with suppress(asyncpg.exceptions.InvalidCachedStatementError):
                    await connection.execute(OLD_MESSAGE, new_gid(Kind.MESSAGE))
                    written += 1
        return written

    publisher = asyncio.create_task(publish())
    try:
        await migrate(partitioned)
    finally:
        done.set()
    assert await publisher > 0
    await _assert_by_channel(partitioned)


@pytest.mark.parametrize("statement", range(1, 10))
async def test_the_replacement_of_an_index_that_was_cut_off_is_completed(partitioned: str, statement: int) -> None:
    with statements_seen(cut_off_at(statement)), pytest.raises(_CutOff):
        await migrate(partitioned)
    await migrate(partitioned)
    await _assert_by_channel(partitioned)


async def _assert_by_channel(url: str) -> None:
    """All partitions have the new index, and none has the old one."""
    async with connected(url) as connection:
        rows = await connection.fetch(
            "SELECT indrelid::regclass::text AS name, indisvalid, pg_get_indexdef(indexrelid) AS definition "
            "FROM pg_index WHERE pg_get_indexdef(indexrelid) LIKE '%(payload IS NOT NULL)%'"
        )
        tables = await connection.fetch("SELECT relid::text FROM pg_partition_tree('message')")
    assert sorted(row["name"] for row in rows) == sorted(row["relid"] for row in tables)
    assert all(row["indisvalid"] and "(channel, gid)" in row["definition"] for row in rows)
    await assert_as_modelled(url)


async def test_rights_are_kept_by_a_conversion(unconverted_url: str) -> None:
    async with connected(unconverted_url) as connection:
        await connection.execute("DROP ROLE IF EXISTS reader")
        await connection.execute("CREATE ROLE reader")
        await connection.execute("GRANT SELECT, INSERT ON message TO reader")
        await migrate(unconverted_url, partition=True)
        assert await connection.fetchval("SELECT has_table_privilege('reader', 'message', 'SELECT, INSERT')")


async def test_a_statement_by_gid_opens_one_partition(migrated_url: str) -> None:
    """With a plan that is made once for all executions."""
    async with opened(migrated_url), connected(migrated_url, plan_cache_mode="force_generic_plan") as one:
        await one.execute("PREPARE by_gid (text) AS UPDATE delivery SET attempts = 1 WHERE gid = $1")
        plan = await one.fetch(f"EXPLAIN (ANALYZE) EXECUTE by_gid ('{new_gid(Kind.DELIVERY)}')")
        text = "\n".join(row[0] for row in plan)
        assert "Subplans Removed" in text and text.count("Index Scan") == 1


async def test_sealing_reads_only_the_months_of_its_receipts(copies: Copies) -> None:
    """Also by a hash join, which PostgreSQL chooses for many receipts."""
    async with opened(await copies.of(migrate, a_year_old)) as database:
        log = Log(database)
        await log.grow(2)
        statements = recorded(database)
        await log.seal()
        [(sql, parameters)] = [each for each in statements.items() if "UPDATE receipt" in each[0]]
        await log.grow(2)
        async with database.write_connection() as connection:
            await connection.execute(sa.text("SET LOCAL enable_nestloop = off"))
            plan = await connection.exec_driver_sql(f"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) {sql}", parameters)
            lines = [row[0] for row in plan]
        joined = "\n".join(lines).partition("Join")[2]
        assert len(re.findall(r" on receipt_\w+ receipt_\d+ \(actual", joined)) == 1, "\n".join(lines)
