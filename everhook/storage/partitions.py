"""Partitions by month of the tables that grow with traffic, on PostgreSQL.

Ids sort by time, so a month is a range of ids, and deleting a month is dropping a table. Attempts and receipts are
partitioned by the gid of their delivery. Adjoining ranges cover all ids: the first partition begins at MINVALUE, and
the last one ends at MAXVALUE. So no row is ever refused, however wrong a clock is and however long no process has
created partitions. A default partition would do the same, but each new partition would have to scan it.

The last partition is closed at the start of a month, well before that month begins and usually while it is empty, and
a new last one follows. If it has rows, a CHECK constraint is validated first, while writers go on, so that PostgreSQL
need not read it under a lock. Every lock that writers wait for is given up after `LOCK_TIMEOUT` and tried again.
`DETACH … CONCURRENTLY` is not used: it cannot be in one transaction with what takes the partition's place, and between
the two a row of that month would be refused.

A table that is not partitioned yet becomes the first partition, and the last one too. No row is copied.
"""

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from everhook.ids import Kind, first_gid_at, moment_of

MIGRATION_LOCK = 4_719_008_823
"""The advisory lock that lets one process at a time change the schema; any number that nothing else uses."""

LOCK_TIMEOUT = "50ms"
"""While a statement waits for the lock of a table, all later writers of that table wait too."""

TRIES = 100
TRY_AGAIN_S = 0.2
LOCK_NOT_AVAILABLE = "55P03"

AHEAD = timedelta(days=31)
"""How long before its first row a partition exists."""

MARGIN = timedelta(days=7)
"""How far from now the end of a partition that is in use is. No clock is wrong by that much."""

FARTHEST = timedelta(days=400)
"""A row from a later time than this was written by a clock that is wrong: no partition ends after it."""

PARTITIONED: Mapping[str, tuple[str, Kind]] = {
    "message": ("gid", Kind.MESSAGE),
    "delivery": ("gid", Kind.DELIVERY),
    "attempt": ("delivery_gid", Kind.DELIVERY),
    "receipt": ("delivery_gid", Kind.DELIVERY),
}
"""The tables, each with the column that it is partitioned by, and the kind of gid in it."""

REPLACED_BY_PARTITIONS = ("uq_message_idempotency", "ix_message_keyed")
"""What a table that is not partitioned has for processes of the release before partitions."""

DROPPED = "__dropped"
"""The ending of the name of a partition that was detached to be dropped."""

_STORAGE = "autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05"
"""Vacuum a twentieth at a time: by default a fifth of a partition must have changed."""

Report = Callable[[str], None]


def _ignore(_line: str) -> None:
    pass


@dataclass(frozen=True)
class Partition:
    """The rows with keys in [`lower`, `upper`). None: unbounded."""

    name: str
    lower: str | None
    upper: str | None


def is_partitioned(connection: sa.Connection, table: str) -> bool:
    kind = "SELECT relkind = 'p' FROM pg_class WHERE oid = to_regclass(:table)"
    return bool(connection.execute(sa.text(kind), {"table": table}).scalar())


def partitions_of(connection: sa.Connection, table: str) -> list[Partition]:
    """In the order of their ranges; none if the table is not partitioned."""
    rows = connection.execute(
        sa.text(
            "SELECT c.relname, pg_get_expr(c.relpartbound, c.oid) FROM pg_inherits i "
            "JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = to_regclass(:table)"
        ),
        {"table": table},
    )
    return sorted((_partition(name, bound) for name, bound in rows), key=lambda each: each.lower or "")


def _partition(name: str, bound: str) -> Partition:
    found = re.fullmatch(r"FOR VALUES FROM \((MINVALUE|'(\w+)')\) TO \((MAXVALUE|'(\w+)')\)", bound)
    if found is None:
        raise ValueError(f"the partition {name} has the bounds {bound!r}, which Everhook did not create")
    return Partition(name, found[2], found[4])


def in_use(connection: sa.Connection) -> bool:
    """Whether a table that would be converted has rows, or a process of Everhook is connected."""
    processes = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'everhook'"
    rows = (f"(SELECT 1 FROM {table} LIMIT 1)" for table in PARTITIONED)  # noqa: S608 - names of our own
    return connection.execute(sa.text(" UNION ALL ".join([*rows, f"({processes} LIMIT 1)"]))).first() is not None


def convert(connection: sa.Connection, report: Report = _ignore) -> None:
    """Make partitioned tables of those that are not. Can be interrupted anywhere, and run again.

    Only processes of releases that know partitions may publish with idempotency keys meanwhile and after that.
    """
    for table, (key, _) in PARTITIONED.items():
        if not is_partitioned(connection, table):
            if key != "gid":
                _build_key(connection, table, key)
            _briefly(connection, lambda: _take_place(connection, table, key))  # noqa: B023 - called at once
            report(f"{table}: is partitioned by {key}")
    connection.commit()


def _build_key(connection: sa.Connection, table: str, key: str) -> None:
    """A primary key of a partitioned table has its partition key."""
    with _autocommit(connection):
        connection.execute(sa.text("SET lock_timeout = 0"))
        invalid = "SELECT 1 FROM pg_index WHERE indexrelid = to_regclass(:name) AND NOT indisvalid"
        if connection.execute(sa.text(invalid), {"name": f"{table}_by_key"}).first() is not None:
            connection.execute(sa.text(f"DROP INDEX CONCURRENTLY {table}_by_key"))
        connection.execute(
            sa.text(f"CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS {table}_by_key ON {table} (gid, {key})")
        )


def _take_place(connection: sa.Connection, table: str, key: str) -> None:
    """In one transaction: a partitioned table takes the place of a table, which becomes its only partition.

    The table has all indexes of the new one already, and its partition covers all keys, so nothing of it is read.
    """
    past, execute = f"{table}_past", _executor(connection)
    execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
    if table == "message":
        execute("DROP TRIGGER IF EXISTS message_key ON message")
        execute("DROP FUNCTION IF EXISTS message_key()")
        execute("ALTER TABLE message DROP CONSTRAINT IF EXISTS uq_message_idempotency")
        execute("DROP INDEX IF EXISTS ix_message_keyed")
    if key != "gid":
        execute(f"ALTER TABLE {table} DROP CONSTRAINT {table}_pkey")
        execute(f"ALTER TABLE {table} ADD CONSTRAINT {table}_pkey PRIMARY KEY USING INDEX {table}_by_key")
    indexes = _indexes(connection, table)
    execute(f"ALTER TABLE {table} RENAME TO {past}")
    for name, _ in indexes:
        execute(f'ALTER INDEX "{name}" RENAME TO "{past}_{name.removeprefix(f"{table}_")}"')
    execute(
        f"CREATE TABLE {table} (LIKE {past} INCLUDING DEFAULTS INCLUDING STORAGE INCLUDING COMPRESSION) "
        f"PARTITION BY RANGE ({key})"
    )
    _copy_rights(connection, past, table)
    for _, definition in indexes:
        execute(definition)
    execute(f"ALTER TABLE {table} ATTACH PARTITION {past} FOR VALUES FROM (MINVALUE) TO (MAXVALUE)")
    execute(f"ALTER TABLE {past} SET ({_STORAGE})")


def _indexes(connection: sa.Connection, table: str) -> list[tuple[str, str]]:
    """The indexes of a table, each with the statement that creates it."""
    rows = connection.execute(
        sa.text(
            "SELECT c.relname, pg_get_indexdef(c.oid), pg_get_constraintdef(con.oid) "
            "FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
            "LEFT JOIN pg_constraint con ON con.conindid = c.oid AND con.contype IN ('p', 'u') "
            "WHERE i.indrelid = to_regclass(:table) ORDER BY c.relname"
        ),
        {"table": table},
    )
    return [
        (name, f'ALTER TABLE {table} ADD CONSTRAINT "{name}" {constraint}' if constraint else index)
        for name, index, constraint in rows.all()
    ]


def _copy_rights(connection: sa.Connection, source: str, target: str) -> None:
    """The owner and the grants of one table for another."""
    execute = _executor(connection)
    of_source = {"source": source}
    owner = connection.execute(
        sa.text("SELECT quote_ident(pg_get_userbyid(relowner)) FROM pg_class WHERE oid = to_regclass(:source)"),
        of_source,
    ).scalar_one()
    granted = connection.execute(
        sa.text(
            "SELECT privilege_type, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END "
            "FROM pg_class, aclexplode(relacl) WHERE oid = to_regclass(:source) AND grantee <> relowner"
        ),
        of_source,
    ).all()
    execute(f"ALTER TABLE {target} OWNER TO {owner}")
    for privilege, grantee in granted:
        execute(f"GRANT {privilege} ON {target} TO {grantee}")


def roll_over(connection: sa.Connection, moment: datetime, report: Report = _ignore) -> None:
    """Close last partitions until there is one for each month that begins within `AHEAD`. Does nothing for tables that
    are not partitioned."""
    for table in PARTITIONED:
        while partitions := partitions_of(connection, table):
            bound = _next_bound(connection, table, partitions[-1], moment)
            connection.commit()
            if bound is None:
                break
            _close(connection, table, partitions[-1], bound)
            report(f"{table}: there is a partition from {bound:%Y-%m} on")
    connection.commit()


def _next_bound(connection: sa.Connection, table: str, last: Partition, moment: datetime) -> datetime | None:
    """Where the last partition is closed next: a start of a month after all of its rows. None: it is not."""
    begins = moment_of(last.lower) if last.lower is not None else None
    if begins is not None and begins > moment + AHEAD:
        return None
    key, kind = PARTITIONED[table]
    newest = connection.execute(sa.text(f"SELECT max({key}) FROM {last.name}")).scalar()  # noqa: S608
    if newest is None:
        return _month_after(begins) if begins is not None else _month_of(moment)
    if newest >= first_gid_at(kind, moment + FARTHEST):
        return None
    return _month_after(max(moment + MARGIN, moment_of(newest)))


def _close(connection: sa.Connection, table: str, last: Partition, bound: datetime) -> None:
    """Close the last partition of a table at a bound, and create the next one."""
    key, kind = PARTITIONED[table]
    upper, following = first_gid_at(kind, bound), f"{table}_{bound:%Y%m}"
    execute = _executor(connection)
    check = f"ALTER TABLE {last.name} DROP CONSTRAINT IF EXISTS {table}_until"

    def swap() -> None:
        lower = f"'{last.lower}'" if last.lower is not None else "MINVALUE"
        execute(f"ALTER TABLE {table} DETACH PARTITION {last.name}")
        execute(f"ALTER TABLE {table} ATTACH PARTITION {last.name} FOR VALUES FROM ({lower}) TO ('{upper}')")
        execute(
            f"CREATE TABLE {following} PARTITION OF {table} FOR VALUES FROM ('{upper}') TO (MAXVALUE) WITH ({_STORAGE})"
        )
        execute(check)

    try:
        _briefly(connection, lambda: execute(check))  # of a process that was killed
        _briefly(
            connection,
            lambda: execute(
                f"ALTER TABLE {last.name} ADD CONSTRAINT {table}_until CHECK ({key} < '{upper}') NOT VALID"
            ),
        )
        execute(f"ALTER TABLE {last.name} VALIDATE CONSTRAINT {table}_until")
        connection.commit()
        _briefly(connection, swap)
    except BaseException:
        connection.rollback()
        _briefly(connection, lambda: execute(check))
        raise


def drop_months(
    connection: sa.Connection, table: str, months: Sequence[Partition], kept: str, values: Mapping[str, Any]
) -> int:
    """Replace the first partitions of a table by one with only the rows that the condition `kept` selects; `values`
    are its parameters. Returns about how many rows the others had.

    The old partitions still exist after that, with names that end with `DROPPED`.
    """
    execute = _executor(connection)
    columns = ", ".join(f'"{column}"' for column in _columns(connection, table))
    rows = sum(_rows(connection, month.name) for month in months)
    first = f"{table}_past"

    def replace() -> None:
        for month in months:
            execute(f"ALTER TABLE {table} DETACH PARTITION {month.name}")
            execute(f"ALTER TABLE {month.name} RENAME TO {month.name}{DROPPED}")
        execute(
            f"CREATE TABLE {first} PARTITION OF {table} FOR VALUES FROM (MINVALUE) TO ('{months[-1].upper}') "
            f"WITH ({_STORAGE})"
        )
        for month in months:
            connection.execute(
                sa.text(
                    f"INSERT INTO {first} ({columns}) SELECT {columns} FROM {month.name}{DROPPED} WHERE {kept}"  # noqa: S608
                ),
                values,
            )

    _briefly(connection, replace)
    return rows


def dropped(connection: sa.Connection) -> list[str]:
    """The partitions that were detached to be dropped."""
    names = "SELECT relname FROM pg_class WHERE relkind = 'r' AND pg_table_is_visible(oid) AND relname LIKE :pattern"
    found = connection.execute(sa.text(names), {"pattern": f"%{DROPPED}"}).scalars()
    return [name for name in found if name.endswith(DROPPED) and name.split("_")[0] in PARTITIONED]


def drop(connection: sa.Connection, names: Sequence[str]) -> None:
    for name in names:
        connection.execute(sa.text(f"DROP TABLE {name}"))
        connection.commit()


def analyze(connection: sa.Connection) -> None:
    """Autovacuum analyzes partitions only, and not the tables that they belong to."""
    for table in PARTITIONED:
        connection.execute(sa.text(f"ANALYZE {table}"))
        connection.commit()


def _columns(connection: sa.Connection, table: str) -> list[str]:
    names = "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(:table) AND attnum > 0 AND NOT attisdropped"
    return list(connection.execute(sa.text(names), {"table": table}).scalars())


def _rows(connection: sa.Connection, table: str) -> int:
    """About how many: as of the last vacuum."""
    estimate = "SELECT greatest(reltuples, 0)::bigint FROM pg_class WHERE oid = to_regclass(:table)"
    return int(connection.execute(sa.text(estimate), {"table": table}).scalar_one())


def _executor(connection: sa.Connection) -> Callable[[str], None]:
    def execute(statement: str) -> None:
        connection.execute(sa.text(statement))

    return execute


def _briefly(connection: sa.Connection, change: Callable[[], None]) -> None:
    """Run a change in a transaction, again until its locks are granted in time."""
    connection.commit()
    for attempt in range(1, TRIES + 1):
        try:
            connection.execute(sa.text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"))
            change()
            connection.commit()
        except DBAPIError as error:
            connection.rollback()
            if getattr(error.orig, "sqlstate", None) != LOCK_NOT_AVAILABLE or attempt == TRIES:
                raise
            time.sleep(TRY_AGAIN_S)
        except BaseException:
            connection.rollback()
            raise
        else:
            return


@contextmanager
def _autocommit(connection: sa.Connection) -> Iterator[None]:
    connection.commit()
    connection.execution_options(isolation_level="AUTOCOMMIT")
    try:
        yield
    finally:
        connection.commit()
        connection.execution_options(isolation_level="READ COMMITTED")


def _month_of(moment: datetime) -> datetime:
    return moment.replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def _month_after(moment: datetime) -> datetime:
    return _month_of(_month_of(moment) + timedelta(days=32))
