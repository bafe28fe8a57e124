"""Announces changed circuit settings to the workflows that hold the circuits."""

import asyncio

import structlog

from everhook.circuit.client import CircuitClient
from everhook.circuit.store import endpoints_with_workflow
from everhook.event_loop import end_task
from everhook.storage.engine import Database

PAGE = 500
CONCURRENCY = 16
ENDPOINT_TIMEOUT_S = 2.0
"""The caller who changed an endpoint waits for its workflow no longer than this."""

log = structlog.get_logger()


class CircuitAnnouncer:
    """Signals workflows after the settings of an endpoint or a channel were changed.

    A signal that is lost, because the process dies or Temporal is unavailable, is not repeated: a workflow gets the
    current settings with the result of its next projection as well.
    """

    def __init__(self, database: Database, circuits: CircuitClient) -> None:
        self._database = database
        self._circuits = circuits
        self._tasks: set[asyncio.Task[None]] = set()

    async def endpoint_changed(self, endpoint_gid: str) -> None:
        """Returns once the workflow has the signal, or could not be reached in time."""
        try:
            async with asyncio.timeout(ENDPOINT_TIMEOUT_S):
                await self._circuits.settings_changed(endpoint_gid)
        except Exception as error:
            log.warning("circuit settings were not announced", endpoint_gid=endpoint_gid, error=str(error))

    def channel_changed(self, channel: str) -> None:
        """Signal the workflows of all endpoints that subscribe to the channel, in the background."""
        task = asyncio.create_task(self._announce(channel))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Give up what is left."""
        await asyncio.gather(*map(end_task, self._tasks))

    async def _announce(self, channel: str) -> None:
        after = ""
        try:
            while gids := await self._page(channel, after):
                after = gids[-1]
                for start in range(0, len(gids), CONCURRENCY):
                    await asyncio.gather(*map(self._circuits.settings_changed, gids[start : start + CONCURRENCY]))
        except Exception as error:
            log.warning("circuit settings of a channel were not announced", channel=channel, error=str(error))

    async def _page(self, channel: str, after: str) -> list[str]:
        async with self._database.read_connection() as connection:
            return list(await endpoints_with_workflow(connection, channel, after, PAGE))
