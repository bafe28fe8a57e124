"""Starts the workflows of accepted deliveries, in the background of the process that accepted them."""

import asyncio
import random
import time
from dataclasses import dataclass, replace

import structlog

from everhook.circuit.states_store import EndpointStates
from everhook.contracts import DeliveryInput, DeliveryMode
from everhook.delivery.confirmations import Confirmations
from everhook.delivery.fair_pool import FairPool
from everhook.delivery.parked_store import accept_again
from everhook.delivery.recorder_store import Recorder
from everhook.delivery.starts import is_away, is_overloaded, start_delivery
from everhook.delivery.store import mark_dispatched
from everhook.event_loop import sleep_unless
from everhook.storage.engine import Database, is_unavailable
from everhook.storage.tables import now
from everhook.temporal.client import TemporalClient

ENDPOINT_SHARE = 16
"""One endpoint gets one such part of the starts in flight: otherwise 500 messages to it would delay a message to
another endpoint (by 4 s; now by a few starts)."""

AWAY_PAUSE_S = 1.0
"""How long other starts wait after one failed: Temporal is unavailable, and each try takes seconds."""

MARK_INTERVAL_S = 1.0
"""Confirmed starts are recorded this late: by then most of their deliveries are delivered, which records them as well.
"""

log = structlog.get_logger()


@dataclass(frozen=True)
class StarterLimits:
    """`concurrency`: starts in flight. `waiting`, `waiting_per_endpoint`: inputs that wait in memory."""

    concurrency: int = 64
    waiting: int = 10_000
    waiting_per_endpoint: int = 2_000


@dataclass(frozen=True)
class _Start:
    input: DeliveryInput
    replayed: bool


class Starter:
    """Starts workflows, fairly by endpoint, and waits while Temporal is unavailable.

    If a start is lost, because the process died or too many wait, the reconciler makes it once the delivery is due:
    `dispatched_at` is set only after a confirmed start.
    """

    def __init__(
        self,
        client: TemporalClient,
        database: Database,
        recorder: Recorder,
        states: EndpointStates,
        limits: StarterLimits = StarterLimits(),
    ) -> None:
        self._client = client
        self._database = database
        self._recorder = recorder
        self._states = states
        self._pool: FairPool[_Start] = FairPool(
            self._run,
            at_most=limits.concurrency,
            per_key=max(1, limits.concurrency // ENDPOINT_SHARE),
            waiting=limits.waiting,
            waiting_per_key=limits.waiting_per_endpoint,
        )
        self._away_until = 0.0
        self._closing = asyncio.Event()
        self._confirmations = Confirmations(database, mark_dispatched, interval_s=MARK_INTERVAL_S)

    @property
    def is_idle(self) -> bool:
        return self._pool.is_idle

    def start_soon(self, delivery: DeliveryInput, *, replayed: bool = False) -> None:
        """Start a workflow when it is the endpoint's turn. If there is no room to wait, the reconciler starts it.
        `replayed`: it is part of a replay, and has a lower priority."""
        self._pool.offer(delivery.endpoint_gid, _Start(delivery, replayed))

    async def close(self) -> None:
        """Finish the starts in flight, leave the others to the reconciler, and record those that were confirmed."""
        self._closing.set()
        self._pool.withdraw()
        await self._pool.drain()
        await self._confirmations.close()

    async def _run(self, start: _Start) -> None:
        delivery = start.input
        while not self._closing.is_set():
            await self._while_away()
            try:
                if await self._parked(delivery):
                    return
                delivery = await self._with_current_limit(delivery)
                await start_delivery(self._client, delivery, first=True, eager=True, replayed=start.replayed)
            except Exception as error:
                if not await self._may_try_again(delivery, error):
                    return
            else:
                self._confirmations.add((delivery.delivery_gid, delivery.round))
                return

    async def _while_away(self) -> None:
        while (wait := self._away_until - time.monotonic()) > 0 and not self._closing.is_set():
            # Random, so that waiting starts do not all begin at once (thundering herd).
            await sleep_unless(self._closing, min(wait * (1 + random.random()), AWAY_PAUSE_S))  # noqa: S311

    async def _may_try_again(self, delivery: DeliveryInput, error: Exception) -> bool:
        """Whether to try again. Temporal or the database may be unavailable for all starts, or refuse this one."""
        if is_away(error) or is_overloaded(error) or is_unavailable(error):
            if time.monotonic() >= self._away_until:
                log.warning("temporal is unavailable or overloaded; starts wait", error=str(error))
            self._away_until = time.monotonic() + AWAY_PAUSE_S
            return True
        log.error("a delivery's workflow cannot be started", delivery_gid=delivery.delivery_gid, error=str(error))
        return False

    async def _parked(self, delivery: DeliveryInput) -> bool:
        """Park a delivery without a workflow if its endpoint cannot receive now: the circuit may have opened since it
        was accepted. One to a deleted endpoint is dead-lettered by its workflow: no release would find it later."""
        if delivery.previous is not None or delivery.mode is DeliveryMode.INBOX or delivery.round > 1:
            return False  # the workflow of an earlier round may run: it parks the delivery itself
        state = await self._states.get(delivery.endpoint_gid)
        if state is None or state.sends or state.may_probe(now()) or state.is_deleted:
            return False
        await self._recorder.parked(delivery.delivery_gid, now() + delivery.policy.max_window, has_workflow=False)
        # The circuit may have closed, or the endpoint been deleted, and the parked deliveries may have been released,
        # while this one was being parked: check again.
        state = await self._states.get(delivery.endpoint_gid, fresh=True)
        if state is not None and not state.sends and not state.is_deleted:
            return True
        return not await self._accept_again(delivery)

    async def _with_current_limit(self, delivery: DeliveryInput) -> DeliveryInput:
        """The input with the endpoint's current rate limit, which decides the queue of the first attempt. After an
        attempt, its outcome has the current limit."""
        state = await self._states.get(delivery.endpoint_gid) if delivery.previous is None else None
        return delivery if state is None else replace(delivery, rate_limit=state.queue_limit)

    async def _accept_again(self, delivery: DeliveryInput) -> bool:
        """Whether a parked delivery could be changed back to accepted, by compare-and-set. If not, its release has
        started it."""
        async with self._database.write_connection() as connection:
            return bool(await accept_again(connection, [delivery.delivery_gid], now(), delivery.policy.timeout))
