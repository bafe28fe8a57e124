"""A PostgreSQL that is there and of no use: it hangs, starts, is full, or is a standby by now."""

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from everhook.storage import engine
from everhook.storage.engine import Database, is_unavailable, refuses_connections
from testing.postgres_server import PostgresServer
from testing.processes import Process

PATIENCE_S = 0.5
LONG_S = 10.0
"""Much longer than our patience and what the driver takes to leave a connection (2 s), and no test's whole time."""


def url_of(server: PostgresServer, database: str = "postgres") -> str:
    return server.url_of(database).replace("postgresql://", "postgresql+asyncpg://", 1)


@pytest_asyncio.fixture
async def away(postgres: PostgresServer) -> AsyncIterator[Database]:
    """One connection, and little patience."""
    database = Database(url_of(postgres), pool_size=1, response_timeout=PATIENCE_S)
    yield database
    await database.close()


async def raised(database: Database, statement: str) -> Exception:
    with pytest.raises(Exception) as found:
        async with database.write_connection() as connection:
            await connection.execute(text(statement))
    return found.value


async def test_a_server_that_hangs_is_away_and_not_waited_for(postgres: PostgresServer, away: Database) -> None:
    await away.ping()
    postgres.suspend()
    try:
        async with asyncio.timeout(LONG_S):
            assert is_unavailable(await raised(away, "SELECT 1"))
    finally:
        postgres.resume()
    await away.ping()


@pytest.mark.parametrize(
    "state",
    [
        "08006",
        "25006",
        "25P03",
        "40001",
        "40P01",
        "53100",
        "53200",
        "53300",
        "57014",
        "57P01",
        "57P02",
        "57P03",
        "58030",
    ],
)
async def test_an_error_about_the_server_means_that_it_is_away(away: Database, state: str) -> None:
    error = await raised(away, f"DO $$ BEGIN RAISE SQLSTATE '{state}'; END $$")
    assert isinstance(error, DBAPIError) and is_unavailable(error) and not refuses_connections(error)


async def test_a_process_that_stands_still_in_a_transaction_holds_up_others_for_a_while_only(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise they wait for its locks as long as it is frozen, or until the network notices that it is gone."""
    monkeypatch.setattr(engine, "IDLE_TRANSACTION_MS", 200)
    frozen, other = Database(url_of(postgres), pool_size=1), Database(url_of(postgres), pool_size=1)
    lock = text("SELECT pg_advisory_xact_lock(1)")
    took_it = False
    with pytest.raises(Exception) as found:
        async with frozen.write_connection() as connection:
            await connection.execute(lock)
            async with other.write_connection() as waiting:
                await waiting.execute(lock)
                took_it = True
            await connection.execute(text("SELECT 1"))
    assert took_it and is_unavailable(found.value)
    await frozen.close()
    await other.close()


@pytest.mark.parametrize("state", ["22012", "23505", "42601", "55000"])
async def test_an_error_about_a_statement_does_not_mean_that_the_server_is_away(away: Database, state: str) -> None:
    assert not is_unavailable(await raised(away, f"DO $$ BEGIN RAISE SQLSTATE '{state}'; END $$"))


async def test_a_missing_database_or_user_is_a_refused_connection(postgres: PostgresServer) -> None:
    for url in (url_of(postgres, "nosuch"), url_of(postgres).replace("everhook@", "nosuch@")):
        database = Database(url)
        error = await raised(database, "SELECT 1")
        assert is_unavailable(error) and refuses_connections(error)
        await database.close()


async def test_a_connection_to_a_standby_is_not_used_again(away: Database) -> None:
    """After a failover the name resolves to another server; old connections still lead to the former primary."""
    await raised(away, "DO $$ BEGIN RAISE SQLSTATE '25006'; END $$")
    async with away.write_connection() as connection:
        first = (await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one()
    await raised(away, "DO $$ BEGIN RAISE SQLSTATE '25006'; END $$")
    async with away.write_connection() as connection:
        assert (await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one() != first


async def test_a_migration_without_access_ends_with_a_one_line_error(postgres: PostgresServer, tmp_path: Path) -> None:
    env = {"EVERHOOK_DATABASE_URL": postgres.url_of("nosuch"), "EVERHOOK_DEV": "true"}
    process = Process([sys.executable, "-m", "cli", "migrate"], log=tmp_path / "migrate.log", env=env, forked=True)
    process.start()
    assert await process.wait(timeout=20) == 2, process.tail()
    (line,) = process.output().splitlines()
    assert "nosuch" in line and "EVERHOOK_DATABASE_URL" in line
