"""Writing down in batches, a little later, that workflows were started."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import structlog

from everhook.storage.engine import Connection, Database, is_unavailable

BATCH = 500

log = structlog.get_logger()


class Confirmations:
    """Collects the gids of deliveries whose workflows were started, and has `write` record them every `interval_s`.

    While the database is away they are kept and tried again. Those that a process takes with it are found by the
    reconciler, for a start that is repeated changes nothing.
    """

    def __init__(
        self,
        database: Database,
        write: Callable[[Connection, Sequence[str]], Awaitable[None]],
        *,
        interval_s: float,
    ) -> None:
        self._database = database
        self._write = write
        self._interval_s = interval_s
        self._gids: list[str] = []
        self._closing = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None

    def add(self, delivery_gid: str) -> None:
        """A delivery's workflow was started, or never will be."""
        self._gids.append(delivery_gid)
        if self._writer is None:
            self._writer = asyncio.create_task(self._write_later())

    async def close(self) -> None:
        """Write what is left; once only if the database is away, for a process must be able to end."""
        self._closing.set()
        if self._writer is not None:
            await self._writer
        await self._write_all()

    async def _write_later(self) -> None:
        while self._gids and not self._closing.is_set():
            with suppress(TimeoutError):  # the end waits for this task: one that is cancelled may leak its connection
                await asyncio.wait_for(self._closing.wait(), self._interval_s)
            await self._write_all()
        self._writer = None

    async def _write_all(self) -> None:
        while self._gids:
            batch = self._gids[:BATCH]
            try:
                async with self._database.write_connection() as connection:
                    await self._write(connection, batch)
            except Exception as error:
                if not is_unavailable(error):
                    log.exception("could not record which workflows were started")
                return
            del self._gids[: len(batch)]
