"""Wake-ups: those who wait for deliveries of an endpoint check the queue when there may be some."""

import asyncio
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import structlog

from everhook.event_loop import end_task, sleep_unless
from everhook.pulling.leases import is_stream
from everhook.pulling.queue_store import with_available
from everhook.storage.engine import Database, is_unavailable
from everhook.storage.notifications import Notifications

CHECK_S = 1.0
"""A process checks this often for all endpoints with waiters, in one query: a hint may be lost."""

CHECK_WITHOUT_HINTS_S = 0.25
"""The same while hints of other processes do not arrive."""

CHANNEL = "everhook"

log = structlog.get_logger()


class Waiter:
    """One who waits for deliveries of an endpoint. `is_hinted`: woken by a hint since the one who waits reset it."""

    def __init__(self) -> None:
        self.is_hinted = False
        self._event = asyncio.Event()

    def wake(self) -> None:
        """There may be something."""
        self.is_hinted = True
        self._event.set()

    def nudge(self) -> None:
        """End a wait without a hint."""
        self._event.set()

    async def wait(self, timeout: float) -> bool:
        """Return when woken, or after `timeout` seconds; whether it was woken. Call it after a check of what is waited
        for; a wake-up since the last call is not lost."""
        await sleep_unless(self._event, timeout)
        woken = self._event.is_set()
        self._event.clear()
        return woken


class WakeUps:
    """Hints from those who accept deliveries to those who wait for them, in this process and, on PostgreSQL, in
    others."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._others = Notifications(database, CHANNEL, self._wake_here) if not database.is_sqlite else None
        self._waiters: dict[str, set[Waiter]] = {}
        self._streams: dict[str, Callable[[Collection[str]], None]] = {}
        self._watcher: asyncio.Task[None] | None = None

    @contextmanager
    def waiting(
        self,
        endpoint_gid: str,
        waiter: Waiter | None = None,
        *,
        consumer: str = "",
        on_freed: Callable[[Collection[str]], None] | None = None,
    ) -> Iterator[Waiter]:
        """Wait for deliveries of an endpoint. `on_freed` is called with deliveries of a stream's consumer whose leases
        ended. Holds no connection of the database."""
        waiter = waiter or Waiter()
        self._waiters.setdefault(endpoint_gid, set()).add(waiter)
        if self._others is not None:
            self._others.listen()
        if on_freed is not None:
            self._streams[consumer] = on_freed
        if self._watcher is None:
            self._watcher = asyncio.create_task(self._watch())
        try:
            yield waiter
        finally:
            if on_freed is not None and self._streams.get(consumer) == on_freed:
                del self._streams[consumer]
            waiters = self._waiters[endpoint_gid]
            waiters.discard(waiter)
            if not waiters:
                del self._waiters[endpoint_gid]

    def wake(self, endpoint_gids: Collection[str]) -> None:
        """Deliveries of these endpoints were committed."""
        self._wake_here(endpoint_gids)
        if self._others is not None:
            self._others.send(endpoint_gids)

    def _wake_here(self, endpoint_gids: Iterable[str]) -> None:
        for gid in endpoint_gids:
            for waiter in self._waiters.get(gid, ()):
                waiter.wake()

    def free(self, endpoint_gid: str, leases: Mapping[str, Collection[str]]) -> None:
        """Leases ended: deliveries by consumer. Their streams may have credit now."""
        for consumer, delivery_gids in leases.items():
            if consumer in self._streams:
                self._streams[consumer](delivery_gids)
            elif is_stream(consumer) and self._others is not None:
                self._others.send([endpoint_gid])  # its stream is at another process

    def wake_all(self) -> None:
        self._wake_here(list(self._waiters))

    async def close(self) -> None:
        """Stop checking, and wake all waiters."""
        if self._watcher is not None:
            await end_task(self._watcher)
        if self._others is not None:
            await self._others.close()
        self.wake_all()

    async def _watch(self) -> None:
        while self._waiters:
            hears = self._others is None or self._others.arrive
            await asyncio.sleep(CHECK_S if hears else CHECK_WITHOUT_HINTS_S)
            try:
                self._wake_here(await self._with_available(sorted(self._waiters)))
            except Exception as error:
                if not is_unavailable(error):
                    log.exception("could not check which endpoints have deliveries to pull")
        self._watcher = None

    async def _with_available(self, endpoint_gids: Sequence[str]) -> list[str]:
        async with self._database.read_connection() as connection:
            return await with_available(connection, endpoint_gids)
