"""Rate limits of endpoints, in the process that sends: an attempt waits for a send time, or comes back later."""

import asyncio
import time

from everhook.delivery.send_times_store import SendTimes
from everhook.temporal.postponing import back_off, postponed

LATE_S = 0.03
"""A send time that is missed by more than this is given up for another: less than `SLACK` allows for."""

MISSES = 3
"""So many send times in a row may be missed. Then the machine is overloaded, and an attempt that is late must do."""

FIRST_BACK_OFF_S, LONGEST_BACK_OFF_S = 1.0, 60.0


class Pacer:
    """Has attempts wait for their endpoint's send times. It is not asked for endpoints without a limit.

    What is spaced is the beginning of requests: a connection that takes long to open delays one request and not the
    next.
    """

    def __init__(self, times: SendTimes) -> None:
        self._times = times

    async def reserve(self, endpoint_gid: str, limit: float, tries: int) -> float:
        """Reserve a send time, by `time.monotonic()`, of the next second or so. Raises an error that has Temporal ask
        again later where none is so near; `tries` counts how often it was asked already, this time included."""
        found = await self._times.reserve(endpoint_gid, limit)
        if found.reserved:
            return found.at
        delay = max(found.at - time.monotonic(), 0.0) + back_off(
            tries, first_s=FIRST_BACK_OFF_S, longest_s=LONGEST_BACK_OFF_S
        )
        raise postponed("the endpoint's rate limit does not allow a request yet", "RateLimited", delay)

    @staticmethod
    async def wait(until: float) -> bool:
        """Wait for a send time. False where it was missed."""
        await asyncio.sleep(until - time.monotonic())
        return time.monotonic() - until <= LATE_S
