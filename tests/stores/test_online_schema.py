"""Migrations on PostgreSQL while others write: no write waits long, nothing is lost, failures are repeatable."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import asyncpg
import pytest
from alembic import command
from sqlalchemy import Engine, event, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from everhook.notifications.events import EVENTS_CHANNEL
from everhook.storage import partitions
from everhook.storage.batching import BatchExecutor
from everhook.storage.engine import Database
from everhook.storage.migrate import alembic_config, migrate
from everhook.storage.partition_upkeep import change_partitions
from everhook.storage.tables import Channel, now
from testing.postgres_server import PostgresServer
from tests.stores.conftest import Copies
from tests.stores.schema import assert_as_modelled

ROWS = 3_000
FIRST_SCHEMA = "0001"

INSERT = (
    "INSERT INTO receipt (gid, tenant_gid, delivery_gid, attempt_gid, round, number, jws, seq, created_at) "
    "VALUES ($1, 'ten_1', $1, $1, 1, 1, 'x', $2, now())"
)


async def upgrade_to(url: str, revision: str) -> None:
    await asyncio.to_thread(command.upgrade, alembic_config(url), revision)


@asynccontextmanager
async def connected(url: str, **settings: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url.replace("+asyncpg", ""), server_settings=settings)
    try:
        yield connection
    finally:
        await connection.close()


@pytest.fixture
async def old_url(copies: Copies) -> str:
    return await copies.of(first_schema)


async def first_schema(url: str) -> None:
    """A database of the first schema, with receipts in it."""
    await upgrade_to(url, FIRST_SCHEMA)
    async with connected(url) as connection:
        await connection.executemany(INSERT, [(f"rcp_{n}", n if n % 2 else None) for n in range(ROWS)])
        await connection.execute(
            "INSERT INTO receipt_hash (tenant_gid, level, index, hash) "
            "SELECT 'ten_1', 0, n, 'x'::bytea FROM generate_series(1, 1000) n"
        )


async def test_writers_continue_while_the_first_schema_is_migrated_to_the_newest(old_url: str) -> None:
    """Their statements wait for a lock for less than a second, or fail."""
    done = asyncio.Event()

    async def write() -> int:
        written = ROWS
        async with connected(old_url, lock_timeout="1s") as connection:
            while not done.is_set():
                try:
                    await connection.execute(INSERT, f"rcp_{written}", written)
                except asyncpg.exceptions.InvalidCachedStatementError:
                    continue  # the statement is prepared anew
                await connection.execute("UPDATE receipt SET seq = seq WHERE gid = $1", f"rcp_{written - ROWS}")
                written += 1
        return written

    writer = asyncio.create_task(write())
    try:
        await migrate(old_url)
    finally:
        done.set()
    written = await writer
    async with connected(old_url) as connection:
        rows = await connection.fetch("SELECT gid, seq FROM receipt")
        assert {row["gid"]: row["seq"] for row in rows} == {
            **{f"rcp_{n}": n if n % 2 else None for n in range(ROWS)},
            **{f"rcp_{n}": n for n in range(ROWS, written)},
        }
        kinds = await connection.fetch(
            "SELECT table_name, column_name FROM information_schema.columns WHERE data_type = 'bigint' "
            "AND (table_name, column_name) IN (('receipt', 'seq'), ('receipt_hash', 'index'), ('receipt_seal', 'size'))"
        )
        assert len(kinds) == 3
        leftovers = "SELECT relname FROM pg_class WHERE relname LIKE '%\\_\\_wide' OR relname LIKE '%\\_\\_new'"
        assert await connection.fetch(leftovers) == []
    await assert_as_modelled(old_url)


async def test_a_transaction_that_stays_open_delays_the_migration_and_no_other_writer(old_url: str) -> None:
    reported: list[str] = []
    async with connected(old_url) as idle, connected(old_url, lock_timeout="3s") as writer:
        transaction = idle.transaction()
        await transaction.start()
        await idle.execute("UPDATE receipt SET jws = 'y' WHERE gid = 'rcp_1'")
        migrating = asyncio.create_task(migrate(old_url, reported.append))
        while not any("trying again" in line for line in reported):
            await writer.execute("UPDATE receipt SET jws = 'z' WHERE gid = 'rcp_2'")
            await asyncio.sleep(0.05)
        assert not migrating.done()
        await transaction.commit()
    await migrating
    assert any(line.startswith("0004:") for line in reported), reported


@pytest.mark.parametrize("statement", [3, 9, 14, 20, 26, 33, 41, 55])
async def test_a_migration_that_was_cut_off_anywhere_can_be_run_again(old_url: str, statement: int) -> None:
    """As by a lost connection: what was not committed by then is gone."""
    with statements_seen(cut_off_at(statement)), pytest.raises(_CutOff):
        await migrate(old_url)
    await migrate(old_url)
    async with connected(old_url) as connection:
        assert await connection.fetchval("SELECT count(*) FROM receipt") == ROWS
        assert await connection.fetchval("SELECT max(seq) FROM receipt") == ROWS - 1
    await assert_as_modelled(old_url)


class _CutOff(Exception):
    """Raised in place of a statement."""


@contextmanager
def statements_seen(see: Callable[[str], None]) -> Iterator[None]:
    """Call `see` with each statement, before it is executed."""

    def before(_connection: Any, _cursor: Any, sql: str, *_: Any) -> None:
        see(" ".join(sql.split()))

    event.listen(Engine, "before_cursor_execute", before)
    try:
        yield
    finally:
        event.remove(Engine, "before_cursor_execute", before)


def cut_off_at(number: int) -> Callable[[str], None]:
    """Fails at the `number`th statement that changes something."""
    changes = 0

    def see(sql: str) -> None:
        nonlocal changes
        changes += sql.startswith(("CREATE", "ALTER", "DROP", "UPDATE", "LOCK", "INSERT"))
        if changes == number:
            raise _CutOff(sql)

    return see


async def test_a_running_process_keeps_working_after_a_migration_has_changed_its_tables(new_postgres_url: str) -> None:
    """Its prepared statements are older than the tables. What is grouped is done again; nothing is refused."""
    await migrate(new_postgres_url)
    database = Database(new_postgres_url)

    async def versions(connection: AsyncConnection, names: Sequence[str]) -> Sequence[Any]:
        rows = await connection.execute(select(col(Channel.name), col(Channel.routes_version)))
        found = {row.name: row.routes_version for row in rows}
        return [found[name] for name in names]

    batches = BatchExecutor(database.read_connection, versions)
    try:
        before = await batches.submit(EVENTS_CHANNEL)
        async with connected(new_postgres_url) as connection:
            await connection.execute("ALTER TABLE channel ALTER COLUMN routes_version TYPE NUMERIC")
        assert await batches.submit(EVENTS_CHANNEL) == before
    finally:
        await database.close()


async def test_an_index_of_a_partitioned_table_is_built_partition_by_partition(new_postgres_url: str) -> None:
    """Also after a failure in between; a partition that is created later has it from the start."""
    await upgrade_to(new_postgres_url, "0011")
    database = Database(new_postgres_url)
    try:
        for change in (partitions.convert, lambda connection: partitions.roll_over(connection, now())):
            await change_partitions(database, change, lambda: None)
    finally:
        await database.close()
    statements: list[str] = []
    with statements_seen(statements.append), statements_seen(fails_at("CONCURRENTLY", 2)), pytest.raises(_CutOff):
        await migrate(new_postgres_url)
    assert [hazard for each in by_migration(statements) for hazard in hazards(each)] == []
    await migrate(new_postgres_url)
    valid = (
        "SELECT t.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
        "JOIN pg_class t ON t.oid = i.indrelid WHERE i.indisvalid AND t.relname LIKE 'message%' "
        "AND c.relname LIKE '%ix_message_unrouted' ORDER BY 1"
    )
    tables = (
        "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND relname ~ '^message(_past|_[0-9]|$)' ORDER BY 1"
    )
    async with connected(new_postgres_url) as connection:
        names = [row[0] for row in await connection.fetch(tables)]
        assert len(names) >= 3
        assert [row[0] for row in await connection.fetch(valid)] == names
    await assert_as_modelled(new_postgres_url)


def fails_at(word: str, number: int) -> Callable[[str], None]:
    """Fails at the `number`th statement with a word."""
    seen = 0

    def see(sql: str) -> None:
        nonlocal seen
        seen += word in sql
        if seen == number:
            raise _CutOff(sql)

    return see


# Collations


async def test_gids_sort_bytewise_under_any_collation_of_the_database(postgres: PostgresServer) -> None:
    """In Czech `ch` is a letter after `h`, so that `01ch` comes after `01d0`, which was created later."""
    url = (await postgres.create_database("czech", icu_locale="cs-CZ")).replace("://", "+asyncpg://")
    gids = ["dlv_01ch", "dlv_01d0", "dlv_01h0", "dlv_01i0"]
    reported: list[str] = []
    await migrate(url, reported.append)
    async with connected(url) as connection:
        assert await connection.fetchval("SELECT 'dlv_01d0' < 'dlv_01ch'")  # of the database itself
        for gid in gids:
            await connection.execute(
                "INSERT INTO delivery_round (delivery_gid, round, began_at) VALUES ($1, 1, now())", gid
            )
        rows = await connection.fetch("SELECT delivery_gid FROM delivery_round ORDER BY delivery_gid")
        assert [row["delivery_gid"] for row in rows] == gids
        compared = await connection.fetch(
            "SELECT c.relname, a.attname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid "
            "JOIN pg_collation l ON l.oid = a.attcollation WHERE c.relkind IN ('r', 'i') AND l.collname <> 'C' "
            "AND c.relnamespace = 'public'::regnamespace AND (a.attname = 'gid' OR a.attname LIKE '%\\_gid')"
        )
        assert compared == []
    assert "delivery: ids have the collation C" in reported
    again: list[str] = []
    await migrate(url, again.append)
    assert again == []


async def test_a_database_that_sorts_gids_bytewise_is_left_alone(new_postgres_url: str) -> None:
    reported: list[str] = []
    await migrate(new_postgres_url, reported.append)
    assert [line for line in reported if "collation" in line] == []


# The rule for migrations: what would keep writers waiting on a table that was there before

HAZARDS = {
    "an index is not built CONCURRENTLY": r"CREATE (UNIQUE )?INDEX (?!CONCURRENTLY|.* ON ONLY )",
    "an index is not dropped CONCURRENTLY": r"DROP INDEX (?!CONCURRENTLY)",
    "a type is changed in place": r"ALTER TABLE .* ALTER COLUMN .* TYPE",
    "a constraint is checked under a lock": r"ALTER TABLE .* ADD (CONSTRAINT \S+ )?(CHECK|FOREIGN KEY)(?!.*NOT VALID)",
    "a key is built under a lock": r"ALTER TABLE .* ADD (CONSTRAINT \S+ )?(PRIMARY KEY|UNIQUE)(?! USING INDEX)",
    "a default is computed for each row": r"ALTER TABLE .* ADD COLUMN .* DEFAULT (?!('[^']*'|[\d.]+|true|false))",
    "a large table is updated at once": r"UPDATE (delivery|message|attempt|receipt|receipt_hash)\b(?!.*ctid)",
}


CANNOT_RUN_TWICE = re.compile(r"CREATE TABLE (?!IF NOT EXISTS)|ALTER TABLE .* ADD COLUMN (?!IF NOT EXISTS)")


def hazards(statements: Iterable[str]) -> list[str]:
    """What is wrong with the statements of one migration."""
    created: set[str] = set()
    found: list[str] = []
    once: list[str] = []
    for sql in statements:
        if "CONCURRENTLY" in sql:  # what came before is committed, and runs again after a failure
            found += [f"cannot run twice: {before}" for before in once]
            once.clear()
        if CANNOT_RUN_TWICE.match(sql):
            once.append(sql)
        if (new := re.match(r"CREATE TABLE (?:IF NOT EXISTS )?(\w+)", sql)) is not None:
            created.add(new.group(1))
        table = re.search(r"\b(?:ON|TABLE|UPDATE) (\w+)", sql)
        if table is None or table.group(1) not in created:
            found += [f"{what}: {sql}" for what, pattern in HAZARDS.items() if re.match(pattern, sql)]
    return found


def by_migration(statements: Sequence[str]) -> list[Sequence[str]]:
    """Each migration ends with a change of the version. Partitions, which come after all of them, are left out."""
    ends = [i for i, sql in enumerate(statements) if re.match(r"(INSERT INTO|UPDATE) alembic_version", sql)]
    starts = [0, *(end + 1 for end in ends)]
    return [statements[start:end] for start, end in zip(starts, ends, strict=False)]


async def test_no_migration_keeps_writers_waiting(new_postgres_url: str) -> None:
    statements: list[str] = []
    with statements_seen(statements.append):
        await migrate(new_postgres_url)
    migrations = by_migration(statements)
    assert len(migrations) >= 6
    assert [hazard for each in migrations for hazard in hazards(each)] == []


@pytest.mark.parametrize(
    ("statements", "expected"),
    [
        (["CREATE INDEX ix ON delivery (gid)"], 1),
        (["CREATE UNIQUE INDEX ix ON delivery (gid)"], 1),
        (["CREATE INDEX CONCURRENTLY ix ON delivery (gid)"], 0),
        (["CREATE INDEX ix ON ONLY delivery (gid)"], 0),
        (["CREATE TABLE new ( gid VARCHAR )", "CREATE INDEX ix ON new (gid)"], 0),
        (["ALTER TABLE t ADD COLUMN c VARCHAR", "CREATE INDEX CONCURRENTLY ix ON delivery (gid)"], 1),
        (["ALTER TABLE t ADD COLUMN IF NOT EXISTS c VARCHAR", "CREATE INDEX CONCURRENTLY ix ON delivery (gid)"], 0),
        (["DROP INDEX ix"], 1),
        (["ALTER TABLE receipt ALTER COLUMN seq TYPE BIGINT"], 1),
        (["ALTER TABLE receipt ADD CONSTRAINT c CHECK (seq > 0)"], 1),
        (["ALTER TABLE receipt ADD CONSTRAINT c CHECK (seq > 0) NOT VALID"], 0),
        (["ALTER TABLE receipt ADD CONSTRAINT k UNIQUE (seq)"], 1),
        (["ALTER TABLE receipt ADD CONSTRAINT k UNIQUE USING INDEX ix"], 0),
        (["ALTER TABLE receipt ADD COLUMN at TIMESTAMP DEFAULT clock_timestamp()"], 1),
        (["ALTER TABLE receipt ADD COLUMN cost INTEGER DEFAULT '1' NOT NULL"], 0),
        (["UPDATE delivery SET status = 'parked'"], 1),
    ],
)
def test_a_hazard_is_found(statements: list[str], expected: int) -> None:
    assert len(hazards(statements)) == expected
