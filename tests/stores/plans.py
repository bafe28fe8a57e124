"""How the databases go about what they are asked."""

import re
from collections.abc import Callable
from typing import Any

from sqlalchemy import event, text

from everhook.storage.engine import Database


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
    """The plan as the database tells it. PostgreSQL reads small tables whole unless it is told not to."""
    async with database.write_connection() as connection:
        if not database.is_sqlite:
            await connection.execute(text("SET LOCAL enable_seqscan = off"))
        explain = "EXPLAIN QUERY PLAN" if database.is_sqlite else "EXPLAIN"
        rows = await connection.exec_driver_sql(f"{explain} {sql}", parameters)
        return "\n".join(str(row[-1]) for row in rows)


def reads_whole(plan: str, table: str) -> bool:
    """`Seq Scan on delivery  (cost…`, or `SCAN delivery`."""
    return re.search(rf"(Seq Scan on|SCAN) {table}\b", plan) is not None
