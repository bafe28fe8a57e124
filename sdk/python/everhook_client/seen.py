"""Remember messages that were handled, in the database of the receiver."""

import sys
import time
from datetime import timedelta
from typing import Any, Protocol


class Cursor(Protocol):
    """What `execute` of a DB-API 2.0 cursor (PEP 249) changes."""

    rowcount: int

    def execute(self, operation: str, parameters: Any = ..., /) -> Any: ...
    def close(self) -> Any: ...


class Connection(Protocol):
    """A DB-API 2.0 connection, such as those of sqlite3 and psycopg."""

    def cursor(self) -> Any: ...


_PLACEHOLDERS = {"qmark": "?, ?", "format": "%s, %s", "pyformat": "%s, %s", "numeric": ":1, :2"}


class Seen:
    """Remembers gids of messages in a table. SQLite, PostgreSQL, and others that know `ON CONFLICT DO NOTHING`.

    Nothing is committed here: do the work in the same transaction. Then both happen or neither, and a message that
    arrives twice is worked on once.
    """

    def __init__(self, table: str = "everhook_seen", *, paramstyle: str | None = None) -> None:
        """`paramstyle` is that of the driver; by default its module says it."""
        if not table.replace("_", "").replace(".", "").isalnum():
            raise ValueError("table: must be letters, digits, `_` and `.`")
        if paramstyle is not None and paramstyle not in _PLACEHOLDERS:
            raise ValueError(f"paramstyle: must be one of {', '.join(_PLACEHOLDERS)}")
        self._table = table
        self._paramstyle = paramstyle

    def create_table(self, connection: Connection) -> None:
        """Create the table if it is not there. `seen_at` is in Unix seconds."""
        self._execute(
            connection,
            f"CREATE TABLE IF NOT EXISTS {self._table} (gid VARCHAR(64) PRIMARY KEY, seen_at BIGINT NOT NULL)",
        )

    def is_new(self, connection: Connection, gid: str) -> bool:
        """Whether this message was not seen before; remember it. Another transaction that has the same message at the
        same time waits for this one."""
        values = _PLACEHOLDERS[self._paramstyle or _paramstyle_of(connection)]
        statement = f"INSERT INTO {self._table} (gid, seen_at) VALUES ({values}) ON CONFLICT DO NOTHING"  # noqa: S608
        return self._execute(connection, statement, (gid, int(time.time()))) == 1

    def forget(self, connection: Connection, older_than: timedelta = timedelta(days=60)) -> int:
        """Delete what was seen longer ago. Returns how many. A dead letter may be replayed for 30 days, unless the
        publisher keeps them for longer."""
        before = int(time.time() - older_than.total_seconds())
        return self._execute(connection, f"DELETE FROM {self._table} WHERE seen_at < {before}")  # noqa: S608

    def _execute(self, connection: Connection, statement: str, parameters: tuple[Any, ...] = ()) -> int:
        cursor: Cursor = connection.cursor()
        try:
            cursor.execute(statement, parameters)
            return cursor.rowcount
        finally:
            cursor.close()


def _paramstyle_of(connection: Connection) -> str:
    module = sys.modules.get(type(connection).__module__.partition(".")[0])
    style = getattr(module, "paramstyle", "qmark")
    if style not in _PLACEHOLDERS:
        raise ValueError(f"the paramstyle {style!r} of the driver is not supported; give another one if it has several")
    return str(style)
