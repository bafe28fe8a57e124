"""The states of endpoints, kept for a moment: what waits in a process must not go out on old knowledge."""

import time
from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from everhook.circuit.store import EndpointState, endpoint_states
from everhook.storage.batching import BatchExecutor
from everhook.storage.engine import Database

FRESH_S = 0.2
"""A burst of first attempts goes on for up to twice as long after an endpoint was paused, moved or given a limit."""
MAX_CACHED = 10_000


class EndpointStates:
    """Reads states in batches, for concurrent callers in one query."""

    def __init__(self, database: Database) -> None:
        self._batches = BatchExecutor(database.read_connection, _load)
        self._known: dict[str, tuple[float, EndpointState | None]] = {}

    async def get(self, endpoint_gid: str, *, fresh: bool = False) -> EndpointState | None:
        """At most `FRESH_S` old, or read now if `fresh`; None where there is no such endpoint."""
        known = self._known.get(endpoint_gid)
        if known is not None and not fresh and time.monotonic() < known[0]:
            return known[1]
        state = await self._batches.submit(endpoint_gid)
        if len(self._known) >= MAX_CACHED:
            self._known.clear()
        self._known[endpoint_gid] = (time.monotonic() + FRESH_S, state)
        return state


async def _load(connection: AsyncConnection, gids: Sequence[str]) -> Sequence[EndpointState | None]:
    found = await endpoint_states(connection, sorted(set(gids)))
    return [found.get(gid) for gid in gids]
