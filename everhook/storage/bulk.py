"""Bulk changes in small transactions with pauses between them, so that other writers are not blocked."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Select, delete, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.dml import Delete, Update
from sqlmodel import SQLModel

from everhook.storage.engine import Database
from everhook.storage.statements import table_of

Found = TypeVar("Found")
Result = TypeVar("Result")

ROWS = 1_000
"""Rows changed in one transaction, not counting rows that depend on them."""


class Bulk:
    """Finds rows by key outside of the transactions that change them. After each transaction it pauses for as long as
    that took, which leaves at least half of the writer's time to others.

    No state is kept between two steps: after an interruption, start again, and it finds what is left.
    """

    def __init__(self, database: Database, heartbeat: Callable[[], None] = lambda: None, *, rows: int = ROWS) -> None:
        """`heartbeat` is called after each step."""
        self.database = database
        self.heartbeat = heartbeat
        self._rows = rows

    async def find(self, statement: Select[Found]) -> list[Found]:
        """All keys that a statement selects."""
        async with self.database.read_connection() as connection:
            found = list((await connection.execute(statement)).scalars())
        self.heartbeat()
        return found

    async def batches(self, statement: Select[str]) -> AsyncIterator[list[str]]:
        """The keys that a statement selects, all found at once: for bounded sets that their index does not return in
        key order."""
        keys = await self.find(statement)
        for start in range(0, len(keys), self._rows):
            yield keys[start : start + self._rows]

    async def pages(self, keys: Select[str], rows: int | None = None) -> AsyncIterator[list[str]]:
        """The keys that a statement selects, in key order, page by page. Rows may be deleted meanwhile."""
        [key] = keys.selected_columns
        rows, after = rows or self._rows, ""
        while page := await self.find(keys.where(key > after).order_by(key).limit(rows)):
            yield page
            after = page[-1]

    async def change(self, *statements: Update | Delete) -> int:
        """Execute statements in one transaction. Returns how many rows the last one changed."""

        async def work(connection: AsyncConnection) -> int:
            changed = 0
            for statement in statements:
                changed = (await connection.execute(statement)).rowcount
            return changed

        return await self.transact(work)

    async def transact(self, work: Callable[[AsyncConnection], Awaitable[Result]]) -> Result:
        """Do some work in one transaction."""
        started = time.monotonic()
        async with self.database.write_connection() as connection:
            result = await work(connection)
        self.heartbeat()
        await asyncio.sleep(time.monotonic() - started)
        return result

    async def delete(self, model: type[SQLModel], *where: ColumnElement[bool]) -> int:
        """Delete all rows of a table that meet the conditions. Returns how many."""
        table, removed = table_of(model), 0
        key = list(table.primary_key.columns)
        some: Select[Any] = select(*key).where(*where).limit(self._rows)
        while count := await self.change(delete(table).where(tuple_(*key).in_(some))):
            removed += count
        return removed
