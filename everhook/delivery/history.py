"""History workflows: they show in the Temporal UI the deliveries that were delivered before they had a workflow."""

import asyncio
import time
from collections import deque
from contextvars import Context, copy_context
from dataclasses import dataclass
from datetime import timedelta

import structlog

from everhook.contracts import DeliveryInput
from everhook.delivery.confirmations import Confirmations
from everhook.delivery.history_store import forget
from everhook.delivery.starts import is_away, is_overloaded, start_delivery
from everhook.delivery.traffic import Traffic
from everhook.event_loop import sleep_unless
from everhook.observability.metrics import HISTORY_SKIPPED
from everhook.storage.engine import Database
from everhook.temporal.client import TemporalClient

MAX_LAG = timedelta(hours=1)
"""A history workflow that is later than this is skipped: under sustained overload, history gives way."""

AWAY_PAUSE_S = 1.0
CONFIRM_INTERVAL_S = 1.0

EVEN_RATE, EVEN_S = 50.0, 1.0
"""While fresh messages flow, what waits is started evenly over this time, at no less than this rate per second.

One acknowledgement of many deliveries would start as many workflows at once, and fresh messages would wait for them:
the p95 of publish to stream ÷ publish to webhook was 1.22, and is 1.08 (medians of 6 and 10 runs).
"""

log = structlog.get_logger()


@dataclass(frozen=True)
class HistoryLimits:
    """`per_second`: starts per second at most. `waiting`: inputs in memory; the others are left to the reconciler."""

    concurrency: int = 4
    per_second: float = 200.0
    waiting: int = 20_000


class _Line:
    """Inputs that wait. While fresh messages flow, there are rests between the starts of those of replays."""

    def __init__(self, concurrency: int, waiting: int, *, is_replayed: bool) -> None:
        self.concurrency = concurrency
        self.waiting = waiting
        self.is_replayed = is_replayed
        self.queue: deque[tuple[float, DeliveryInput, Context]] = deque()
        self.workers: set[asyncio.Task[None]] = set()


class History:
    """Starts history workflows in the background, at a bounded rate, giving way to all other work of the process.
    Those of replays wait in a line of their own, mostly until no fresh messages flow: 20 starts a second made the p95
    of 20 fresh messages a second 1.8 times as long (2 cores).

    Deliveries whose workflow was not started stay in the table `pending_history`, and the reconciler starts them.
    """

    def __init__(
        self, client: TemporalClient, database: Database, traffic: Traffic, limits: HistoryLimits = HistoryLimits()
    ) -> None:
        self._client = client
        self._traffic = traffic
        self._limits = limits
        self._fresh = _Line(limits.concurrency, limits.waiting, is_replayed=False)
        self._replayed = _Line(1, limits.waiting // 10, is_replayed=True)
        self._next_start_at = 0.0
        self._closing = asyncio.Event()
        self._confirmations = Confirmations(database, forget, interval_s=CONFIRM_INTERVAL_S)

    def add(self, delivery: DeliveryInput, *, replayed: bool = False) -> None:
        """Start the workflow of a delivered delivery when there is time for it."""
        line = self._replayed if replayed else self._fresh
        if self._closing.is_set() or len(line.queue) >= line.waiting:
            return
        line.queue.append((time.monotonic(), delivery, copy_context()))
        if len(line.workers) < line.concurrency:
            task = asyncio.create_task(self._work(line))
            line.workers.add(task)
            task.add_done_callback(line.workers.discard)

    async def close(self) -> None:
        """Finish the starts in flight and leave the others to the reconciler."""
        self._closing.set()
        for line in (self._fresh, self._replayed):
            line.queue.clear()
            await asyncio.gather(*line.workers, return_exceptions=True)
        await self._confirmations.close()

    async def _work(self, line: _Line) -> None:
        while line.queue and not self._closing.is_set():
            await self._keep_rate(len(line.queue))
            await self._traffic.give_way(self._closing)
            if not line.queue:
                return
            added_at, delivery, context = line.queue.popleft()
            if time.monotonic() - added_at > MAX_LAG.total_seconds():
                HISTORY_SKIPPED.inc()
                self._confirmations.add(delivery.delivery_gid)
            elif not await asyncio.create_task(self._start(delivery), context=context):
                line.queue.append((added_at, delivery, context))
                await sleep_unless(self._closing, AWAY_PAUSE_S)
            elif line.is_replayed:
                await self._traffic.rest(self._closing)

    async def _keep_rate(self, waiting: int) -> None:
        rate = self._limits.per_second
        if self._traffic.flows:
            rate = min(rate, max(EVEN_RATE, waiting / EVEN_S))
        moment = time.monotonic()
        start_at = max(self._next_start_at, moment)
        self._next_start_at = start_at + 1 / rate
        await asyncio.sleep(start_at - moment)

    async def _start(self, delivery: DeliveryInput) -> bool:
        """False if the start has to be tried again."""
        try:
            await start_delivery(self._client, delivery, first=True, eager=True)
        except Exception as error:
            if is_away(error) or is_overloaded(error):
                return False
            log.error("a history workflow cannot be started", delivery_gid=delivery.delivery_gid, error=str(error))
            return True
        self._confirmations.add(delivery.delivery_gid)
        return True
