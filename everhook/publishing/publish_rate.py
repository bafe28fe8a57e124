"""How much each key may publish (`EVERHOOK_PUBLISH_RATE`)."""

import math
import time
from datetime import timedelta

from limits import parse
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from everhook.errors import InvalidField, RateLimited


class PublishRate:
    """Counts messages by key, in a sliding window, in this process: each API process grants the whole rate. It keeps
    one caller from using up a process; it is not a quota. `key` is what names the caller's API key.

    The counter is approximate (it weights the previous window) and costs the same at any rate.
    """

    def __init__(self, rate: str) -> None:
        self._rate = parse(rate) if rate else None
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())

    async def refuse_if_spent(self, key: str) -> None:
        """Raise RateLimited if not even one message would be accepted. Counts nothing."""
        if self._rate is not None and not await self._limiter.test(self._rate, key):
            raise await self._spent(key)

    async def take(self, key: str, messages: int = 1) -> None:
        """Count messages, all or none. Raise RateLimited if they are too many now, InvalidField if they always are."""
        if self._rate is None:
            return
        if messages > self._rate.amount:
            raise InvalidField("messages", f"takes at most {self._rate.amount}: EVERHOOK_PUBLISH_RATE is {self._rate}")
        if not await self._limiter.hit(self._rate, key, cost=messages):
            raise await self._spent(key)

    async def _spent(self, key: str) -> RateLimited:
        assert self._rate is not None
        stats = await self._limiter.get_window_stats(self._rate, key)
        wait = max(1, math.ceil(stats.reset_time - time.time()))
        detail = f"This key may publish {self._rate}. Nothing was accepted; try later."
        return RateLimited(detail, timedelta(seconds=wait))
