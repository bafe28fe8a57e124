"""Alembic's environment. The URL of the database comes from `everhook.storage.migrate`."""

import asyncio
import re
import time
from typing import Any, Literal

import sqlalchemy as sa
from alembic import context
from alembic.runtime.migration import MigrationInfo
from alembic.script import Script
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool
from sqlmodel import SQLModel
from sqlmodel.sql.sqltypes import AutoString

from everhook.storage import partitions, tables
from everhook.storage.engine import Database
from everhook.storage.online_schema import LOCK_TIMEOUT, sort_ids_bytewise

LOCK_POLL_S = 0.5
LOCK_NOT_AVAILABLE = "55P03"
TRIES = 120
"""How often a migration is tried again after a lock was not granted. With the waits in between: about ten minutes."""

TRY_AGAIN_S = 3.0


def _render_item(kind: str, item: Any, _context: Any) -> str | Literal[False]:
    """Render plain SQL types in migrations, so that old migrations do not change with the code."""
    if kind != "type":
        return False
    if isinstance(item, tables.UtcDateTime):
        return "sa.DateTime(timezone=True)"
    if isinstance(item, sa.Enum):
        return f"sa.String(length={item.length})"
    return "sa.String()" if isinstance(item, AutoString) else False


def _is_compared(_item: Any, name: str | None, _kind: str, reflected: bool, _other: Any) -> bool:
    """Whether `alembic check` compares an item with the models. See `partitions.REPLACED_BY_PARTITIONS`; and on SQLite
    a unique constraint cannot be dropped without a copy of the table."""
    if reflected:
        return name not in {*partitions.REPLACED_BY_PARTITIONS, "uq_receipt_seq"}
    return name != "ix_receipt_seq" or context.get_context().dialect.name != "sqlite"


def _is_named(name: str | None, kind: str, _parents: Any) -> bool:
    """Whether a name in the database is one of Everhook's models, and not that of a partition."""
    tables_with_months = "|".join(partitions.PARTITIONED)
    return kind != "table" or re.fullmatch(rf"({tables_with_months})_(past|\d{{6}})", name or "") is None


def _report(line: str) -> None:
    report = context.config.attributes.get("report")
    if report is not None:
        report(line)


def _applied(ctx: Any, step: MigrationInfo, heads: Any, run_args: Any) -> None:
    """Alembic's callback after each migration; it names its arguments."""
    script = step.up_revision
    if step.is_upgrade and isinstance(script, Script):
        _report(f"{script.revision}: {script.doc}")


def _run(connection: Connection, *, transaction_per_migration: bool) -> None:
    context.configure(
        connection=connection,
        target_metadata=SQLModel.metadata,
        render_as_batch=True,
        render_item=_render_item,
        include_object=_is_compared,
        include_name=_is_named,
        transaction_per_migration=transaction_per_migration,
        on_version_apply=_applied,
    )
    with context.begin_transaction():
        context.run_migrations()


def _run_on_postgres(connection: Connection) -> None:
    """Each migration commits by itself. One that cannot get a lock in time is rolled back and tried again."""
    _take_migration_lock(connection)
    for attempt in range(1, TRIES + 1):
        try:
            _run(connection, transaction_per_migration=True)
            for table in sort_ids_bytewise(connection):
                _report(f"{table}: ids have the collation C")
            connection.commit()
            _partition(connection)
        except DBAPIError as error:
            connection.rollback()
            if getattr(error.orig, "sqlstate", None) != LOCK_NOT_AVAILABLE or attempt == TRIES:
                raise
            _report(f"a lock was not granted within {LOCK_TIMEOUT}; trying again ({attempt} of {TRIES})")
            time.sleep(TRY_AGAIN_S)
        else:
            return


def _partition(connection: Connection) -> None:
    """Create partitions ahead; before that convert the tables, if that was asked for or if they are not in use yet."""
    asked_for: bool | None = context.config.attributes.get("partition")
    if asked_for is None:
        return
    if asked_for or not partitions.in_use(connection):
        partitions.convert(connection, _report)
    partitions.roll_over(connection, tables.now(), _report)


def _take_migration_lock(connection: Connection) -> None:
    """Polled, and not waited for: a waiting statement has a snapshot, and a concurrent index build of the process that
    holds the lock would wait for it."""
    statement = text(f"SELECT pg_try_advisory_lock({partitions.MIGRATION_LOCK})")
    while not connection.execute(statement).scalar_one():
        connection.commit()
        time.sleep(LOCK_POLL_S)
    connection.commit()


async def _migrate_sqlite(url: str) -> None:
    """In one transaction, which begins with the write lock: only one process at a time can be in it."""
    database = Database(url, response_timeout=None, create=True)
    try:
        async with database.write_connection() as connection:
            await connection.run_sync(lambda sync: _run(sync, transaction_per_migration=False))
    finally:
        await database.close()


async def _migrate_postgres(url: str) -> None:
    settings = {"application_name": "everhook migrate", "statement_timeout": "0", "lock_timeout": LOCK_TIMEOUT}
    engine = create_async_engine(
        url, poolclass=NullPool, hide_parameters=True, connect_args={"server_settings": settings}
    )
    try:
        async with engine.connect() as connection:
            await connection.run_sync(_run_on_postgres)
    finally:
        await engine.dispose()


_url: str = context.config.attributes["database_url"]
asyncio.run(_migrate_sqlite(_url) if sa.make_url(_url).get_backend_name() == "sqlite" else _migrate_postgres(_url))
