"""Transactions that wait for each other."""

from sqlalchemy import text

from everhook.storage.engine import Database
from testing.waiting import assert_eventually


async def until_a_lock_is_awaited(database: Database) -> None:
    """Wait until some transaction of a PostgreSQL waits for a lock."""

    async def is_awaited() -> None:
        async with database.read_connection() as connection:
            assert (await connection.execute(text("SELECT count(*) FROM pg_locks WHERE NOT granted"))).scalar_one()

    await assert_eventually(is_awaited)
