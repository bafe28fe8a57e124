"""Every test of the store runs on SQLite and on a real PostgreSQL, on a database of its own."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest
import pytest_asyncio
from sqlalchemy import delete, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlmodel import SQLModel

from everhook.notifications.events import EVENTS_CHANNEL
from everhook.storage.engine import Database
from everhook.storage.migrate import migrate
from everhook.storage.tables import DEFAULT_TENANT_GID, Channel, Tenant
from testing.postgres_server import PostgresServer
from testing.processes import free_port
from tests.stores.factories import Store

SQLITE, POSTGRES = "sqlite", "postgres"


def _with_driver(url: str) -> str:
    return url.replace("postgresql://", "postgresql+asyncpg://", 1)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def postgres(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PostgresServer]:
    async with PostgresServer(tmp_path_factory.mktemp("postgres") / "postgres.log") as server:
        yield server


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def migrated_postgres(postgres: PostgresServer) -> str:
    """One migrated database, emptied before each test: much quicker than one a test."""
    url = _with_driver(await postgres.create_database("store"))
    await migrate(url)
    return url


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One migrated file, copied for each test."""
    path = tmp_path_factory.mktemp("sqlite") / "migrated.db"
    asyncio.run(migrate(f"sqlite+aiosqlite:///{path}"))
    return path


@pytest.fixture(params=[SQLITE, POSTGRES])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A migrated database that holds the default tenant, the channel of events, and nothing else."""
    if request.param == SQLITE:
        path = tmp_path / "everhook.db"
        shutil.copy(request.getfixturevalue("migrated_sqlite"), path)
        return f"sqlite+aiosqlite:///{path}"
    url: str = request.getfixturevalue("migrated_postgres")
    asyncio.run(_empty(url))
    return url


@pytest.fixture(params=[SQLITE, POSTGRES])
def new_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database without a schema."""
    if request.param == SQLITE:
        return f"sqlite+aiosqlite:///{tmp_path / 'new.db'}"
    url: str = request.getfixturevalue("new_postgres_url")
    return url


@pytest.fixture
def new_postgres_url(postgres: PostgresServer) -> str:
    return _with_driver(asyncio.run(postgres.create_database(f"new_{uuid4().hex}")))


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url)
    yield database
    await database.close()


@pytest.fixture
async def other_database(database_url: str) -> AsyncIterator[Database]:
    """The same data, as another process sees it."""
    database = Database(database_url)
    yield database
    await database.close()


@pytest.fixture
async def lost_database() -> AsyncIterator[Database]:
    """A PostgreSQL that is away: nobody listens on that port."""
    database = Database(f"postgresql+asyncpg://everhook@127.0.0.1:{free_port()}/everhook")
    yield database
    await database.close()


@pytest.fixture
def store(database: Database) -> Store:
    return Store(database)


async def _empty(url: str) -> None:
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        # No test waits behind another's connection: what still holds a lock fails here, by name.
        await connection.execute(text("SET LOCAL lock_timeout = '5s'"))
        for table in reversed(SQLModel.metadata.sorted_tables):
            statement = delete(table)
            if table.name == Tenant.__tablename__:
                statement = statement.where(table.c.gid != DEFAULT_TENANT_GID)
            if table.name == Channel.__tablename__:
                statement = statement.where(table.c.name != EVENTS_CHANNEL)
            await connection.execute(statement)
    await engine.dispose()
