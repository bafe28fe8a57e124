"""Alembic's environment. The URL of the database comes from `everhook.storage.migrate`."""

import asyncio
from typing import Any, Literal

import sqlalchemy as sa
from alembic import context
from sqlalchemy import Connection, text
from sqlmodel import SQLModel
from sqlmodel.sql.sqltypes import AutoString

from everhook.storage import tables
from everhook.storage.engine import Database

MIGRATION_LOCK = 4_719_008_823
"""The key of the advisory lock that lets one process at a time migrate; an arbitrary number."""


def _render_item(kind: str, item: Any, _context: Any) -> str | Literal[False]:
    """Render plain SQL types in migrations, so that old migrations do not change with the code."""
    if kind != "type":
        return False
    if isinstance(item, tables.UtcDateTime):
        return "sa.DateTime(timezone=True)"
    if isinstance(item, sa.Enum):
        return f"sa.String(length={item.length})"
    return "sa.String()" if isinstance(item, AutoString) else False


def _run(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text("SET LOCAL statement_timeout = 0"))  # also for the wait for the lock
        connection.execute(text(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})"))
    context.configure(
        connection=connection, target_metadata=SQLModel.metadata, render_as_batch=True, render_item=_render_item
    )
    with context.begin_transaction():
        context.run_migrations()


async def _main() -> None:
    """Migrate in one transaction that only one process at a time can be in: on SQLite it begins with the write lock."""
    database = Database(context.config.attributes["database_url"], response_timeout=None, create=True)
    try:
        async with database.write_connection() as connection:
            await connection.run_sync(_run)
    finally:
        await database.close()


asyncio.run(_main())
