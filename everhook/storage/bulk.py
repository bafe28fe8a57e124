"""Changing many rows without being in anybody's way: small transactions, with rests between them."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Select, delete, select, tuple_
from sqlalchemy.sql.dml import Delete, Update
from sqlmodel import SQLModel

from everhook.storage.engine import Database
from everhook.storage.statements import table_of

Found = TypeVar("Found")

ROWS = 1_000
"""Changed in one transaction; what hangs on them comes on top."""


class Bulk:
    """Finds rows by key, outside of the transactions that change them, and rests after each for as long as it took:
    so half of the writer's time, at least, is left to those who send and publish.

    Nothing is remembered between two steps. Whoever is interrupted begins again, and finds what is left.
    """

    def __init__(self, database: Database, beat: Callable[[], None] = lambda: None, *, rows: int = ROWS) -> None:
        """`beat` is called after each step."""
        self._database = database
        self._beat = beat
        self._rows = rows

    async def find(self, statement: Select[Found]) -> list[Found]:
        """All keys that a statement selects."""
        async with self._database.read_connection() as connection:
            found = list((await connection.execute(statement)).scalars())
        self._beat()
        return found

    async def batches(self, statement: Select[str]) -> AsyncIterator[list[str]]:
        """The keys that a statement selects, all found at once: for what is bounded, and not to be had in order by the
        index that finds it."""
        keys = await self.find(statement)
        for start in range(0, len(keys), self._rows):
            yield keys[start : start + self._rows]

    async def pages(self, keys: Select[str], rows: int | None = None) -> AsyncIterator[list[str]]:
        """The keys that a statement selects, in their order, page by page. They may be removed meanwhile."""
        [key] = keys.selected_columns
        rows, after = rows or self._rows, ""
        while page := await self.find(keys.where(key > after).order_by(key).limit(rows)):
            yield page
            after = page[-1]

    async def change(self, *statements: Update | Delete) -> int:
        """Execute statements in one transaction; returns how many rows the last one changed."""
        began, changed = time.monotonic(), 0
        async with self._database.write_connection() as connection:
            for statement in statements:
                changed = (await connection.execute(statement)).rowcount
        self._beat()
        await asyncio.sleep(time.monotonic() - began)
        return changed

    async def delete(self, model: type[SQLModel], *where: ColumnElement[bool]) -> int:
        """Delete all rows of a table that meet the conditions; returns how many there were."""
        table, removed = table_of(model), 0
        key = list(table.primary_key.columns)
        some: Select[Any] = select(*key).where(*where).limit(self._rows)
        while count := await self.change(delete(table).where(tuple_(*key).in_(some))):
            removed += count
        return removed
