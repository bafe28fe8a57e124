"""The states of endpoints, cached for a moment: a delivery that waits in a process checks them before it is sent."""

import time
from collections.abc import Sequence
from contextlib import suppress

from cachetools import TTLCache
from sqlalchemy.ext.asyncio import AsyncConnection

from everhook.circuit.store import EndpointState, endpoint_states
from everhook.storage.batching import BatchExecutor
from everhook.storage.engine import Database

FRESH_S = 0.2
"""A burst of first attempts continues for up to twice this time after an endpoint was paused, changed or limited."""

MAX_CACHED = 10_000


class EndpointStates:
    """Reads the states that concurrent callers ask for in one query, and caches them for `FRESH_S`."""

    def __init__(self, database: Database) -> None:
        self._batches = BatchExecutor(database.read_connection, _load)
        self._cache: TTLCache[str, EndpointState | None] = TTLCache(MAX_CACHED, FRESH_S, timer=time.monotonic)

    async def get(self, endpoint_gid: str, *, fresh: bool = False) -> EndpointState | None:
        """The state, at most `FRESH_S` old, or read now if `fresh`; None if there is no such endpoint."""
        if not fresh:
            with suppress(KeyError):
                return self._cache[endpoint_gid]
        state = self._cache[endpoint_gid] = await self._batches.submit(endpoint_gid)
        return state


async def _load(connection: AsyncConnection, gids: Sequence[str]) -> Sequence[EndpointState | None]:
    found = await endpoint_states(connection, sorted(set(gids)))
    return [found.get(gid) for gid in gids]
