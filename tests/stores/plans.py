"""How the databases go about what they are asked."""

import re
from collections.abc import Callable
from typing import Any

from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import SQLModel

from everhook.storage.engine import Database
from everhook.storage.statements import table_of
from everhook.storage.tables import Delivery, Message, PullItem


def recorded(database: Database) -> dict[str, Any]:
    """Each statement that is executed from now on, with its parameters."""
    statements: dict[str, Any] = {}
    _listen(database, lambda statement, parameters: statements.setdefault(statement, parameters))
    return statements


def executed(database: Database) -> list[str]:
    """The statements that are executed from now on, in their order."""
    statements: list[str] = []
    _listen(database, lambda statement, _: statements.append(statement))
    return statements


def _listen(database: Database, note: Callable[[str, Any], object]) -> None:
    def listener(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        note(statement, parameters)

    for engine in {database._writer.sync_engine, database._reader.sync_engine}:
        event.listen(engine, "before_cursor_execute", listener)


async def plan_of(database: Database, sql: str, parameters: Any) -> str:
    """The plan as the database shows it. PostgreSQL reads small tables whole unless sequential scans are off."""
    async with database.write_connection() as connection:
        if not database.is_sqlite:
            await connection.execute(text("SET LOCAL enable_seqscan = off"))
        if isinstance(parameters, list):  # of a statement for several rows
            parameters = parameters[0]
        explain = "EXPLAIN QUERY PLAN" if database.is_sqlite else "EXPLAIN"
        rows = await connection.exec_driver_sql(f"{explain} {sql}", parameters)
        plan = "\n".join(str(row[-1]) for row in rows)
        return plan if database.is_sqlite else await without_partitions(connection, plan)


_OF_PARTITIONS = "SELECT inhrelid::regclass::text, inhparent::regclass::text FROM pg_inherits"


async def without_partitions(connection: AsyncConnection, plan: str) -> str:
    """A plan with the names of tables and their indexes in place of those of their partitions. A Merge Append has a
    sort key, and sorts nothing."""
    names = {row[0]: row[1] for row in await connection.execute(text(_OF_PARTITIONS))}
    named = re.sub(r"\w+", lambda word: names.get(word.group(), word.group()), plan)
    return re.sub(r"Merge Append.*\n +Sort Key:.*", "Merge Append", named)


def reads_whole(plan: str, table: str) -> bool:
    """`Seq Scan on delivery  (cost…`, or `SCAN delivery`."""
    return re.search(rf"(Seq Scan on|SCAN) {table}\b", plan) is not None


_GIDS: dict[type[SQLModel], tuple[str, ...]] = {
    Message: ("gid",),
    Delivery: ("gid", "message_gid"),
    PullItem: ("delivery_gid",),
}


async def multiply(database: Database, original: Delivery, count: int) -> None:
    """Copies of a delivery, of its message, and of its place in the queue of consumers, made by the database."""
    numbers = f"WITH RECURSIVE copies(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM copies WHERE n < {count})"
    number = "printf('%06d', n)" if database.is_sqlite else "to_char(n, 'FM000000')"
    async with database.write_connection() as connection:
        for model, gids in _GIDS.items():
            table = table_of(model)
            values = ", ".join(
                f"substr({column.name}, 1, 14) || {number} || substr({column.name}, 21)"
                if column.name in gids
                else f'"{column.name}"'
                for column in table.columns
            )
            columns = ", ".join(f'"{column.name}"' for column in table.columns)
            gid = original.message_gid if model is Message else original.gid
            of_original = f"FROM copies, {table.name} WHERE {gids[0]} = '{gid}'"
            await connection.execute(
                text(f"INSERT INTO {table.name} ({columns}) {numbers} SELECT {values} {of_original}")
            )


async def analyze(database: Database) -> None:
    """Give the planners statistics, and PostgreSQL indexes without what earlier tests deleted, which makes some look
    large."""
    async with database.read_connection() as connection:
        if not database.is_sqlite:
            await connection.execute(text("REINDEX TABLE delivery"))
        await connection.execute(text("ANALYZE"))


def copy_of(gid: str, number: int) -> str:
    """The id of a copy, from 1: the time and the end of its original's."""
    return f"{gid[:14]}{number:06}{gid[20:]}"
