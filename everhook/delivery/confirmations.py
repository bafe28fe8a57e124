"""Batched confirmations that workflows were started."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import structlog

from everhook.event_loop import sleep_unless
from everhook.storage.engine import Connection, Database, is_unavailable

BATCH = 500

log = structlog.get_logger()


Item = TypeVar("Item")


class Confirmations(Generic[Item]):
    """Collects the deliveries whose workflows were started. `write` records them every `interval_s` seconds.

    While the database is unavailable they are kept and retried. If the process dies they are lost, and the reconciler
    starts those workflows again, which changes nothing.
    """

    def __init__(
        self,
        database: Database,
        write: Callable[[Connection, Sequence[Item]], Awaitable[None]],
        *,
        interval_s: float,
    ) -> None:
        self._database = database
        self._write = write
        self._interval_s = interval_s
        self._items: list[Item] = []
        self._closing = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None

    def add(self, delivery: Item) -> None:
        """A delivery's workflow was started, or never will be."""
        self._items.append(delivery)
        if self._writer is None:
            self._writer = asyncio.create_task(self._write_later())

    async def close(self) -> None:
        """Write what is left. If the database is unavailable this is tried once only, so that the process can end."""
        self._closing.set()
        if self._writer is not None:
            await self._writer
        await self._write_all()

    async def _write_later(self) -> None:
        while self._items and not self._closing.is_set():
            # `close` waits for this task: a cancelled one may leak its connection
            await sleep_unless(self._closing, self._interval_s)
            await self._write_all()
        self._writer = None

    async def _write_all(self) -> None:
        while self._items:
            batch = self._items[:BATCH]
            try:
                async with self._database.write_connection() as connection:
                    await self._write(connection, batch)
            except Exception as error:
                if not is_unavailable(error):
                    log.exception("could not record which workflows were started")
                return
            del self._items[: len(batch)]
