"""`reconcile`: find what fell between commit and workflow, or lost its workflow, and start it."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta

import structlog
from sqlalchemy import ColumnElement
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col
from temporalio import activity
from temporalio.client import Client

from everhook.contracts import DELIVERY_WORKFLOW, DeliveryOrder, DeliveryStatus, OutcomeReport, ReconcileResult
from everhook.dispatch import start_delivery
from everhook.entities import EndpointEntities
from everhook.storage import circuits, deliveries
from everhook.storage.dead_letters import count_older_than
from everhook.storage.engine import Database
from everhook.storage.orders import OrderDefaults, load_orders
from everhook.storage.tables import Delivery, now

BATCH = 500
CONCURRENCY = 50
DEAD_LETTER_AUDIT_S = 60.0
DEAD_LETTER_SETTLED = timedelta(minutes=1)
"""Younger dead letters may not have reached Temporal's visibility store yet."""

log = structlog.get_logger()


class Upkeep:
    def __init__(
        self,
        client: Client,
        database: Database,
        entities: EndpointEntities,
        defaults: OrderDefaults,
        *,
        undispatched_grace: timedelta,
        overdue_grace: timedelta,
    ) -> None:
        self._client = client
        self._database = database
        self._entities = entities
        self._defaults = defaults
        self._undispatched_grace = undispatched_grace
        self._overdue_grace = overdue_grace
        self._dead_letters_due = 0.0

    @activity.defn(name="reconcile")
    async def reconcile(self) -> ReconcileResult:
        """One pass. Its cost follows the trouble: every look-up is by an index that holds only what may need help."""
        started = await self._start_undispatched()
        restarted = await self._restart_overdue() + await self._restore_dead_letters()
        woken = await self._wake_circuits()
        result = ReconcileResult(started=started, restarted=restarted, endpoints=woken)
        if started or restarted or woken:
            log.info("reconciled", started=started, restarted=restarted, endpoints=woken)
        return result

    async def _start_undispatched(self) -> int:
        """Accepted and never started: the process died, or Temporal was away."""
        return await self._start_all(
            deliveries.undispatched_before(now() - self._undispatched_grace), deliveries.mark_dispatched
        )

    async def _restart_overdue(self) -> int:
        """Open, and their next step minutes late: Temporal's store was lost, or restored from a backup. Where the
        workflow is there after all, starting it changes nothing."""
        overdue_at = now() - self._overdue_grace

        async def look_again_later(connection: AsyncConnection, gids: list[str]) -> None:
            await deliveries.look_again_later(connection, gids, overdue_at, self._overdue_grace)

        return await self._start_all(deliveries.overdue_before(overdue_at), look_again_later)

    async def _restore_dead_letters(self) -> int:
        """Dead letters have no next step for a month, so their workflows are counted now and then instead. They must
        be there for replays by query; a replay of one finds it, or makes it, anyway."""
        if time.monotonic() < self._dead_letters_due:
            return 0
        self._dead_letters_due = time.monotonic() + DEAD_LETTER_AUDIT_S
        before = now() - DEAD_LETTER_SETTLED
        async with self._database.read_connection() as connection:
            stored = await count_older_than(connection, before)
        if not stored:
            return 0
        query = (
            f'WorkflowType="{DELIVERY_WORKFLOW}" AND ExecutionStatus="Running" '
            f'AND DeliveryStatus="{DeliveryStatus.DEAD_LETTERED}"'
        )
        if stored <= (await self._client.count_workflows(query)).count:
            return 0
        where = [col(Delivery.status) == DeliveryStatus.DEAD_LETTERED, col(Delivery.dead_lettered_at) < before]
        return await self._start_all(where, mark=None)

    async def _wake_circuits(self) -> int:
        async with self._database.read_connection() as connection:
            endpoints = await circuits.left_behind(connection, now() - self._overdue_grace, self._overdue_grace)
        for endpoint_gid, tenant in endpoints:
            await self._entities.report(endpoint_gid, tenant, OutcomeReport())
        if endpoints:
            async with self._database.write_connection() as connection:
                await circuits.mark_woken(connection, [gid for gid, _ in endpoints])
        return len(endpoints)

    async def _start_all(
        self,
        where: list[ColumnElement[bool]],
        mark: Callable[[AsyncConnection, list[str]], Awaitable[None]] | None,
    ) -> int:
        """Start every delivery that `where` selects, batch by batch in the order of their ids."""
        count, after = 0, ""
        while True:
            async with self._database.read_connection() as connection:
                orders = await load_orders(connection, self._defaults, [*where, col(Delivery.gid) > after], BATCH)
            if not orders:
                return count
            await self._start_batch(orders)
            gids = [order.delivery_gid for order in orders]
            if mark is not None:
                async with self._database.write_connection() as connection:
                    await mark(connection, gids)
            count, after = count + len(orders), gids[-1]
            activity.heartbeat(count)

    async def _start_batch(self, orders: list[DeliveryOrder]) -> None:
        slots = asyncio.Semaphore(CONCURRENCY)

        async def start(order: DeliveryOrder) -> None:
            async with slots:
                await start_delivery(self._client, order)
            activity.heartbeat()

        await asyncio.gather(*(start(order) for order in orders))
