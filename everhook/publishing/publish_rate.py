"""How much each key (`EVERHOOK_PUBLISH_RATE`) and each tenant (its `publishRate`) may publish."""

import math
import time
from dataclasses import dataclass
from functools import lru_cache

from limits import RateLimitItem, parse
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from everhook.errors import InvalidField, Quota, RateLimited

KEY, TENANT = "key", "tenant"
"""The names of the two policies in the header `RateLimit-Policy`."""


@dataclass(frozen=True)
class Limit:
    """A rate, and whose it is. `setting` names what sets it; `whose` begins a sentence."""

    policy: str
    subject: str
    rate: RateLimitItem
    setting: str
    whose: str


class PublishRate:
    """Counts messages in sliding windows, in this process: each API process grants the whole rate. It keeps one caller
    from using up a process; it is not a quota.

    The counter is approximate (it weights the previous window) and costs the same at any rate.
    """

    def __init__(self, rate: str) -> None:
        self._rate = parse(rate) if rate else None
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())

    def of_key(self, key: str) -> Limit | None:
        """`key` is what names the caller's API key. None: there is no limit."""
        if self._rate is None:
            return None
        return Limit(KEY, key, self._rate, "EVERHOOK_PUBLISH_RATE", "This key")

    def of_tenant(self, tenant_gid: str | None, rate: str | None) -> Limit | None:
        """The limit of messages for one tenant, whichever key publishes them."""
        if tenant_gid is None or rate is None:
            return None
        return Limit(TENANT, tenant_gid, _parsed(rate), "the tenant's publishRate", "This tenant")

    async def refuse_if_spent(self, limit: Limit | None, messages: int = 1) -> None:
        """Raise RateLimited if so many messages would not be accepted. Counts nothing. Raise InvalidField if so many
        never are."""
        if limit is None:
            return
        _require_possible(limit, messages)
        if not await self._limiter.test(limit.rate, limit.policy, limit.subject, cost=messages):
            raise await self._spent(limit)

    async def take(self, limit: Limit | None, messages: int = 1) -> list[Quota]:
        """Count messages, all or none; what is left after that. Raise RateLimited if they are too many now,
        InvalidField if they always are."""
        if limit is None:
            return []
        _require_possible(limit, messages)
        if not await self._limiter.hit(limit.rate, limit.policy, limit.subject, cost=messages):
            raise await self._spent(limit)
        return [await self._quota(limit)]

    async def _spent(self, limit: Limit) -> RateLimited:
        detail = f"{limit.whose} may publish {limit.rate}. Nothing was accepted; try later."
        return RateLimited(detail, await self._quota(limit))

    async def _quota(self, limit: Limit) -> Quota:
        stats = await self._limiter.get_window_stats(limit.rate, limit.policy, limit.subject)
        return Quota(
            policy=limit.policy,
            amount=limit.rate.amount,
            window_s=limit.rate.get_expiry(),
            remaining=max(0, stats.remaining),
            reset_s=max(0, math.ceil(stats.reset_time - time.time())),
        )


def _require_possible(limit: Limit, messages: int) -> None:
    if messages > limit.rate.amount:
        raise InvalidField("messages", f"takes at most {limit.rate.amount}: {limit.setting} is {limit.rate}")


@lru_cache(maxsize=1_000)
def _parsed(rate: str) -> RateLimitItem:
    return parse(rate)
