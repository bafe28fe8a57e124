"""Starting the workflow of a delivery: used by the API, the reconciler and replays alike.

A start is idempotent: the workflow id is made of the delivery gid, and a start that finds the workflow open changes
nothing. So whoever is in doubt starts again.
"""

import asyncio
import time
from collections.abc import Iterable
from datetime import timedelta
from typing import Any
from weakref import WeakValueDictionary

import structlog
from temporalio.client import Client
from temporalio.common import (
    Priority,
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)
from temporalio.service import RPCError

from everhook import search_attributes as sa
from everhook.contracts import DELIVERY_WORKFLOW, DeliveryOrder, DeliveryStatus, TaskQueue
from everhook.ids import delivery_workflow_id
from everhook.storage.deliveries import mark_dispatched
from everhook.storage.engine import Database, is_unavailable

START_TIMEOUT = timedelta(seconds=5)
AWAY_PAUSE_S = 1.0
"""After a failed start, others are left to the reconciler for this long: Temporal is away, and each costs seconds."""

ENDPOINT_SHARE = 16
"""One endpoint gets this part of the starts in flight: five hundred messages to it must not stand before the one to
another (its wait was 4 s, and is a few starts' time)."""

MARK_INTERVAL_S = 1.0
"""Confirmed starts are marked this late: by then most of their deliveries are delivered, which marks them as well."""

MARK_BATCH = 500

log = structlog.get_logger()


async def start_delivery(client: Client, order: DeliveryOrder, *, signal: str | None = None, note: Any = None) -> None:
    """Start a delivery's workflow, or find it open; with `signal` either way (signal-with-start)."""
    await client.start_workflow(
        DELIVERY_WORKFLOW,
        order,
        id=delivery_workflow_id(order.delivery_gid),
        task_queue=TaskQueue.DELIVERIES,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
        search_attributes=_search_attributes(order),
        static_summary=f"{order.event_type} on {order.channel} to {order.endpoint_gid} of {order.tenant}",
        priority=Priority(fairness_key=order.endpoint_gid),
        start_signal=signal,
        start_signal_args=[] if note is None else [note],
        request_eager_start=signal is None and order.express,
        rpc_timeout=START_TIMEOUT,
    )


def _search_attributes(order: DeliveryOrder) -> TypedSearchAttributes:
    return TypedSearchAttributes(
        [
            SearchAttributePair(sa.TENANT, order.tenant),
            SearchAttributePair(sa.ENDPOINT, order.endpoint_gid),
            SearchAttributePair(sa.CHANNEL, order.channel),
            SearchAttributePair(sa.EVENT_TYPE, order.event_type),
            SearchAttributePair(sa.DELIVERY_STATUS, DeliveryStatus.SENDING.value),
        ]
    )


class Dispatcher:
    """Starts deliveries in the background of the process that accepted them.

    Nothing depends on it: what it does not start, because the process died, too much waits, or Temporal is away, the
    reconciler does, for `dispatched_at` is set only behind a confirmed start.
    """

    def __init__(self, client: Client, database: Database, *, concurrency: int = 64, queue: int = 10_000) -> None:
        self._client = client
        self._database = database
        self._slots = asyncio.Semaphore(concurrency)
        self._endpoint_slots: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._endpoint_share = max(1, concurrency // ENDPOINT_SHARE)
        self._queue = queue
        self._tasks: set[asyncio.Task[None]] = set()
        self._away_until = 0.0
        self._confirmed: list[str] = []
        self._marker: asyncio.Task[None] | None = None

    def start_soon(self, orders: Iterable[DeliveryOrder]) -> None:
        for order in orders:
            if len(self._tasks) >= self._queue or self._is_away():
                return
            task = asyncio.create_task(self._start(order))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Finish the starts under way and mark what was confirmed."""
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._marker is not None:
            self._marker.cancel()
        await self._mark()

    def _is_away(self) -> bool:
        return time.monotonic() < self._away_until

    def _slots_of(self, endpoint_gid: str) -> asyncio.Semaphore:
        """Kept by those who wait for it."""
        slots = self._endpoint_slots.get(endpoint_gid)
        if slots is None:
            slots = self._endpoint_slots[endpoint_gid] = asyncio.Semaphore(self._endpoint_share)
        return slots

    async def _start(self, order: DeliveryOrder) -> None:
        async with self._slots_of(order.endpoint_gid), self._slots:
            if self._is_away():
                return
            try:
                await start_delivery(self._client, order)
            except (RPCError, RuntimeError) as error:  # a lazy client that cannot connect raises RuntimeError
                if not self._is_away():
                    log.warning("temporal is away, leaving deliveries to the reconciler", error=str(error))
                self._away_until = time.monotonic() + AWAY_PAUSE_S
                return
        self._confirmed.append(order.delivery_gid)
        if self._marker is None:
            self._marker = asyncio.create_task(self._mark_later())

    async def _mark_later(self) -> None:
        while self._confirmed:
            await asyncio.sleep(MARK_INTERVAL_S)
            await self._mark()
        self._marker = None

    async def _mark(self) -> None:
        while self._confirmed:
            batch = self._confirmed[:MARK_BATCH]
            try:
                async with self._database.write_connection() as connection:
                    await mark_dispatched(connection, batch)
            except Exception as error:
                if not is_unavailable(error):
                    log.exception("could not mark deliveries as dispatched")
                return
            del self._confirmed[: len(batch)]
