"""Rate limits of endpoints, in the process that sends: an attempt waits for its send time, or is retried later."""

import asyncio
import time

from everhook.delivery.send_times_store import SendTimes
from everhook.temporal.postponing import back_off, postponed

LATE_S = 0.03
"""An attempt that is later than this gives up its send time and reserves another. Less than what `SLACK` allows for."""

MISSES = 3
"""After this many missed send times in a row the machine is overloaded, and a late attempt is sent anyway."""

FIRST_BACK_OFF_S, LONGEST_BACK_OFF_S = 1.0, 60.0


class Pacer:
    """Makes attempts wait for the send times of their endpoint. Only for endpoints with a rate limit.

    The beginnings of requests are spaced: a connection that takes long to open delays one request and not the next.
    """

    def __init__(self, times: SendTimes) -> None:
        self._times = times

    async def reserve(self, endpoint_gid: str, limit: float, tries: int) -> float:
        """Reserve a send time, by `time.monotonic()`, within about a second. If there is none, raises an error with a
        retry delay. `tries` counts the calls for this attempt, including this one."""
        found = await self._times.reserve(endpoint_gid, limit)
        if found.reserved:
            return found.at
        delay = max(found.at - time.monotonic(), 0.0) + back_off(
            tries, first_s=FIRST_BACK_OFF_S, longest_s=LONGEST_BACK_OFF_S
        )
        raise postponed("the endpoint's rate limit does not allow a request yet", "RateLimited", delay)

    @staticmethod
    async def wait(until: float) -> bool:
        """Wait for a send time. False if it was missed."""
        await asyncio.sleep(until - time.monotonic())
        return time.monotonic() - until <= LATE_S
