"""How much each key may publish (`EVERHOOK_PUBLISH_RATE`)."""

import math
import time

from limits import parse
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from api import problem_types
from api.callers import Caller
from api.problems import Problem, invalid


class PublishRate:
    """Counts messages by key, in a sliding window, in this process: behind a load balancer each API process grants the
    rate anew. It keeps one caller from taking all of a process; it is no quota.

    The counter is approximate (it weighs the window before) and costs the same at any rate.
    """

    def __init__(self, rate: str) -> None:
        self._rate = parse(rate) if rate else None
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())

    async def refuse_if_spent(self, caller: Caller) -> None:
        """Raise 429 where not even one message would be accepted; nothing is counted yet."""
        if self._rate is not None and not await self._limiter.test(self._rate, _whose(caller)):
            raise await self._spent(caller)

    async def take(self, caller: Caller, messages: int = 1) -> None:
        """Count messages, all or none. Raise 429 where they are too many now, 422 where they always would be."""
        if self._rate is None:
            return
        if messages > self._rate.amount:
            raise invalid("messages", f"takes at most {self._rate.amount}: EVERHOOK_PUBLISH_RATE is {self._rate}")
        if not await self._limiter.hit(self._rate, _whose(caller), cost=messages):
            raise await self._spent(caller)

    async def _spent(self, caller: Caller) -> Problem:
        assert self._rate is not None
        stats = await self._limiter.get_window_stats(self._rate, _whose(caller))
        wait = max(1, math.ceil(stats.reset_time - time.time()))
        return Problem(
            problem_types.RATE_LIMITED,
            f"This key may publish {self._rate}. Nothing was accepted; try later.",
            headers={"retry-after": str(wait)},
        )


def _whose(caller: Caller) -> str:
    return caller.key_gid or caller.name
