"""Changes of the schema for migrations, which do not keep writers waiting.

On PostgreSQL a table that is written all the time is locked for a moment at most. Indexes are created CONCURRENTLY.
Integers are widened by expand and contract: a second column, a trigger that fills it, a backfill in batches, a swap.
A lock that is not granted within `LOCK_TIMEOUT` is given up, and the migration tries again later. Each step can run
twice, so a migration that was interrupted can be run again. SQLite has one writer at a time and is migrated while
nothing else runs: there the plain statements are used.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import sqlalchemy as sa
from alembic import op

LOCK_TIMEOUT = "2s"
"""A statement that waits for a table's lock keeps all later writers of that table waiting as well."""

BRIEF_LOCK_TIMEOUT = "100ms"
"""For a lock of all partitions at once, which an autovacuum gives up only after a second."""

PAGES_A_BATCH = 500
"""4 MB of a table are backfilled in one transaction."""

ROWS_A_BATCH = 10_000
"""Narrow rows are copied by so many in one transaction."""

_WIDE = "__wide"


def create_index(name: str, table: str, columns: Sequence[str], *, where: str | None = None) -> None:
    """Create an index on a table that exists already."""
    predicate = sa.text(where) if where is not None else None
    if not _is_postgres():
        op.create_index(name, table, list(columns), unique=False, sqlite_where=predicate)
        return
    partitions = _partitions(table)
    if partitions is None:
        _create_concurrently(name, table, columns, predicate)
        return
    # A partitioned table has no concurrent builds. Its index is valid once each partition has one that is attached;
    # a partition that is created meanwhile has it from the start.
    listed = ", ".join(f'"{column}"' for column in columns)
    condition = f" WHERE {where}" if where is not None else ""
    op.execute(f'CREATE INDEX IF NOT EXISTS "{name}" ON ONLY {table} ({listed}){condition}')
    for partition in partitions:
        if not _has_index_of(partition, name):
            own = f"{partition}_{name}"
            _create_concurrently(own, partition, columns, predicate)
            op.execute(f'ALTER INDEX "{name}" ATTACH PARTITION "{own}"')


def _create_concurrently(name: str, table: str, columns: Sequence[str], predicate: sa.TextClause | None) -> None:
    with _unlocked():
        _drop_if_invalid(name)
        op.create_index(
            name,
            table,
            list(columns),
            unique=False,
            postgresql_where=predicate,
            postgresql_concurrently=True,
            if_not_exists=True,
        )


def _partitions(table: str) -> list[str] | None:
    """The partitions of a table; None if it is not partitioned."""
    kind = sa.text("SELECT relkind::text FROM pg_class WHERE oid = to_regclass(:table)")
    if op.get_bind().execute(kind, {"table": table}).scalar_one_or_none() != "p":
        return None
    inherits = sa.text(
        "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid "
        "WHERE i.inhparent = to_regclass(:table) ORDER BY 1"
    )
    return list(op.get_bind().execute(inherits, {"table": table}).scalars())


def _has_index_of(partition: str, parent: str) -> bool:
    """Whether a partition has an index that is attached to that of its table."""
    attached = sa.text(
        "SELECT 1 FROM pg_inherits i JOIN pg_index x ON x.indexrelid = i.inhrelid "
        "WHERE i.inhparent = to_regclass(:parent) AND x.indrelid = to_regclass(:partition)"
    )
    return op.get_bind().execute(attached, {"parent": parent, "partition": partition}).first() is not None


def drop_index(name: str, table: str) -> None:
    """Drop an index without waiting for readers and writers of its table. That of a partitioned table is dropped under
    a lock, which is held for a moment."""
    if not _is_postgres() or _partitions(table) is not None:
        op.drop_index(name, table_name=table)
        return
    with _unlocked():
        op.drop_index(name, table_name=table, postgresql_concurrently=True, if_exists=True)


def replace_index(name: str, table: str, columns: Sequence[str], *, where: str | None = None) -> None:
    """Give an index other columns, or another condition. Queries have the old one until the new one is complete."""
    if not _is_postgres():
        drop_index(name, table)
        create_index(name, table, columns, where=where)
        return
    create_index(f"{name}__new", table, columns, where=where)
    if _partitions(table) is not None:
        op.execute(f"SET LOCAL lock_timeout = '{BRIEF_LOCK_TIMEOUT}'")
    drop_index(name, table)
    op.execute(f'ALTER INDEX "{name}__new" RENAME TO "{name}"')
    op.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")


def drop_constraint(name: str, table: str) -> None:
    """Drop a constraint of a table, on PostgreSQL."""
    op.execute(f'ALTER TABLE {table} DROP CONSTRAINT IF EXISTS "{name}"')


def backfill_by_key(insert: str, source: str, key: str, *, only: str) -> None:
    """Run `INSERT … SELECT … FROM source WHERE …` for ranges of a key, each in a transaction of its own on PostgreSQL.
    What was inserted already is left alone. `only`: the condition of an index on the key."""
    step = sa.text(
        f"SELECT max(k) FROM (SELECT {key} AS k FROM {source} WHERE {key} > :after AND {only} "  # noqa: S608
        f"ORDER BY {key} LIMIT {ROWS_A_BATCH}) AS batch"
    )
    rows = sa.text(f"{insert} AND {key} > :after AND {key} <= :last ON CONFLICT DO NOTHING")
    after = ""
    with op.get_context().autocommit_block() if _is_postgres() else nullcontext():
        while last := op.get_bind().execute(step, {"after": after}).scalar_one():
            op.get_bind().execute(rows, {"after": after, "last": last})
            _report(f"{source}: up to {last}")
            after = last


def widen_integers(table: str, columns: Sequence[str]) -> None:
    """Make 32-bit columns 64 bits wide. SQLite's integers have 64 bits already."""
    narrow = [column for column in columns if _is_postgres() and _type_of(table, column) == "integer"]
    if not narrow:
        return
    with op.get_context().autocommit_block():
        _expand(table, narrow)
        _backfill(table, narrow)
        _require_values(table, narrow)
    with _unlocked():
        replaced = _build_indexes(table, narrow)
    _contract(table, narrow, replaced)


def _expand(table: str, columns: Sequence[str]) -> None:
    """New rows and changed ones have the wide columns from here on."""
    added = ", ".join(f'ADD COLUMN IF NOT EXISTS "{column}{_WIDE}" BIGINT' for column in columns)
    op.execute(f"ALTER TABLE {table} {added}")
    copied = " ".join(f'NEW."{column}{_WIDE}" := NEW."{column}";' for column in columns)
    function = f"{table}{_WIDE}"
    op.execute(
        f"CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN {copied} RETURN NEW; END $$"
    )
    exists = sa.text("SELECT 1 FROM pg_trigger WHERE tgname = :name AND tgrelid = CAST(:table AS regclass)")
    if op.get_bind().execute(exists, {"name": function, "table": table}).first() is None:
        op.execute(
            f"CREATE TRIGGER {function} BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION {function}()"
        )


def _backfill(table: str, columns: Sequence[str]) -> None:
    """By ranges of pages, so that each row is read once; what is written meanwhile has its values by the trigger."""
    different = " OR ".join(f'"{column}{_WIDE}" IS DISTINCT FROM "{column}"' for column in columns)
    copied = ", ".join(f'"{column}{_WIDE}" = "{column}"' for column in columns)
    pages = op.get_bind().execute(sa.text(f"SELECT pg_relation_size('{table}') / 8192")).scalar_one()
    for first in range(0, pages, PAGES_A_BATCH):
        _report(f"{table}: {first:,} of {pages:,} pages")
        op.execute(
            f"UPDATE {table} SET {copied} WHERE ctid >= '({first},0)'::tid "  # noqa: S608 - names of our own
            f"AND ctid < '({first + PAGES_A_BATCH},0)'::tid AND ({different})"
        )


def _require_values(table: str, columns: Sequence[str]) -> None:
    """A valid check lets `SET NOT NULL` trust it, instead of reading the table under its lock."""
    for column in columns:
        check = f"{table}_{column}{_WIDE}"
        if _is_nullable(table, column) or _has_constraint(table, check):
            continue
        op.execute(f'ALTER TABLE {table} ADD CONSTRAINT "{check}" CHECK ("{column}{_WIDE}" IS NOT NULL) NOT VALID')
        op.execute(f'ALTER TABLE {table} VALIDATE CONSTRAINT "{check}"')


def _build_indexes(table: str, columns: Sequence[str]) -> list[tuple[str, str | None]]:
    """Build each index over the columns a second time, over the wide ones. Returns their names, each with the type of
    its constraint (`p`: primary key, `u`: unique) if there is one."""
    found = op.get_bind().execute(
        sa.text(
            "SELECT c.relname, pg_get_indexdef(i.indexrelid), con.contype::text "
            "FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
            "LEFT JOIN pg_constraint con ON con.conindid = i.indexrelid AND con.contype IN ('p', 'u') "
            "WHERE i.indrelid = CAST(:table AS regclass) AND c.relname NOT LIKE '%\\_\\_wide'"
        ),
        {"table": table},
    )
    replaced: list[tuple[str, str | None]] = []
    for name, definition, constraint in found.all():
        head, using, body = definition.partition(" USING ")
        wide = _widened(body, columns)
        if wide == body:
            continue
        _drop_if_invalid(f"{name}{_WIDE}")
        unique = "UNIQUE " if head.startswith("CREATE UNIQUE") else ""
        op.execute(f'CREATE {unique}INDEX CONCURRENTLY IF NOT EXISTS "{name}{_WIDE}" ON {table}{using}{wide}')
        replaced.append((name, constraint))
    return replaced


def _widened(definition: str, columns: Sequence[str]) -> str:
    for column in columns:
        definition = re.sub(rf'"{column}"|(?<!\w){column}(?!\w)', f'"{column}{_WIDE}"', definition)
    return definition


def _contract(table: str, columns: Sequence[str], replaced: Sequence[tuple[str, str | None]]) -> None:
    """In one short transaction: the wide columns and indexes take the place and the names of the narrow ones."""
    nullable = {column: _is_nullable(table, column) for column in columns}
    op.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
    op.execute(f"DROP TRIGGER {table}{_WIDE} ON {table}")
    op.execute(f"DROP FUNCTION {table}{_WIDE}()")
    dropped = ", ".join(f'DROP COLUMN "{column}"' for column in columns)
    op.execute(f"ALTER TABLE {table} {dropped}")  # with its indexes and constraints
    for column in columns:
        op.execute(f'ALTER TABLE {table} RENAME COLUMN "{column}{_WIDE}" TO "{column}"')
        if not nullable[column]:
            op.execute(f'ALTER TABLE {table} ALTER COLUMN "{column}" SET NOT NULL')
            op.execute(f'ALTER TABLE {table} DROP CONSTRAINT "{table}_{column}{_WIDE}"')
    for name, constraint in replaced:
        if constraint is None:
            op.execute(f'ALTER INDEX "{name}{_WIDE}" RENAME TO "{name}"')
        else:
            kind = "PRIMARY KEY" if constraint == "p" else "UNIQUE"
            op.execute(f'ALTER TABLE {table} ADD CONSTRAINT "{name}" {kind} USING INDEX "{name}{_WIDE}"')


def sort_ids_bytewise(connection: sa.Connection) -> list[str]:
    """Give columns with gids the collation `C` where the database's own does not sort gids bytewise, as Czech does not:
    `dlv_01ch` comes after `dlv_01d0` there. Pages, time ranges and retention compare gids that Python has computed.

    Returns the tables that were changed. Most databases sort gids bytewise, and nothing is done. In others it rebuilds
    the indexes over those columns, and writers of the table wait meanwhile.
    """
    if connection.dialect.name != "postgresql" or connection.execute(sa.text(_SORTS_BYTEWISE)).scalar_one():
        return []
    columns: dict[str, list[str]] = {}
    for table, column in connection.execute(sa.text(_GIDS_BY_DEFAULT_COLLATION)):
        columns.setdefault(table, []).append(f'ALTER COLUMN "{column}" TYPE VARCHAR COLLATE "C"')
    for table, changes in columns.items():
        connection.execute(sa.text(f"ALTER TABLE {table} {', '.join(changes)}"))
    return list(columns)


_SORTS_BYTEWISE = """
WITH letter AS (SELECT substr('0123456789_abcdefghijklmnopqrstuvwxyz', n, 1) AS one FROM generate_series(1, 37) n),
text AS (SELECT a.one || b.one || c.one AS three FROM letter a, letter b, letter c)
SELECT array_agg(three ORDER BY three) = array_agg(three ORDER BY three COLLATE "C") FROM text
"""
"""All sequences of three characters of gids: no language has longer ones that it sorts as one."""

_GIDS_BY_DEFAULT_COLLATION = """
SELECT c.relname, a.attname FROM pg_attribute a
JOIN pg_class c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p')
JOIN pg_collation l ON l.oid = a.attcollation AND l.collname = 'default'
WHERE c.relnamespace = current_schema()::regnamespace AND (a.attname = 'gid' OR a.attname LIKE '%\\_gid')
AND a.attnum > 0 AND NOT a.attisdropped AND EXISTS (
    SELECT 1 FROM pg_class WHERE relname = 'alembic_version' AND relnamespace = current_schema()::regnamespace
) ORDER BY 1, 2
"""


@contextmanager
def _unlocked() -> Iterator[None]:
    """Outside of a transaction and without a timeout: concurrent builds wait for the transactions of others, and no
    transaction waits for them."""
    with op.get_context().autocommit_block():
        op.execute("SET lock_timeout = 0")
        try:
            yield
        finally:
            op.execute(f"SET lock_timeout = '{LOCK_TIMEOUT}'")


def _drop_if_invalid(name: str) -> None:
    """A concurrent build that was interrupted leaves an index that nothing uses."""
    statement = sa.text(
        "SELECT 1 FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
        "WHERE c.relname = :name AND NOT i.indisvalid AND pg_table_is_visible(c.oid)"
    )
    if op.get_bind().execute(statement, {"name": name}).first() is not None:
        op.execute(f'DROP INDEX CONCURRENTLY "{name}"')


def _type_of(table: str, column: str) -> str | None:
    return _column(table, column, "data_type")


def _is_nullable(table: str, column: str) -> bool:
    return _column(table, column, "is_nullable") == "YES"


def _column(table: str, column: str, what: str) -> str | None:
    statement = sa.text(
        f"SELECT {what} FROM information_schema.columns "  # noqa: S608 - a name of our own
        "WHERE table_schema = current_schema() AND table_name = :table AND column_name = :column"
    )
    found: str | None = op.get_bind().execute(statement, {"table": table, "column": column}).scalar_one_or_none()
    return found


def _has_constraint(table: str, name: str) -> bool:
    """Whether there is a valid constraint of this name."""
    statement = sa.text(
        "SELECT convalidated FROM pg_constraint WHERE conname = :name AND conrelid = CAST(:table AS regclass)"
    )
    found = op.get_bind().execute(statement, {"name": name, "table": table}).scalar_one_or_none()
    if found is False:
        op.execute(f'ALTER TABLE {table} DROP CONSTRAINT "{name}"')
    return bool(found)


def _is_postgres() -> bool:
    return op.get_bind().dialect.name == "postgresql"


def _report(line: str) -> None:
    config = op.get_context().config
    report: Callable[[str], Any] | None = config.attributes.get("report") if config is not None else None
    if report is not None:
        report(line)
