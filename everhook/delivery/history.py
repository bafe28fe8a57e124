"""History workflows: they show in the Temporal UI the deliveries that were delivered before they had a workflow."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from dataclasses import dataclass
from datetime import timedelta

import structlog
from temporalio.client import Client

from everhook.contracts import DeliveryInput
from everhook.delivery.confirmations import Confirmations
from everhook.delivery.history_store import forget
from everhook.delivery.starts import is_away, is_overloaded, start_delivery
from everhook.event_loop import sleep_unless
from everhook.observability.metrics import HISTORY_SKIPPED
from everhook.storage.engine import Database

MAX_LAG = timedelta(hours=1)
"""A history workflow that is later than this is skipped: under sustained overload, history gives way."""

GIVE_WAY_S = 0.5
GIVE_WAY_STEP_S = 0.02
"""How long a start waits for the process to be idle. After that it is made anyway, so that history never stops."""

AWAY_PAUSE_S = 1.0
CONFIRM_INTERVAL_S = 1.0

log = structlog.get_logger()


@dataclass(frozen=True)
class HistoryLimits:
    """`per_second`: starts per second at most. `waiting`: inputs in memory; the others are left to the reconciler."""

    concurrency: int = 4
    per_second: float = 200.0
    waiting: int = 20_000


class History:
    """Starts history workflows in the background, at a bounded rate, giving way to all other work of the process.

    Deliveries whose workflow was not started stay in the table `pending_history`, and the reconciler starts them.
    """

    def __init__(
        self, client: Client, database: Database, is_busy: Callable[[], bool], limits: HistoryLimits = HistoryLimits()
    ) -> None:
        self._client = client
        self._is_busy = is_busy
        self._limits = limits
        self._queue: deque[tuple[float, DeliveryInput, Context]] = deque()
        self._workers: set[asyncio.Task[None]] = set()
        self._next_start_at = 0.0
        self._closing = asyncio.Event()
        self._confirmations = Confirmations(database, forget, interval_s=CONFIRM_INTERVAL_S)

    def add(self, delivery: DeliveryInput) -> None:
        """Start the workflow of a delivered delivery when there is time for it."""
        if self._closing.is_set() or len(self._queue) >= self._limits.waiting:
            return
        self._queue.append((time.monotonic(), delivery, copy_context()))
        if len(self._workers) < self._limits.concurrency:
            task = asyncio.create_task(self._work())
            self._workers.add(task)
            task.add_done_callback(self._workers.discard)

    async def close(self) -> None:
        """Finish the starts in flight and leave the others to the reconciler."""
        self._closing.set()
        self._queue.clear()
        await asyncio.gather(*self._workers, return_exceptions=True)
        await self._confirmations.close()

    async def _work(self) -> None:
        while self._queue and not self._closing.is_set():
            await self._give_way()
            if not self._queue:
                return
            added_at, delivery, context = self._queue.popleft()
            if time.monotonic() - added_at > MAX_LAG.total_seconds():
                HISTORY_SKIPPED.inc()
                self._confirmations.add(delivery.delivery_gid)
            elif not await asyncio.create_task(self._start(delivery), context=context):
                self._queue.append((added_at, delivery, context))
                await sleep_unless(self._closing, AWAY_PAUSE_S)

    async def _give_way(self) -> None:
        until = time.monotonic() + GIVE_WAY_S
        while self._is_busy() and time.monotonic() < until and not self._closing.is_set():  # noqa: ASYNC110 - many reasons
            await asyncio.sleep(GIVE_WAY_STEP_S)
        moment = time.monotonic()
        self._next_start_at = max(self._next_start_at, moment) + 1 / self._limits.per_second
        await asyncio.sleep(self._next_start_at - 1 / self._limits.per_second - moment)

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
