"""The database: one writer and many readers, on SQLite and PostgreSQL alike.

SQLite has only one writer at a time, so all writes of a process use a pool of one connection that begins with
`IMMEDIATE` (a read transaction cannot become a write transaction once another has committed). Readers have their own
pool and never wait (WAL). On PostgreSQL both share one pool. Reads are single statements in autocommit mode: a
transaction around each would only add two round trips.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeAlias, TypeVar
from urllib.parse import quote

import structlog
from asyncpg import PostgresError as AsyncpgError
from sqlalchemy import URL, ExceptionContext, event, make_url, text
from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_dbapi
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, ProgrammingError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from everhook.storage import sqlite_driver

Session: TypeAlias = AsyncSession
Connection: TypeAlias = AsyncConnection
"""For modules without SQL, which only pass a session or a connection to a store."""

DatabaseError = SQLAlchemyError
"""For code that handles every error of the database alike."""

Result = TypeVar("Result")

SQLITE_READERS = 4
STATEMENT_TIMEOUT_MS = 10_000
RESPONSE_TIMEOUT_S = 12.0
"""A server that is alive has cancelled the statement by then. One that hangs never responds."""

IDLE_TRANSACTION_MS = 15_000
"""A process that is frozen, or a machine that is gone, keeps its locks for this time, and others wait for them. No
transaction of a process that runs waits for anything but the database."""

CONNECT_TIMEOUT_S = 5
RETURN_TIMEOUT_S = 2.0

UNAVAILABLE = (OperationalError, InterfaceError, PoolTimeoutError, OSError)
"""The errors of an unavailable database. `is_unavailable` also recognises connections that broke during a statement,
and PostgreSQL's own states."""

READ_ONLY = "25006"
"""A standby, or a server that was the primary until a moment ago."""

_STATES_OF_THE_SERVER = re.compile(
    r"08...|"  # the connection
    r"25P03|"  # this process stood still in a transaction, which was rolled back
    r"28...|3D000|"  # authentication, or no such database
    r"40001|40P01|"  # a conflict or a deadlock with another transaction: this one was rolled back, and can be repeated
    r"53...|"  # out of disk, memory or connections
    r"57...|"  # starting up, shutting down, or a statement cancelled because it took too long
    r"58...|" + READ_ONLY  # an I/O error
)

_ASYNCPG_VALUE = re.compile(r"(invalid input for query argument \$\d+): .*", re.DOTALL)

log = structlog.get_logger()

_PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=5000", "foreign_keys=ON", "temp_store=MEMORY")


def is_unavailable(error: BaseException) -> bool:
    """Whether an error means that the database is unavailable or overloaded, rather than that a statement was wrong."""
    if isinstance(error, UNAVAILABLE):
        return True
    return isinstance(error, DBAPIError) and (
        error.connection_invalidated
        or is_outdated(error)
        or _STATES_OF_THE_SERVER.fullmatch(_state(error.orig)) is not None
    )


def is_outdated(error: BaseException) -> bool:
    """Whether a prepared statement is older than a migration. SQLAlchemy prepares all of them anew after that."""
    return isinstance(error, DBAPIError) and isinstance(
        error.orig, AsyncAdapt_asyncpg_dbapi.InvalidCachedStatementError
    )


async def once_more_if_outdated(call: Callable[[], Awaitable[Result]]) -> Result:
    """Run a transaction, and run it again if a migration has changed a table since its statements were prepared."""
    try:
        return await call()
    except DBAPIError as error:
        if not is_outdated(error):
            raise
        return await call()


def refuses_connections(error: BaseException) -> bool:
    """Whether the database responds but refuses the connection: wrong user or password, or no such database."""
    return isinstance(error, DBAPIError) and _state(error.orig).startswith(("28", "3D"))


def reason(error: BaseException) -> str:
    """The driver's message without the statement. A timeout has no message."""
    return str(error).partition("\n")[0] or "it does not respond"


def _state(error: BaseException | None) -> str:
    """PostgreSQL's error code (SQLSTATE). The driver has one class for most errors."""
    return getattr(error, "sqlstate", None) or ""


def _disconnect_from_standby(context: ExceptionContext) -> None:
    """After a failover, drop the connections to the old primary: all of them are as useless as this one."""
    if _state(context.original_exception) == READ_ONLY:
        context.is_disconnect = True


def _redact(context: ExceptionContext) -> None:
    """Remove values from an error before it is logged: PostgreSQL repeats the refused row, and asyncpg the value.
    They may be payloads or secrets."""
    error: BaseException | None = context.sqlalchemy_exception or context.original_exception
    while error is not None:
        if isinstance(error, AsyncpgError):
            error.detail = None
        if error.args and isinstance(error.args[0], str):
            first_line = error.args[0].partition("\n")[0]
            error.args = (_ASYNCPG_VALUE.sub(r"\1", first_line), *error.args[1:])
        error = error.__cause__ or error.__context__ or getattr(error, "orig", None)


def sqlite_url(file: Path) -> str:
    """The URL of an SQLite database."""
    return URL.create("sqlite+aiosqlite", database=str(file)).render_as_string()


class Database:
    """Connections and sessions. Leaving a `writing` block commits; an exception rolls back.

    `connections`: how many readers there may be at a time, on PostgreSQL together with writers.
    `response_timeout`: how many seconds PostgreSQL may take for one statement; None: no limit. `create`: create the
    file of an SQLite database if it does not exist. Only migrations do this, so that nothing else leaves an empty file.
    """

    def __init__(
        self,
        url: str,
        *,
        pool_size: int = 10,
        response_timeout: float | None = RESPONSE_TIMEOUT_S,
        create: bool = False,
    ) -> None:
        self.url = make_url(url)
        self._url = url
        self._response_timeout = response_timeout
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self.connections = SQLITE_READERS if self.is_sqlite else 2 * pool_size
        if self.is_sqlite:
            file = _sqlite_file(self.url, create=create)
            self._writer = _sqlite_engine(file, pool_size=1, begin="BEGIN IMMEDIATE")
            self._reader = _sqlite_engine(file, pool_size=SQLITE_READERS, begin=None)
        else:
            self._writer = _postgres_engine(url, pool_size, response_timeout)
            self._reader = self._writer.execution_options(isolation_level="AUTOCOMMIT")
        for engine in (self._writer, self._reader):
            event.listen(engine.sync_engine, "handle_error", _disconnect_from_standby)
            event.listen(engine.sync_engine, "handle_error", _redact)
        self._write_session = async_sessionmaker(self._writer, class_=AsyncSession, expire_on_commit=False)
        self._read_session = async_sessionmaker(self._reader, class_=AsyncSession, expire_on_commit=False)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncSession]:
        async with self._read_session() as session:
            yield session

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncSession]:
        async with self._write_session.begin() as session:
            yield session

    @asynccontextmanager
    async def read_connection(self) -> AsyncIterator[AsyncConnection]:
        """A plain connection for the hot path."""
        async with self._reader.connect() as connection:
            yield connection

    @asynccontextmanager
    async def write_connection(self) -> AsyncIterator[AsyncConnection]:
        """A plain connection in a transaction, for the hot path."""
        async with self._writer.begin() as connection:
            yield connection

    @asynccontextmanager
    async def dedicated_connection(self) -> AsyncIterator[Any]:
        """A connection of the driver (asyncpg's) outside the pool, for PostgreSQL only. It may be terminated."""
        engine = _postgres_engine(self._url, pool_size=1, response_timeout=self._response_timeout)
        try:
            async with engine.connect() as connection:
                yield (await connection.get_raw_connection()).driver_connection
        finally:
            await engine.dispose()

    async def ping(self) -> None:
        """Raise if the database does not respond."""
        async with self.read_connection() as connection:
            await connection.execute(text("SELECT 1"))

    async def server_version(self) -> str:
        """The version of PostgreSQL's server, or of the SQLite library."""
        version = "sqlite_version()" if self.is_sqlite else "current_setting('server_version')"
        async with self.read_connection() as connection:
            return str((await connection.execute(text(f"SELECT {version}"))).scalar_one())

    async def server_clock(self) -> tuple[datetime, timedelta]:
        """The time at the server, and how long the query for it took. For PostgreSQL only."""
        async with self.read_connection() as connection:
            started = time.monotonic()
            moment = (await connection.execute(text("SELECT clock_timestamp()"))).scalar_one()
            return moment, timedelta(seconds=time.monotonic() - started)

    async def schema_revision(self) -> str | None:
        """The last migration that was applied. None if there is no schema."""
        try:
            async with self.read_connection() as connection:
                return (await connection.execute(text("SELECT version_num FROM alembic_version"))).scalar_one_or_none()
        except (OperationalError, ProgrammingError):
            return None

    async def close(self) -> None:
        """Close the connections. A task that was cancelled may still be returning one, and nothing would close it after
        its pool is disposed of: wait a moment for it."""
        for engine in (self._writer, self._reader):
            until = time.monotonic() + RETURN_TIMEOUT_S
            while _in_use(engine) and time.monotonic() < until:  # noqa: ASYNC110 - a pool has no event for it
                await asyncio.sleep(0.005)
            if left := _in_use(engine):
                log.warning("connections of the database are still in use while it is closed", connections=left)
            await engine.dispose()


def _in_use(engine: AsyncEngine) -> int:
    pool = engine.sync_engine.pool
    assert isinstance(pool, AsyncAdaptedQueuePool)
    return pool.checkedout()


def _sqlite_file(url: URL, *, create: bool) -> URL:
    """The URL that opens a file, and creates it only with `create`. By default SQLite creates any file that it
    opens."""
    if not url.database or url.database == ":memory:":
        return url
    if create:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        return url
    return url.set(database=f"file:{quote(url.database)}").update_query_dict({"mode": "rw", "uri": "true"})


def _sqlite_engine(url: URL, *, pool_size: int, begin: str | None) -> AsyncEngine:
    engine = create_async_engine(
        url,
        poolclass=AsyncAdaptedQueuePool,
        pool_size=pool_size,
        max_overflow=0,
        hide_parameters=True,
        isolation_level="AUTOCOMMIT" if begin is None else None,
        connect_args={"async_creator_fn": sqlite_driver.connect},
        skip_autocommit_rollback=begin is None,  # the writer is in autocommit mode too, as far as the driver knows
        pool_reset_on_return=None if begin is None else "rollback",
    )

    @event.listens_for(engine.sync_engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver starts no transaction by itself; `_begin` does
        cursor = connection.cursor()
        for pragma in _PRAGMAS:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    if begin is not None:

        @event.listens_for(engine.sync_engine, "begin")
        def _begin(connection: Any) -> None:
            connection.exec_driver_sql(begin)

    return engine


def _postgres_engine(url: str, pool_size: int, response_timeout: float | None) -> AsyncEngine:
    return create_async_engine(
        url,
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_timeout=CONNECT_TIMEOUT_S,
        pool_pre_ping=True,
        pool_recycle=1800,
        hide_parameters=True,  # payloads and secrets are parameters, and errors are logged
        connect_args={
            "timeout": CONNECT_TIMEOUT_S,
            "command_timeout": response_timeout,
            "server_settings": {
                "application_name": "everhook",
                "statement_timeout": str(STATEMENT_TIMEOUT_MS),
                "idle_in_transaction_session_timeout": str(IDLE_TRANSACTION_MS),
            },
        },
    )
