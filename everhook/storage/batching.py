"""Grouping: what concurrent callers ask of the database at the same time is done at once.

Row by row a database commits 650-1,500 rows a second here, grouped 18,000-27,000, with the same durability. While one
group is under way the next one gathers, so a lone caller waits for nobody, and each returns after its own commit.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Generic, TypeVar

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from everhook.storage.engine import is_unavailable, once_more_if_outdated

Item = TypeVar("Item")
Result = TypeVar("Result")


class BatchExecutor(Generic[Item, Result]):
    """Collects items and has `apply` read or write them on one connection; it answers with one result each, in order.

    `apply` must be able to run again for the same items: a group that fails because of one of them is split, until
    that one fails alone and all others are committed.
    """

    def __init__(
        self,
        connect: Callable[[], AbstractAsyncContextManager[AsyncConnection]],
        apply: Callable[[AsyncConnection, Sequence[Item]], Awaitable[Sequence[Result]]],
        *,
        at_most: int = 500,
    ) -> None:
        self._connect = connect
        self._apply = apply
        self._at_most = at_most
        self._waiting: list[tuple[Item, asyncio.Future[Result]]] = []
        self._drainer: asyncio.Task[None] | None = None

    async def submit(self, item: Item) -> Result:
        """Have one item done. Returns once its transaction is committed; raises what the database raised for it."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._drainer is None:
            self._drainer = asyncio.create_task(self._drain())
        return await asyncio.shield(future)

    async def _drain(self) -> None:
        try:
            while self._waiting:
                group, self._waiting = self._waiting[: self._at_most], self._waiting[self._at_most :]
                await self._do(group)
        finally:
            self._drainer = None

    async def _do(self, group: list[tuple[Item, asyncio.Future[Result]]]) -> None:
        try:
            results = await once_more_if_outdated(lambda: self._execute([item for item, _ in group]))
        except Exception as error:
            if len(group) > 1 and isinstance(error, DBAPIError) and not is_unavailable(error):
                middle = len(group) // 2
                await self._do(group[:middle])
                await self._do(group[middle:])
                return
            for _, future in group:
                _resolve(future, error)
        else:
            for (_, future), result in zip(group, results, strict=True):
                if not future.done():
                    future.set_result(result)

    async def _execute(self, items: Sequence[Item]) -> Sequence[Result]:
        async with self._connect() as connection:
            return await self._apply(connection, items)


def _resolve(future: "asyncio.Future[Result]", error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # mark as seen: its caller may have been cancelled meanwhile
