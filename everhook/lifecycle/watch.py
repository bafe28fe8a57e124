"""One watcher for all who wait for messages: they re-check a message when something became of it."""

import asyncio
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import structlog

from everhook.event_loop import end_task
from everhook.lifecycle.store import Fingerprint, fingerprints
from everhook.pulling.wake_ups import Waiter
from everhook.storage.engine import Database, is_unavailable

CHECK_S = 0.25
"""A process asks this often about all messages that are waited for, in one query."""

MANY_DELIVERIES, CHECK_MANY_S = 1_000, 5.0
"""Messages with more deliveries are asked about less often: each check reads all of them."""

log = structlog.get_logger()


@dataclass
class _Watched:
    """`seen` is None until the first check: what changed before it is not known, so it wakes the waiters."""

    waiters: set[Waiter]
    seen: Fingerprint | None = None
    due_at: float = 0.0


class MessageWatch:
    """Wakes those who wait for messages. One for each process. Its cost grows with the waiters, not with traffic."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._watched: dict[str, _Watched] = {}
        self._watcher: asyncio.Task[None] | None = None

    @contextmanager
    def watching(self, message_gid: str, waiter: Waiter | None = None) -> Iterator[Waiter]:
        """Wait for changes of a message. Holds no connection of the database."""
        waiter = waiter or Waiter()
        self._watched.setdefault(message_gid, _Watched(set())).waiters.add(waiter)
        if self._watcher is None:
            self._watcher = asyncio.create_task(self._watch())
        try:
            yield waiter
        finally:
            waiters = self._watched[message_gid].waiters
            waiters.discard(waiter)
            if not waiters:
                del self._watched[message_gid]

    def wake(self, message_gids: Iterable[str]) -> None:
        """Changes of these messages were committed by this process."""
        for gid in message_gids:
            if gid in self._watched:
                for waiter in self._watched[gid].waiters:
                    waiter.wake()

    def wake_all(self) -> None:
        self.wake(list(self._watched))

    async def close(self) -> None:
        """Stop checking, and wake all waiters."""
        if self._watcher is not None:
            await end_task(self._watcher)
        self.wake_all()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(CHECK_S)
            if not self._watched:
                break
            try:
                await self._check()
            except Exception as error:
                if not is_unavailable(error):
                    log.exception("could not check what became of messages")
        self._watcher = None

    async def _check(self) -> None:
        clock = time.monotonic()
        due = {gid: watched for gid, watched in self._watched.items() if watched.due_at <= clock}
        if not due:
            return
        async with self._database.read_connection() as connection:
            found = await fingerprints(connection, due)
        for gid, watched in due.items():
            fingerprint = found.get(gid, ())
            size = sum(count for _, count, _, _ in fingerprint)
            watched.due_at = clock + (CHECK_MANY_S if size > MANY_DELIVERIES else 0.0)
            if fingerprint != watched.seen:
                watched.seen = fingerprint
                for waiter in watched.waiters:
                    waiter.wake()
