"""Tests of the store run on a real PostgreSQL, and where the database matters on SQLite too, each in its own database.

`both_databases` marks a test, or a module, where the two may differ: branches on the dialect, conflicts, locks and
transactions at the same time, plans, migrations, deletion in batches, JSON, text and numbers at their limits. Each
statement of the stores is executed on both by a marked test. Other tests check the cases of the logic around the
statements, and run on PostgreSQL alone, as production does.

All tests run in one event loop, so that engines and their connections live as long as the session: they keep the
statements that they have compiled and prepared. Databases are emptied or copied before each test. A test that leaves a
task or a connection in use fails.
"""

import asyncio
import functools
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
import pytest_asyncio
from sqlmodel import SQLModel

from everhook.notifications.events import EVENTS_CHANNEL, TASKS_CHANNEL
from everhook.storage.engine import Database, _in_use
from everhook.storage.migrate import migrate
from everhook.storage.tables import DEFAULT_TENANT_GID, Channel, Tenant
from testing.postgres_server import PostgresServer
from testing.processes import refusing_port
from tests.stores.factories import Store

SQLITE, POSTGRES = "sqlite", "postgres"
WITHOUT_DURABILITY = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
"""No test of the store cuts the server's power."""

WITHOUT_JIT = {"jit": "off"}
"""Where sequential scans are off, a plan with one seems so costly that PostgreSQL compiles it: 0.1 s for 3 rows."""


def _with_driver(url: str) -> str:
    return url.replace("postgresql://", "postgresql+asyncpg://", 1)


@pytest.fixture
def _function_scoped_runner(_session_scoped_runner: asyncio.Runner) -> Iterator[asyncio.Runner]:
    """The event loop of tests and their fixtures, instead of pytest-asyncio's own, which makes one for each test."""
    loop = _session_scoped_runner.get_loop()
    before = asyncio.all_tasks(loop)
    yield _session_scoped_runner
    left = asyncio.all_tasks(loop) - before
    if left:
        names = sorted(str(task.get_coro()) for task in left)
        _session_scoped_runner.run(_cancel(left))
        pytest.fail(f"tasks are still running after the test: {names}")


@pytest.fixture
async def background_tasks() -> AsyncIterator[None]:
    """For tests that start what a process does in the background: its tasks are cancelled at the end of the test."""
    before = asyncio.all_tasks()
    yield
    await _cancel(asyncio.all_tasks() - before - {asyncio.current_task()})


async def _cancel(tasks: set[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def postgres(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PostgresServer]:
    log = tmp_path_factory.mktemp("postgres") / "postgres.log"
    async with PostgresServer(log, options=WITHOUT_DURABILITY | WITHOUT_JIT) as server:
        yield server


class EmptyPostgres:
    """One migrated database, emptied before each test by one statement on a connection that stays open."""

    def __init__(self, url: str) -> None:
        self.url = _with_driver(url)
        self._loop = asyncio.new_event_loop()
        self._loop.run_until_complete(migrate(self.url))
        self._connection = self._loop.run_until_complete(asyncpg.connect(url))
        self._loop.run_until_complete(self._connection.execute(_function_to_empty_all_tables()))

    def empty(self) -> None:
        self._loop.run_until_complete(self._connection.execute("SELECT pg_temp.empty_all_tables()"))

    def close(self) -> None:
        self._loop.run_until_complete(self._connection.close())
        self._loop.close()


@pytest.fixture(scope="session")
def empty_postgres(postgres: PostgresServer) -> Iterator[EmptyPostgres]:
    database = EmptyPostgres(asyncio.run(postgres.create_database("store")))
    yield database
    database.close()


class EmptySqlite:
    """One file that is restored to its migrated state before each test, while connections to it stay open."""

    def __init__(self, path: Path) -> None:
        self.url = f"sqlite+aiosqlite:///{path}"
        asyncio.run(migrate(self.url))
        self._file = sqlite3.connect(path)
        self._migrated = sqlite3.connect(":memory:")
        self._file.backup(self._migrated)

    def empty(self) -> None:
        self._migrated.backup(self._file)

    def close(self) -> None:
        self._file.close()
        self._migrated.close()


@pytest.fixture(scope="session")
def empty_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmptySqlite]:
    database = EmptySqlite(tmp_path_factory.mktemp("sqlite") / "everhook.db")
    yield database
    database.close()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "both_databases: runs on SQLite and PostgreSQL (see tests/stores/conftest.py)")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what is marked `both_databases` on both, unless a test names its database."""
    if metafunc.definition.get_closest_marker("both_databases") is None:
        return
    chosen = {mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")}  # by the test itself
    for fixture in {"database_url", "new_database_url"} & set(metafunc.fixturenames) - chosen:
        metafunc.parametrize(fixture, [SQLITE, POSTGRES], indirect=True)


@pytest.fixture
def database_url(request: pytest.FixtureRequest) -> str:
    """A migrated database that holds the default tenant, the channel of events, and nothing else."""
    if getattr(request, "param", POSTGRES) == SQLITE:
        sqlite: EmptySqlite = request.getfixturevalue("empty_sqlite")
        sqlite.empty()
        return sqlite.url
    postgres: EmptyPostgres = request.getfixturevalue("empty_postgres")
    postgres.empty()
    return postgres.url


@pytest.fixture
def new_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database without a schema."""
    if getattr(request, "param", POSTGRES) == SQLITE:
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
        self._prepared: dict[tuple[Callable[[str], Awaitable[None]], ...], str] = {}

    async def of(self, *prepare: Callable[[str], Awaitable[None]]) -> str:
        """The URL of a copy of what these make, one after the other, of an empty database. They must leave no
        connection open."""
        if prepare not in self._prepared:
            *before, last = prepare
            url = await (self.of(*before) if before else self._create())
            await last(url)
            self._prepared[prepare] = url.rpartition("/")[2]
        return await self._create(copy_of=self._prepared[prepare])

    async def _create(self, copy_of: str | None = None) -> str:
        return _with_driver(await self._postgres.create_database(f"copy_{uuid4().hex}", copy_of=copy_of))


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
    """What a test listens for (`before_cursor_execute`, no other event) ends with the test."""
    database = _long_lived(url, name)
    engines = {database._writer.sync_engine, database._reader.sync_engine}
    yield database
    if any(_in_use(engine) for engine in (database._writer, database._reader)):
        await database.close()  # it opens new connections when it is used again
        pytest.fail("connections are still in use after the test")
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


def _function_to_empty_all_tables() -> str:
    """It touches only tables with rows. As a function of its connection, its plans are made once.

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
    return f"""
        SET lock_timeout = '5s';
        CREATE FUNCTION pg_temp.empty_all_tables() RETURNS void LANGUAGE plpgsql AS
        $$ BEGIN {" ".join(steps)} END $$
    """
