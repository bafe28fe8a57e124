"""Back-pressure: how many accepted deliveries still wait to be started."""

import asyncio
from contextlib import suppress

import structlog

from everhook.delivery.store import count_undispatched
from everhook.errors import BacklogFull
from everhook.storage.engine import Database, is_unavailable

COUNT_EVERY_S = 5.0

log = structlog.get_logger()


class Backlog:
    """Counts every few seconds in a task of its own, so that publishing pays nothing for it."""

    def __init__(self, database: Database, limit: int) -> None:
        self._database = database
        self._limit = limit
        self._full = False
        self._closing = asyncio.Event()

    def refuse_if_full(self) -> None:
        """Raise BacklogFull while the backlog is at its limit: what was accepted is safe, and no more is accepted."""
        if self._full:
            raise BacklogFull(
                f"More than {self._limit} accepted deliveries wait to be started. Nothing was accepted; try later."
            )

    async def watch(self) -> None:
        """Count until `close`. Do not cancel it: a cancelled query would leave its connection open."""
        while not self._closing.is_set():
            await self._count()
            with suppress(TimeoutError):
                async with asyncio.timeout(COUNT_EVERY_S):
                    await self._closing.wait()

    def close(self) -> None:
        self._closing.set()

    async def _count(self) -> None:
        try:
            async with self._database.read_connection() as connection:
                self._full = await count_undispatched(connection, self._limit) >= self._limit
        except Exception as error:
            if not is_unavailable(error):
                log.exception("could not count undispatched deliveries")
