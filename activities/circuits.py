"""What endpoint entities ask for, and how workers tell them what they saw."""

import asyncio
from dataclasses import replace

import structlog
from sqlmodel import col
from temporalio import activity
from temporalio.client import Client

from everhook.circuit import Circuit
from everhook.contracts import (
    CircuitProjection,
    DeliveryOrder,
    OutcomeReport,
    ReleaseNote,
    ReleaseOrder,
    ReleaseResult,
)
from everhook.dispatch import start_delivery
from everhook.entities import EndpointEntities
from everhook.storage.circuits import load_circuit, project
from everhook.storage.deliveries import mark_released, oldest_parked
from everhook.storage.engine import Database
from everhook.storage.orders import OrderDefaults, load_orders
from everhook.storage.tables import Delivery, now
from everhook.verdict import Judgement

COALESCE_S = 0.1
RETRY_S = 1.0
RELEASE_CONCURRENCY = 20

log = structlog.get_logger()


class OutcomeReporter:
    """Collects what this process sees of endpoints and tells their entities: failures, and successes that end a
    streak. Healthy traffic tells nothing.

    What is lost here, because the process dies, is a count in a streak; a lost probe's claim ends with its lease.
    """

    def __init__(self, entities: EndpointEntities) -> None:
        self._entities = entities
        self._pending: dict[str, tuple[str, OutcomeReport]] = {}
        self._streaks: set[str] = set()
        self._flusher: asyncio.Task[None] | None = None
        self._closing = False

    def note(self, endpoint_gid: str, tenant: str, judgement: Judgement, *, in_streak: bool) -> None:
        """`in_streak`: the circuit was not closed, or counted failures, when the attempt began."""
        report = self._report(endpoint_gid, judgement, in_streak)
        if report is None:
            return
        _, before = self._pending.get(endpoint_gid, (tenant, OutcomeReport()))
        self._pending[endpoint_gid] = (tenant, merge(before, report))
        if self._flusher is None:
            self._flusher = asyncio.create_task(self._flush())

    async def close(self) -> None:
        """Tell what is left to tell; once only where Temporal is away, for a worker must be able to end."""
        self._closing = True
        if self._flusher is not None:
            await self._flusher

    def _report(self, endpoint_gid: str, judgement: Judgement, in_streak: bool) -> OutcomeReport | None:
        if judgement.healthy is False:
            self._streaks.add(endpoint_gid)
            return OutcomeReport(failures=1)
        if judgement.healthy is None:
            return None
        if judgement.gone or in_streak or endpoint_gid in self._streaks:
            self._streaks.discard(endpoint_gid)
            return OutcomeReport(succeeded=True, gone=judgement.gone)
        return None

    async def _flush(self) -> None:
        await asyncio.sleep(COALESCE_S)
        while self._pending:
            pending, self._pending = self._pending, {}
            told = all(await asyncio.gather(*(self._tell(gid, *report) for gid, report in pending.items())))
            if self._closing and not told:
                break
            await asyncio.sleep(COALESCE_S if told else RETRY_S)
        self._flusher = None

    async def _tell(self, endpoint_gid: str, tenant: str, report: OutcomeReport) -> bool:
        try:
            await self._entities.report(endpoint_gid, tenant, report)
            return True
        except Exception as error:
            log.warning("could not report to the endpoint's circuit", endpoint_gid=endpoint_gid, error=str(error))
        _, newer = self._pending.get(endpoint_gid, (tenant, OutcomeReport()))
        self._pending[endpoint_gid] = (tenant, merge(report, newer))
        return False


def merge(older: OutcomeReport, newer: OutcomeReport) -> OutcomeReport:
    """Two reports as one: failures before a success no longer count."""
    gone = older.gone or newer.gone
    if newer.succeeded:
        return replace(newer, gone=gone)
    return OutcomeReport(succeeded=older.succeeded, failures=older.failures + newer.failures, gone=gone)


class Circuits:
    def __init__(self, client: Client, database: Database, defaults: OrderDefaults) -> None:
        self._client = client
        self._database = database
        self._defaults = defaults

    @activity.defn(name="load_circuit")
    async def load_circuit(self, endpoint_gid: str) -> Circuit | None:
        """What the database last knew; None where the endpoint was deleted."""
        async with self._database.reading() as session:
            return await load_circuit(session, endpoint_gid)

    @activity.defn(name="project_circuit")
    async def project_circuit(self, projection: CircuitProjection) -> None:
        async with self._database.writing() as session:
            await project(session, projection.endpoint_gid, projection.circuit)

    @activity.defn(name="release_parked")
    async def release_parked(self, order: ReleaseOrder) -> ReleaseResult:
        """Wake the oldest parked deliveries of an endpoint, each by signal-with-start: it works even where a
        workflow is gone. Woken first and marked after, so that nothing is marked and not woken."""
        seen_at = now()
        async with self._database.read_connection() as connection:
            gids = await oldest_parked(connection, order.endpoint_gid, order.limit + 1)
            batch = gids[: order.limit]
            orders = await load_orders(connection, self._defaults, [col(Delivery.gid).in_(batch)], limit=order.limit)
        slots = asyncio.Semaphore(RELEASE_CONCURRENCY)

        async def wake(delivery: DeliveryOrder) -> None:
            async with slots:
                await start_delivery(
                    self._client, delivery, signal="release", note=ReleaseNote(dead_letter=order.dead_letter)
                )

        await asyncio.gather(*(wake(delivery) for delivery in orders))
        async with self._database.write_connection() as connection:
            await mark_released(connection, batch, seen_at)
        return ReleaseResult(released=len(batch), remaining=len(gids) > len(batch))
