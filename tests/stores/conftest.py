"""Every test of the store runs on SQLite and on a real PostgreSQL, each in its own database.

Engines live as long as the session, for they keep the statements that they have compiled; their connections end with
each test. Databases are emptied or copied before each test.
"""

import asyncio
import functools
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
import pytest_asyncio
from sqlmodel import SQLModel

from everhook.notifications.events import EVENTS_CHANNEL, TASKS_CHANNEL
from everhook.storage.engine import Database
from everhook.storage.migrate import migrate
from everhook.storage.tables import DEFAULT_TENANT_GID, Channel, Tenant
from testing.postgres_server import PostgresServer
from testing.processes import refusing_port
from tests.stores.factories import Store

SQLITE, POSTGRES = "sqlite", "postgres"
WITHOUT_DURABILITY = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
"""No test of the store cuts the server's power."""


def _with_driver(url: str) -> str:
    return url.replace("postgresql://", "postgresql+asyncpg://", 1)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def postgres(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PostgresServer]:
    log = tmp_path_factory.mktemp("postgres") / "postgres.log"
    async with PostgresServer(log, options=WITHOUT_DURABILITY) as server:
        yield server


class EmptyPostgres:
    """One migrated database, emptied before each test by one statement on a connection that stays open."""

    def __init__(self, url: str) -> None:
        self.url = _with_driver(url)
        self._loop = asyncio.new_event_loop()
        self._loop.run_until_complete(migrate(self.url))
        self._connection = self._loop.run_until_complete(asyncpg.connect(url))

    def empty(self) -> None:
        self._loop.run_until_complete(self._connection.execute(_empty_all_tables()))

    def close(self) -> None:
        self._loop.run_until_complete(self._connection.close())
        self._loop.close()


@pytest.fixture(scope="session")
def empty_postgres(postgres: PostgresServer) -> Iterator[EmptyPostgres]:
    database = EmptyPostgres(asyncio.run(postgres.create_database("store")))
    yield database
    database.close()


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One migrated file, copied for each test."""
    path = tmp_path_factory.mktemp("sqlite") / "migrated.db"
    asyncio.run(migrate(f"sqlite+aiosqlite:///{path}"))
    return path


@pytest.fixture(params=[SQLITE, POSTGRES])
def database_url(request: pytest.FixtureRequest) -> str:
    """A migrated database that holds the default tenant, the channel of events, and nothing else."""
    if request.param == SQLITE:
        migrated: Path = request.getfixturevalue("migrated_sqlite")
        path = migrated.with_name("everhook.db")
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        shutil.copy(migrated, path)
        return f"sqlite+aiosqlite:///{path}"
    database: EmptyPostgres = request.getfixturevalue("empty_postgres")
    database.empty()
    return database.url


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


class Copies:
    """Databases of PostgreSQL that are prepared once, and copied for each test: a copy takes a fraction of the time
    that the migrations take."""

    def __init__(self, postgres: PostgresServer) -> None:
        self._postgres = postgres
        self._prepared: dict[Callable[[str], Awaitable[None]], str] = {}

    async def of(self, prepare: Callable[[str], Awaitable[None]]) -> str:
        """The URL of a copy of what `prepare` makes of an empty database. It must leave no connection open."""
        if prepare not in self._prepared:
            name = f"prepared_{uuid4().hex}"
            await prepare(_with_driver(await self._postgres.create_database(name)))
            self._prepared[prepare] = name
        copy = f"copy_{uuid4().hex}"
        return _with_driver(await self._postgres.create_database(copy, copy_of=self._prepared[prepare]))


@pytest.fixture(scope="session")
def copies(postgres: PostgresServer) -> Copies:
    return Copies(postgres)


@pytest.fixture
async def migrated_url(copies: Copies) -> str:
    """A database on PostgreSQL of the newest schema, which the test may change."""
    return await copies.of(migrate)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with _reused(database_url, "database") as database:
        yield database


@pytest.fixture
async def other_database(database_url: str) -> AsyncIterator[Database]:
    """The same data, as another process sees it."""
    async with _reused(database_url, "other_database") as database:
        yield database


@asynccontextmanager
async def _reused(url: str, name: str) -> AsyncIterator[Database]:
    """Closing a Database ends its connections; it opens new ones, in another event loop, when it is used again.

    What a test listens for (`before_cursor_execute`, no other event) ends with the test.
    """
    database = _long_lived(url, name)
    engines = {database._writer.sync_engine, database._reader.sync_engine}
    yield database
    await database.close()
    for engine in engines:
        listeners = engine.dispatch.before_cursor_execute
        own = getattr(listeners, "local", listeners)  # an engine with options has its own and those of its parent
        if own:
            own.clear()


@functools.cache
def _long_lived(url: str, _name: str) -> Database:
    return Database(url)


@pytest.fixture
async def lost_database() -> AsyncIterator[Database]:
    """A PostgreSQL that is away: no process listens on that port."""
    database = Database(f"postgresql+asyncpg://everhook@127.0.0.1:{refusing_port()}/everhook")
    yield database
    await database.close()


@pytest.fixture
def store(database: Database) -> Store:
    return Store(database)


@functools.cache
def _empty_all_tables() -> str:
    """One statement that touches only tables with rows.

    No test waits for another's connection: what still holds a lock fails here, by name.
    """
    kept = {
        Tenant.__tablename__: f"gid <> '{DEFAULT_TENANT_GID}'",
        Channel.__tablename__: f"name NOT IN ('{EVENTS_CHANNEL}', '{TASKS_CHANNEL}')",
    }
    steps = []
    for table in reversed(SQLModel.metadata.sorted_tables):
        where = f'"{table.name}" WHERE {kept.get(table.name, "true")}'
        steps.append(f"IF EXISTS (SELECT FROM {where}) THEN DELETE FROM {where}; END IF;")
    return f"DO $$ BEGIN SET LOCAL lock_timeout = '5s'; {' '.join(steps)} END $$"
