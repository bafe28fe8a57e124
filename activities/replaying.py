"""The activities of a replay of a channel: they open its rounds page by page, at a bounded rate."""

import asyncio
import time
from collections.abc import Callable, Collection, Sequence

import structlog
from temporalio import activity
from temporalio.client import Client

from everhook.audit.store import Actor
from everhook.contracts import DeliveryInput, ReplayInput, ReplayProgress
from everhook.delivery.dispatcher import Dispatcher
from everhook.delivery.inputs import NewDelivery
from everhook.delivery.starts import is_away, is_overloaded, start_delivery
from everhook.delivery.store import mark_dispatched
from everhook.delivery.traffic import Traffic
from everhook.redelivery.pages import OpenedPage, ReplayPage, ReplayPages
from everhook.storage.engine import Database

TURN_S = 20.0
"""One activity works for this long; its workflow continues with the next one."""

PAGE_S = 0.25
"""A page has the deliveries of this time, so that a replay is a steady stream and no page holds many locks."""

MAX_PAGE = 100
RATE_WITH_FRESH = 0.1
"""The share of its rate that a replay has while fresh messages flow in this process. With 20 fresh messages a second
(2 cores), 90 replayed ones a second made the p95 of the fresh ones 1.5 to 3 times as long."""

CONCURRENCY = 10
OVERLOADED_PAUSE_S = 1.0
HEARTBEAT_S = 5.0

log = structlog.get_logger()


class ReplayingActivities:
    def __init__(
        self,
        client: Client,
        database: Database,
        pages: ReplayPages,
        wake_queues: Callable[[Collection[str]], None],
        on_change: Callable[[Collection[str]], None],
        dispatcher: Dispatcher,
        *,
        per_second: float,
    ) -> None:
        """`on_change` is called with the messages that are sent. `per_second`: the rate of all replays together."""
        self._client = client
        self._database = database
        self._pages = pages
        self._wake_queues = wake_queues
        self._on_change = on_change
        self._dispatcher = dispatcher
        self._per_second = per_second

    @activity.defn(name="replay_pages")
    async def replay_pages(self, input: ReplayInput) -> ReplayProgress:
        """Continue a replay for a while. It can be interrupted at any point and run again: the database knows its
        position. If Temporal is unavailable, the activity fails and is retried, and the reconciler starts what was
        opened."""
        ends_at = time.monotonic() + TURN_S
        pace = _Pace(self._dispatcher.traffic)
        while True:
            pace.rate = self._per_second / max(await self._pages.running(), 1)
            began = time.monotonic()
            pages = await self._pages.next_pages(input.batch_gid, max(1, min(MAX_PAGE, round(pace.rate * PAGE_S))))
            if not pages:
                return await self._pages.progress(input.batch_gid)
            for page in pages:
                opened = await self._send(page, pace)
                if opened is None:
                    break  # cancelled, or not at this position any more
                activity.heartbeat(opened.progress)
                if not opened.progress.more:
                    return opened.progress
                if not opened.started:  # where nothing matches, the database gets a rest as long as its work
                    await _pause(time.monotonic() - began)
                began = time.monotonic()
                if began >= ends_at or activity.is_worker_shutdown():
                    return opened.progress

    @activity.defn(name="cancel_replay")
    async def cancel_replay(self, input: ReplayInput) -> None:
        """Record that the workflow was cancelled in Temporal."""
        await self._pages.cancel(input.batch_gid, Actor("temporal"))

    async def _send(self, page: ReplayPage, pace: "_Pace") -> OpenedPage | None:
        """Open the rounds of a page and start them."""
        opened = await self._pages.open(page)
        if opened is None:
            return None
        self._wake_queues(opened.queued)
        self._on_change(opened.messages)
        await self._start_all(opened.new, pace)
        if others := opened.started - len(opened.new):  # consumers pull them, or they are parked
            await pace.wait(others)
        return opened

    async def _start_all(self, deliveries: Sequence[NewDelivery], pace: "_Pace") -> None:
        """Start deliveries one after the other: with a first attempt in this process, or with a workflow. A
        refusal by Temporal is logged; raises only if Temporal is unavailable."""
        slots = asyncio.Semaphore(CONCURRENCY)
        started: list[tuple[str, int]] = []
        away: list[Exception] = []

        async def start(delivery: DeliveryInput) -> None:
            async with slots:
                try:
                    await self._start(delivery)
                    started.append((delivery.delivery_gid, delivery.round))
                except Exception as error:
                    if is_away(error):
                        away.append(error)
                        return
                    log.error("a workflow cannot be started", delivery_gid=delivery.delivery_gid, error=str(error))
            activity.heartbeat()

        async with asyncio.TaskGroup() as starts:
            for new in deliveries:
                await pace.wait()
                if not self._dispatcher.attempt_replayed(new):
                    starts.create_task(start(new.input))
        if started:
            async with self._database.write_connection() as connection:
                await mark_dispatched(connection, started)
        if away:
            raise away[0]

    async def _start(self, delivery: DeliveryInput) -> None:
        while True:
            try:
                return await start_delivery(self._client, delivery, first=True, replayed=True)
            except Exception as error:
                if not is_overloaded(error):
                    raise
            activity.heartbeat()
            await asyncio.sleep(OVERLOADED_PAUSE_S)


class _Pace:
    """The times at which deliveries of a replay start, evenly: a burst would delay what comes in just then."""

    def __init__(self, traffic: Traffic) -> None:
        self.rate = 1.0
        self._traffic = traffic
        self._due = time.monotonic()

    async def wait(self, count: int = 1) -> None:
        """Wait for the time of the next `count` deliveries. The time that a page took is subtracted from the wait."""
        await _pause(self._due - time.monotonic())
        rate = self.rate * (RATE_WITH_FRESH if self._traffic.flows else 1.0)
        self._due = max(self._due, time.monotonic() - PAGE_S) + count / rate


async def _pause(seconds: float) -> None:
    """Sleep, with heartbeats: at a low rate, a pause may be longer than a worker may be silent."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        await asyncio.sleep(min(left, HEARTBEAT_S))
        activity.heartbeat()
