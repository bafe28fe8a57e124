"""Runs changes of partitions on a connection of their own, in a thread: they wait for locks and sleep."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from everhook.storage.engine import Database
from everhook.storage.partitions import MIGRATION_LOCK

Result = TypeVar("Result")

BEAT_S = 2.0
NOT_THE_OWNER = "42501"
REFUSED = {NOT_THE_OWNER, "55P03"}
"""The role may not change tables, or a lock was not granted for long: the next pass tries again."""


async def change_partitions(
    database: Database, change: Callable[[sa.Connection], Result], heartbeat: Callable[[], None]
) -> Result | None:
    """Run a change while no other process migrates. None if one does, or if the change is refused for now."""
    working = asyncio.create_task(asyncio.to_thread(lambda: asyncio.run(_run(database.url, change))))
    while True:
        done, _ = await asyncio.wait([working], timeout=BEAT_S)
        heartbeat()
        if done:
            return await working


async def _run(url: sa.URL, change: Callable[[sa.Connection], Result]) -> Result | None:
    settings = {"application_name": "everhook partitions", "statement_timeout": "0"}
    engine = create_async_engine(
        url, poolclass=NullPool, hide_parameters=True, connect_args={"server_settings": settings}
    )
    try:
        async with engine.connect() as connection:
            return await connection.run_sync(_locked, change)
    finally:
        await engine.dispose()


def _locked(connection: sa.Connection, change: Callable[[sa.Connection], Result]) -> Result | None:
    if not connection.execute(sa.text(f"SELECT pg_try_advisory_lock({MIGRATION_LOCK})")).scalar_one():
        return None
    connection.commit()
    try:
        return change(connection)  # the lock ends with the connection
    except DBAPIError as error:
        connection.rollback()
        if getattr(error.orig, "sqlstate", None) in REFUSED:
            return None
        raise
