"""The database: one writer and many readers, on SQLite and PostgreSQL alike.

SQLite has one writer at a time whatever we do, so all writes of a process go through a pool of one connection that
begins `IMMEDIATE` (a read transaction cannot become a writing one once another has committed); readers have their
own pool and never wait, as WAL allows. On PostgreSQL both share one pool. Reads are single statements and run in
autocommit: a transaction around each would only add two round trips.
"""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote

from asyncpg import PostgresError as AsyncpgError
from sqlalchemy import URL, ExceptionContext, event, make_url, text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

Session: TypeAlias = AsyncSession
"""For what passes sessions on and writes no SQL: use cases and routes."""

DatabaseError = SQLAlchemyError
"""For what handles every error of the database alike."""

SQLITE_READERS = 4
STATEMENT_TIMEOUT_MS = 10_000
ANSWER_TIMEOUT_S = 12.0
"""A server that answers at all has cancelled the statement by then. One that hangs says nothing, for ever."""

CONNECT_TIMEOUT_S = 5

UNAVAILABLE = (OperationalError, InterfaceError, PoolTimeoutError, OSError)
"""What a database that is away raises. `is_unavailable` also knows connections that broke in mid-statement, and what
PostgreSQL says of itself."""

READ_ONLY = "25006"
"""A standby, or what was the primary until a moment ago."""

_STATES_OF_THE_SERVER = re.compile(
    r"08...|"  # the connection
    r"28...|3D000|"  # nobody by that name, no such database: how we are to connect
    r"53...|"  # out of disk, memory or connections
    r"57...|"  # starting up, shutting down, a statement cancelled because it took too long
    r"58...|" + READ_ONLY  # an input or output error
)

_ASYNCPG_VALUE = re.compile(r"(invalid input for query argument \$\d+): .*", re.DOTALL)

_PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=5000", "foreign_keys=ON", "temp_store=MEMORY")


def is_unavailable(error: BaseException) -> bool:
    """Whether an error says that the database is away or overloaded, rather than that a statement was wrong."""
    if isinstance(error, UNAVAILABLE):
        return True
    return isinstance(error, DBAPIError) and (
        error.connection_invalidated or _STATES_OF_THE_SERVER.fullmatch(_state(error.orig)) is not None
    )


def is_turned_away(error: BaseException) -> bool:
    """Whether the database is there and lets nobody in as we come: user, password, or a database that is not."""
    return isinstance(error, DBAPIError) and _state(error.orig).startswith(("28", "3D"))


def reason(error: BaseException) -> str:
    """What the driver says of it, without the statement; one that waited in vain says nothing."""
    return str(error).partition("\n")[0] or "it does not answer"


def _state(error: BaseException | None) -> str:
    """PostgreSQL's code of an error (SQLSTATE): its driver has one class for most of them."""
    return getattr(error, "sqlstate", None) or ""


def _leave_the_standby(context: ExceptionContext) -> None:
    """A connection to what is no primary any more is of no use, nor are the others of its age: connect anew."""
    if _state(context.original_exception) == READ_ONLY:
        context.is_disconnect = True


def _without_values(context: ExceptionContext) -> None:
    """PostgreSQL repeats the row that it refuses, and asyncpg the value: payloads and secrets, on their way to logs."""
    error: BaseException | None = context.sqlalchemy_exception or context.original_exception
    while error is not None:
        if isinstance(error, AsyncpgError):
            error.detail = None
        if error.args and isinstance(error.args[0], str):
            told = error.args[0].partition("\n")[0]
            error.args = (_ASYNCPG_VALUE.sub(r"\1", told), *error.args[1:])
        error = error.__cause__ or error.__context__ or getattr(error, "orig", None)


class Database:
    """Connections and sessions. Closing a `writing` block commits; an exception rolls back.

    `answer_timeout`: how many seconds a PostgreSQL may take over one statement; None: as long as it likes. With
    `create` the file of an SQLite database is created if there is none: that is for migrations alone, so that nothing
    else leaves an empty file behind.
    """

    def __init__(
        self,
        url: str,
        *,
        pool_size: int = 10,
        answer_timeout: float | None = ANSWER_TIMEOUT_S,
        create: bool = False,
    ) -> None:
        self.url = make_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        if self.is_sqlite:
            file = _sqlite_file(self.url, create=create)
            self._writer = _sqlite_engine(file, pool_size=1, begin="BEGIN IMMEDIATE")
            self._reader = _sqlite_engine(file, pool_size=SQLITE_READERS, begin=None)
        else:
            self._writer = _postgres_engine(url, pool_size, answer_timeout)
            self._reader = self._writer.execution_options(isolation_level="AUTOCOMMIT")
        for engine in (self._writer, self._reader):
            event.listen(engine.sync_engine, "handle_error", _leave_the_standby)
            event.listen(engine.sync_engine, "handle_error", _without_values)
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
        """A bare connection for the hot path."""
        async with self._reader.connect() as connection:
            yield connection

    @asynccontextmanager
    async def write_connection(self) -> AsyncIterator[AsyncConnection]:
        """A bare connection in a transaction, for the hot path."""
        async with self._writer.begin() as connection:
            yield connection

    async def ping(self) -> None:
        """Raise where the database does not answer."""
        async with self.read_connection() as connection:
            await connection.execute(text("SELECT 1"))

    async def close(self) -> None:
        await self._writer.dispose()
        await self._reader.dispose()


def _sqlite_file(url: URL, *, create: bool) -> URL:
    """The URL that opens a file, and creates it only if told to: SQLite itself would create any file it is to open."""
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
        pool_reset_on_return=None if begin is None else "rollback",
    )

    @event.listens_for(engine.sync_engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver begins nothing by itself; `_begin` does
        cursor = connection.cursor()
        for pragma in _PRAGMAS:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    if begin is not None:

        @event.listens_for(engine.sync_engine, "begin")
        def _begin(connection: Any) -> None:
            connection.exec_driver_sql(begin)

    return engine


def _postgres_engine(url: str, pool_size: int, answer_timeout: float | None) -> AsyncEngine:
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
            "command_timeout": answer_timeout,
            "server_settings": {"application_name": "everhook", "statement_timeout": str(STATEMENT_TIMEOUT_MS)},
        },
    )
