"""Starting the workflows of deliveries that need one, in the background of the process that accepted them."""

import asyncio
import random
import time
from dataclasses import dataclass, replace

import structlog
from temporalio.client import Client

from everhook.circuit.states_store import EndpointStates
from everhook.contracts import DeliveryInput
from everhook.delivery.confirmations import Confirmations
from everhook.delivery.fair_pool import FairPool
from everhook.delivery.parked_store import accept_again
from everhook.delivery.recorder_store import Recorder
from everhook.delivery.starts import is_away, is_overloaded, start_delivery
from everhook.delivery.store import mark_dispatched
from everhook.storage.engine import Database, is_unavailable
from everhook.storage.tables import now

ENDPOINT_SHARE = 16
"""One endpoint gets this part of the starts in flight: five hundred messages to it must not stand before the one to
another (its wait was 4 s, and is now that of a few starts)."""

AWAY_PAUSE_S = 1.0
"""After a failed start the others wait for this long: Temporal is away, and each try costs seconds."""

MARK_INTERVAL_S = 1.0
"""Confirmed starts are marked this late: by then most of their deliveries are delivered, which marks them as well."""

log = structlog.get_logger()


@dataclass(frozen=True)
class StarterLimits:
    """`concurrency`: starts in flight. `waiting`, `waiting_per_endpoint`: orders that wait in memory."""

    concurrency: int = 64
    waiting: int = 10_000
    waiting_per_endpoint: int = 2_000


class Starter:
    """Starts workflows, fairly by endpoint, and waits while Temporal is away.

    Nothing depends on it: what it does not start, because the process died or too much waits, the reconciler does once
    the delivery is due, for `dispatched_at` is set only after a confirmed start.
    """

    def __init__(
        self,
        client: Client,
        database: Database,
        recorder: Recorder,
        states: EndpointStates,
        limits: StarterLimits = StarterLimits(),
    ) -> None:
        self._client = client
        self._database = database
        self._recorder = recorder
        self._states = states
        self._pool: FairPool[DeliveryInput] = FairPool(
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

    def start_soon(self, input: DeliveryInput) -> None:
        """Start a workflow once it is this endpoint's turn. What finds no room is left to the reconciler."""
        self._pool.offer(input.endpoint_gid, input)

    async def close(self) -> None:
        """Finish the starts under way, leave the others to the reconciler, and mark what was confirmed."""
        self._closing.set()
        self._pool.withdraw()
        await self._pool.drain()
        await self._confirmations.close()

    async def _run(self, input: DeliveryInput) -> None:
        while not self._closing.is_set():
            await self._while_away()
            try:
                if await self._parked(input):
                    return
                input = await self._with_current_limit(input)
                await start_delivery(self._client, input, first=True, eager=True)
            except Exception as error:
                if not await self._may_try_again(input, error):
                    return
            else:
                self._confirmations.add(input.delivery_gid)
                return

    async def _while_away(self) -> None:
        while (wait := self._away_until - time.monotonic()) > 0 and not self._closing.is_set():  # noqa: ASYNC110 - it moves on
            # At random, so that what waits does not start all at once.
            await asyncio.sleep(min(wait * (1 + random.random()), AWAY_PAUSE_S))  # noqa: S311

    async def _may_try_again(self, input: DeliveryInput, error: Exception) -> bool:
        """The status decides: Temporal or the database may be away for all starts, or refuse this one."""
        if is_away(error) or is_overloaded(error) or is_unavailable(error):
            if time.monotonic() >= self._away_until:
                log.warning("temporal is away or overloaded, starts wait", error=str(error))
            self._away_until = time.monotonic() + AWAY_PAUSE_S
            return True
        log.error("a delivery's workflow cannot be started", delivery_gid=input.delivery_gid, error=str(error))
        return False

    async def _parked(self, input: DeliveryInput) -> bool:
        """Park a delivery without a workflow where its endpoint cannot receive now: it may have waited its turn, or
        the circuit has opened since it was accepted."""
        if input.previous is not None:
            return False
        state = await self._states.get(input.endpoint_gid)
        if state is None or state.sends or state.may_probe(now()):
            return False
        await self._recorder.parked(input.delivery_gid, now() + input.policy.max_window, has_workflow=False)
        # The circuit may have closed, and the parked deliveries been released, while we were parking: check again.
        state = await self._states.get(input.endpoint_gid, fresh=True)
        return (state is not None and not state.sends) or not await self._taken_back(input)

    async def _with_current_limit(self, input: DeliveryInput) -> DeliveryInput:
        """The limit decides which queue the first attempt goes to. After an attempt its outcome says what it is now."""
        state = await self._states.get(input.endpoint_gid) if input.previous is None else None
        return input if state is None else replace(input, rate_limit=state.rate_limit)

    async def _taken_back(self, input: DeliveryInput) -> bool:
        """Whether a delivery that was parked is accepted again, by compare-and-set: else its release has started it."""
        async with self._database.write_connection() as connection:
            return bool(await accept_again(connection, [input.delivery_gid], now(), input.policy.timeout))
