"""Back-pressure: how many accepted deliveries still wait to be started."""

import asyncio
from contextlib import suppress

import structlog

from api import problem_types
from api.problems import Problem
from everhook.delivery.store import count_undispatched
from everhook.storage.engine import Database, is_unavailable

LOOK_EVERY_S = 5.0
RETRY_AFTER_S = 30

log = structlog.get_logger()


class Backlog:
    """Counted every few seconds beside the traffic, so that a publish pays nothing for it."""

    def __init__(self, database: Database, limit: int) -> None:
        self._database = database
        self._limit = limit
        self._full = False
        self._closing = asyncio.Event()

    def refuse_if_full(self) -> None:
        """Raise 503 while the backlog is at its limit: what was accepted is safe, more is not taken on."""
        if self._full:
            raise Problem(
                problem_types.BACKLOG_FULL,
                f"More than {self._limit} accepted deliveries wait to be started. Nothing was accepted; try later.",
                headers={"retry-after": str(RETRY_AFTER_S)},
            )

    async def watch(self) -> None:
        """Until `close`. It is not to be cancelled: cut off in mid-query it would leave a connection behind."""
        while not self._closing.is_set():
            await self._look()
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._closing.wait()

    def close(self) -> None:
        self._closing.set()

    async def _look(self) -> None:
        try:
            async with self._database.read_connection() as connection:
                self._full = await count_undispatched(connection, self._limit) >= self._limit
        except Exception as error:
            if not is_unavailable(error):
                log.exception("could not count undispatched deliveries")
