"""A statement on SQLite is one call of its connection's thread, and behaves as one of aiosqlite."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiosqlite
import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError, OperationalError

from everhook.storage.engine import Database

SLOW = text("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000000) SELECT count(*) FROM n")


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database(f"sqlite+aiosqlite:///{tmp_path / 'new.db'}", create=True)
    async with database.write_connection() as connection:
        await connection.execute(text("CREATE TABLE letter (id INTEGER PRIMARY KEY, name TEXT UNIQUE)"))
    yield database
    await database.close()


@pytest.mark.parametrize(
    "statement", ["SELECT name FROM letter", "INSERT INTO letter DEFAULT VALUES", "PRAGMA journal_mode"]
)
async def test_a_statement_is_one_call_of_the_thread(
    database: Database, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    execute, calls = aiosqlite.Connection._execute, 0

    async def count(connection: aiosqlite.Connection, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        return await execute(connection, *arguments)  # type: ignore[no-untyped-call]

    async with database.read_connection() as connection:
        await connection.execute(text(statement))
        monkeypatch.setattr(aiosqlite.Connection, "_execute", count)
        await connection.execute(text(statement))
    assert calls == 1


async def test_rows_are_counted_numbered_and_returned(database: Database) -> None:
    insert = text("INSERT INTO letter (name) VALUES (:name)")
    async with database.write_connection() as connection:
        assert (await connection.execute(insert, {"name": "a"})).lastrowid == 1
        assert (await connection.execute(insert, [{"name": "b"}, {"name": "c"}])).rowcount == 2
        changed = await connection.execute(text("UPDATE letter SET name = name || '!' WHERE id > 1 RETURNING id, name"))
        assert list(changed) == [(2, "b!"), (3, "c!")]
        assert (await connection.execute(text("DELETE FROM letter"))).rowcount == 3


async def test_a_statement_that_fails_leaves_the_connection_usable(database: Database) -> None:
    insert = text("INSERT INTO letter (name) VALUES ('a')")
    async with database.read_connection() as connection:
        await connection.execute(insert)
        with pytest.raises(IntegrityError):
            await connection.execute(insert)
        with pytest.raises(OperationalError):
            await connection.execute(text("SELECT nothing"))
        assert (await connection.execute(text("SELECT name FROM letter"))).scalar() == "a"


async def test_a_transaction_that_is_cancelled_during_a_statement_is_rolled_back(database: Database) -> None:
    is_inserted = asyncio.Event()

    async def write() -> None:
        async with database.write_connection() as connection:
            await connection.execute(text("INSERT INTO letter (name) VALUES ('a')"))
            is_inserted.set()
            await connection.execute(SLOW)

    writing = asyncio.create_task(write())
    await is_inserted.wait()
    await asyncio.sleep(0.01)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    async with database.write_connection() as connection:
        assert (await connection.execute(text("SELECT count(*) FROM letter"))).scalar() == 0
