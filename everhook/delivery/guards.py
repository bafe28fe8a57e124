"""Starts and signals the workflows of pulled deliveries, in the background of the process that a consumer talks to."""

import asyncio
from dataclasses import dataclass

import structlog

from everhook.contracts import DeliveryInput
from everhook.delivery.confirmations import Confirmations
from everhook.delivery.fair_pool import FairPool
from everhook.delivery.history_store import forget
from everhook.delivery.starts import SETTLED, is_away, is_overloaded, start_delivery
from everhook.event_loop import sleep_unless
from everhook.storage.engine import Database
from everhook.temporal.client import TemporalClient

AWAY_PAUSE_S = 1.0
CONFIRM_INTERVAL_S = 1.0
CONCURRENCY, PER_ENDPOINT = 16, 4
WAITING, WAITING_PER_ENDPOINT = 10_000, 5_000

log = structlog.get_logger()


@dataclass(frozen=True)
class _Start:
    delivery: DeliveryInput
    signals: bool


class GuardStarter:
    """Starts the workflow that guards a delivery after its first failed attempt, and signals it when the delivery is
    acknowledged or its round is over.

    Nothing depends on it: a signal that is lost with the process is in `pending_history`, for the reconciler, and a
    workflow asks the database when its timer fires.
    """

    def __init__(self, client: TemporalClient, database: Database) -> None:
        self._client = client
        self._pool: FairPool[_Start] = FairPool(
            self._run,
            at_most=CONCURRENCY,
            per_key=PER_ENDPOINT,
            waiting=WAITING,
            waiting_per_key=WAITING_PER_ENDPOINT,
        )
        self._closing = asyncio.Event()
        self._confirmations = Confirmations(database, forget, interval_s=CONFIRM_INTERVAL_S)

    def start(self, delivery: DeliveryInput) -> None:
        """Start the workflow of a delivery that is still open."""
        self._pool.offer(delivery.endpoint_gid, _Start(delivery, signals=False))

    def signal(self, delivery: DeliveryInput) -> None:
        """Have the workflow of a delivery check the database. It is started if it does not run."""
        self._pool.offer(delivery.endpoint_gid, _Start(delivery, signals=True))

    async def close(self) -> None:
        """Finish the starts in flight and leave the others to the reconciler."""
        self._closing.set()
        self._pool.withdraw()
        await self._pool.drain()
        await self._confirmations.close()

    async def _run(self, start: _Start) -> None:
        delivery = start.delivery
        while not self._closing.is_set():
            try:
                await start_delivery(
                    self._client, delivery, signal=SETTLED if start.signals else None, first=not start.signals
                )
            except Exception as error:
                if not is_away(error) and not is_overloaded(error):
                    log.error("a workflow cannot be started", delivery_gid=delivery.delivery_gid, error=str(error))
                    return
                await sleep_unless(self._closing, AWAY_PAUSE_S)
            else:
                if start.signals:
                    self._confirmations.add(delivery.delivery_gid)
                return
