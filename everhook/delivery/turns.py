"""`maxInFlight` of endpoints, in the process that sends: an attempt waits for its turn, or is retried later."""

import asyncio
import time
from dataclasses import dataclass, field
from datetime import timedelta

from everhook.delivery.turns_store import Turn, Turns
from everhook.event_loop import sleep_unless
from everhook.temporal.postponing import back_off, postponed

PATIENCE_S = 1.0
"""How long an attempt waits here. After that Temporal waits for it, and it holds no worker slot."""

WAITING = 10
"""How many attempts of an endpoint wait here, so that one is ready as soon as a request ends."""

POLL_S = 0.1
"""How often the first that waits looks for a slot that another process has given back."""

FIRST_BACK_OFF_S, LONGEST_BACK_OFF_S = 1.0, 30.0


@dataclass
class _Line:
    """The attempts of one endpoint that wait in this process. The one that has the lock is the first."""

    waiting: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    freed: asyncio.Event = field(default_factory=asyncio.Event)


class TurnQueue:
    """Makes attempts wait for their turn. Only for endpoints with a limit on requests in flight."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._lines: dict[str, _Line] = {}

    async def take(self, endpoint_gid: str, limit: int, lease: timedelta, tries: int, *, waits: bool) -> Turn:
        """Take a turn, for no longer than `lease`. Raises an error with a retry delay if there is none soon.

        `waits`: the attempt may wait here. `tries` counts the calls for this attempt, including this one.
        """
        line = self._lines.setdefault(endpoint_gid, _Line())
        if line.waiting < (WAITING if waits else 1):
            line.waiting += 1
            try:
                turn = await self._wait(line, endpoint_gid, limit, lease, PATIENCE_S if waits else 0.0)
            finally:
                line.waiting -= 1
                if not line.waiting:
                    self._lines.pop(endpoint_gid, None)
            if turn is not None:
                return turn
        delay = back_off(tries, first_s=FIRST_BACK_OFF_S, longest_s=LONGEST_BACK_OFF_S)
        raise postponed("the endpoint has the maximum number of requests in flight", "MaxInFlight", delay)

    async def give_back(self, turn: Turn) -> None:
        """Give a turn back."""
        await self._turns.give_back(turn)
        if (line := self._lines.get(turn.endpoint_gid)) is not None:
            line.freed.set()

    def give_back_soon(self, turn: Turn) -> None:
        """Give a turn back in the background."""
        self._turns.background(self.give_back(turn))

    async def close(self) -> None:
        """Give back what is to be given back in the background."""
        await self._turns.close()

    async def _wait(
        self, line: _Line, endpoint_gid: str, limit: int, lease: timedelta, patience_s: float
    ) -> Turn | None:
        until = time.monotonic() + patience_s
        async with line.lock:
            while True:
                line.freed.clear()
                turn = await self._turns.take(endpoint_gid, limit, lease)
                left = until - time.monotonic()
                if turn is not None or left <= 0:
                    return turn
                await sleep_unless(line.freed, min(left, POLL_S))
