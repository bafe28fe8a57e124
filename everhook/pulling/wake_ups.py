"""Wake-ups: those who wait for deliveries of an endpoint check the queue when there may be some."""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress

import structlog

from everhook.pulling.queue_store import with_available
from everhook.storage.engine import Database, is_unavailable

CHECK_S = 1.0
"""A process checks this often for all endpoints with waiters, in one query: a hint may be lost, and another process may
have accepted the delivery."""

log = structlog.get_logger()


class Waiter:
    """One who waits for deliveries of an endpoint."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def wake(self) -> None:
        self._event.set()

    async def wait(self, timeout: float) -> None:
        """Return when woken, or after `timeout` seconds. Call it after a check of the queue; a wake-up since the last
        call is not lost."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._event.wait(), timeout)
        self._event.clear()


class WakeUps:
    """Hints from those who accept deliveries to those who wait for them, within this process."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiters: dict[str, set[Waiter]] = {}
        self._watcher: asyncio.Task[None] | None = None

    @contextmanager
    def waiting(self, endpoint_gid: str) -> Iterator[Waiter]:
        """Wait for deliveries of an endpoint. Holds no connection of the database."""
        waiter = Waiter()
        self._waiters.setdefault(endpoint_gid, set()).add(waiter)
        if self._watcher is None:
            self._watcher = asyncio.create_task(self._watch())
        try:
            yield waiter
        finally:
            waiters = self._waiters[endpoint_gid]
            waiters.discard(waiter)
            if not waiters:
                del self._waiters[endpoint_gid]

    def wake(self, endpoint_gids: Iterable[str]) -> None:
        """Deliveries of these endpoints were committed."""
        for gid in endpoint_gids:
            for waiter in self._waiters.get(gid, ()):
                waiter.wake()

    async def close(self) -> None:
        """Stop checking, and wake all waiters."""
        if self._watcher is not None:
            self._watcher.cancel()
            with suppress(asyncio.CancelledError):
                await self._watcher
        self.wake(list(self._waiters))

    async def _watch(self) -> None:
        while self._waiters:
            await asyncio.sleep(CHECK_S)
            try:
                self.wake(await self._with_available(sorted(self._waiters)))
            except Exception as error:
                if not is_unavailable(error):
                    log.exception("could not check which endpoints have deliveries to pull")
        self._watcher = None

    async def _with_available(self, endpoint_gids: Sequence[str]) -> list[str]:
        async with self._database.read_connection() as connection:
            return await with_available(connection, endpoint_gids)
