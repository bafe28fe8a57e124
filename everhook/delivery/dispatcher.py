"""Dispatching committed deliveries: to a first attempt in the express lane, to a workflow, or to both.

If the endpoint is healthy and the lane has room, the process that commits a message makes the first attempt itself. A
workflow is started with the outcome, unless the attempt delivered. Otherwise the workflow is started at once and makes
the attempt on the fair queue.
"""

import asyncio
import random
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import timedelta

import structlog

from everhook.circuit.machine import CircuitState
from everhook.circuit.states_store import FRESH_S, EndpointStates
from everhook.contracts import DeliveryInput, DeliveryMode, PreviousAttempt
from everhook.delivery.fair_pool import FairPool
from everhook.delivery.fitness import UNFIT_FAILURES, EndpointFitness
from everhook.delivery.history import History
from everhook.delivery.inputs import NewDelivery
from everhook.delivery.sender import Caller, Sender
from everhook.delivery.snapshot_store import DeliverySnapshot
from everhook.delivery.starter import Starter
from everhook.delivery.traffic import Traffic
from everhook.event_loop import end_task
from everhook.storage.engine import is_unavailable
from everhook.storage.keyring import DecryptionError
from everhook.storage.tables import now

SWEEP_S = 0.5
DRAIN_S = 5.0
"""How many seconds a process that shuts down keeps working on its lane. The rest is left to the reconciler."""

log = structlog.get_logger()


@dataclass(frozen=True)
class LaneLimits:
    """Limits of the express lane: attempts in flight for each endpoint and in all, waiting deliveries, how long they
    wait, and the bytes of their payloads."""

    in_flight: int = 32
    in_flight_in_all: int = 256
    waiting: int = 20_000
    waiting_per_endpoint: int = 5_000
    wait_s: float = 10.0
    memory_bytes: int = 64 * 1024 * 1024


class Dispatcher:
    """Dispatches committed deliveries, in the background of the process that committed them.

    No delivery exists in memory only: if the process dies, its `dispatched_at` is null and its `due_at` passes, and the
    reconciler starts its workflow.
    """

    def __init__(
        self,
        sender: Sender,
        starter: Starter,
        states: EndpointStates,
        fitness: EndpointFitness,
        lane: LaneLimits | None,
    ) -> None:
        """`lane` is None if this process sends nothing."""
        self._sender = sender
        self._starter = starter
        self._states = states
        self._fitness = fitness
        self._limits = lane or LaneLimits()
        self._has_lane = lane is not None
        self._lane: FairPool[NewDelivery] = FairPool(
            self._run,
            at_most=self._limits.in_flight_in_all,
            per_key=self._limits.in_flight,
            waiting=self._limits.waiting,
            waiting_per_key=self._limits.waiting_per_endpoint,
        )
        self._bytes = 0
        self.traffic = Traffic(is_starting=lambda: not starter.is_idle)
        self._sweeper: asyncio.Task[None] | None = None
        self._history: History | None = None

    @property
    def is_idle(self) -> bool:
        return self._lane.is_idle and self._starter.is_idle

    def keep_history(self, history: History) -> None:
        """Start a workflow for each delivery that this process delivered, so that Temporal shows it."""
        self._history = history

    def dispatch(self, deliveries: Iterable[NewDelivery]) -> None:
        """Dispatch deliveries. Returns at once."""
        for new in deliveries:
            if not self._enter_lane(new):
                self._starter.start_soon(new.input)

    def attempt_replayed(self, new: NewDelivery) -> bool:
        """Have this process make the first attempt of a delivery that a replay created. False if a workflow has to make
        it, for instance because the delivery is older."""
        return new.snapshot is not None and self._enter_lane(replace(new, is_replayed=True))

    def start(self, deliveries: Iterable[DeliveryInput]) -> None:
        """Start workflows alone, so that no first attempt waits for these deliveries. Returns at once."""
        for delivery in deliveries:
            self._starter.start_soon(delivery)

    async def close(self) -> None:
        """Finish the attempts in flight. What still waits after a few seconds is left to the reconciler."""
        try:
            async with asyncio.timeout(DRAIN_S):
                await self._lane.drain()
        except TimeoutError:
            for new in self._lane.withdraw():
                self._leave_lane(new)
            await self._lane.drain()
        if self._sweeper is not None:
            await end_task(self._sweeper)
        await self._starter.close()

    def _enter_lane(self, new: NewDelivery) -> bool:
        """Add a delivery to the lane. False if it is no webhook, if the endpoint is not fit for it, or if it would wait
        too long."""
        gid = new.input.endpoint_gid
        takes = self._has_lane and new.input.mode is DeliveryMode.HTTP and new.input.rate_limit is None
        fit = takes and _is_healthy(new) and self._fitness.is_fit(gid)
        if not fit or self._bytes + new.size > self._limits.memory_bytes or self._wait_s(gid) > self._limits.wait_s:
            return False
        if not self._lane.offer(gid, new):
            return False
        self._bytes += new.size
        if not new.is_replayed:
            self.traffic.began()
        if self._lane.waiting and self._sweeper is None:
            self._sweeper = asyncio.create_task(self._sweep())
        return True

    def _leave_lane(self, new: NewDelivery) -> None:
        self._bytes -= new.size
        if not new.is_replayed:
            self.traffic.ended()

    def _wait_s(self, endpoint_gid: str) -> float:
        """How many seconds a new delivery would wait, given the rate at which attempts of this endpoint finish."""
        return self._lane.waiting_of(endpoint_gid) * self._fitness.turn_s(endpoint_gid) / self._limits.in_flight

    async def _sweep(self) -> None:
        """Start workflows for deliveries that have waited too long: the endpoint has become slower."""
        while self._lane.waiting:
            await asyncio.sleep(SWEEP_S)
            for new in self._lane.withdraw(self._limits.wait_s):
                self._leave_lane(new)
                self._starter.start_soon(new.input, replayed=new.is_replayed)
        self._sweeper = None

    async def _run(self, new: NewDelivery) -> None:
        started = time.monotonic()
        try:
            attempted = await self._first_attempt(new)
        except Exception as error:
            if not is_unavailable(error) and not isinstance(error, DecryptionError):  # those are logged already
                log.error(
                    "a first attempt failed before the request", delivery_gid=new.input.delivery_gid, exc_info=error
                )
            attempted = None
        finally:
            self._leave_lane(new)
        self._fitness.note_turn(new.input.endpoint_gid, time.monotonic() - started)
        delivery = replace(new.input, previous=attempted)
        if attempted is None or attempted.outcome.unrecorded is not None or not delivery.is_delivered:
            self._starter.start_soon(delivery, replayed=new.is_replayed)
        elif self._history is not None:
            self._history.add(delivery, replayed=new.is_replayed)

    async def _first_attempt(self, new: NewDelivery) -> PreviousAttempt | None:
        """Make the first attempt. None if nothing was sent, and the workflow has to make the attempt or to park the
        delivery."""
        snapshot = await self._current_snapshot(new)
        if snapshot is None:
            return None
        delivery = new.input
        plan = delivery.policy.plan(delivery.attempt, timedelta(), random.random())  # noqa: S311 - jitter
        caller = Caller.REPLAY if new.is_replayed else Caller.LANE
        return await self._sender.first_attempt(delivery.attempt_input(delivery.attempt, plan), snapshot, caller)

    async def _current_snapshot(self, new: NewDelivery) -> DeliverySnapshot | None:
        """The snapshot to send from; None if the attempt cannot be made here. After waiting, the endpoint is checked
        again."""
        delivery, snapshot = new.input, new.snapshot
        if not self._fitness.is_fit(delivery.endpoint_gid):
            return None
        if snapshot is None:
            snapshot = await self._sender.load_snapshot(delivery.delivery_gid)
            return snapshot if snapshot is not None and _can_be_sent(snapshot, delivery.attempt) else None
        if (now() - snapshot.accepted_at).total_seconds() < FRESH_S:
            return snapshot
        state = await self._states.get(delivery.endpoint_gid)
        if state is None or not state.sends:
            return None
        return replace(snapshot, endpoint_version=state.version, failures=state.failures)


def _is_healthy(new: NewDelivery) -> bool:
    """Whether the endpoint was healthy when the delivery was accepted. Without a snapshot this is checked later."""
    snapshot = new.snapshot
    return snapshot is None or (snapshot.state is CircuitState.CLOSED and snapshot.failures < UNFIT_FAILURES)


def _can_be_sent(snapshot: DeliverySnapshot, number: int) -> bool:
    return (
        not snapshot.is_terminal
        and not snapshot.endpoint_deleted
        and snapshot.payload is not None
        and snapshot.attempts == number - 1
        and snapshot.state is CircuitState.CLOSED
        and snapshot.hold is None
    )
