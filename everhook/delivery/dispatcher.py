"""From a committed delivery to its first attempt, its workflow, or both.

A workflow starts when there is something to guard. The process that commits a message makes the first attempt itself,
in the express lane, if the endpoint is healthy and the lane has room, and starts the workflow with the outcome. Else
the workflow starts at once and makes the attempt on the fair queue.
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
from everhook.contracts import PreviousAttempt
from everhook.delivery.fair_pool import FairPool
from everhook.delivery.fitness import UNFIT_FAILURES, EndpointFitness
from everhook.delivery.history import History
from everhook.delivery.inputs import NewDelivery
from everhook.delivery.sender import Sender
from everhook.delivery.snapshot_store import DeliverySnapshot
from everhook.delivery.starter import Starter
from everhook.storage.engine import is_unavailable
from everhook.storage.keyring import DecryptionError
from everhook.storage.tables import now

SWEEP_S = 0.5
DRAIN_S = 5.0
"""How long a process that ends goes on with what waits in its lane; the rest is left to the reconciler."""

log = structlog.get_logger()


@dataclass(frozen=True)
class LaneLimits:
    """Of the express lane: attempts in flight for each endpoint and in all, deliveries that wait, for how long, and the
    bytes of their payloads."""

    in_flight: int = 32
    in_flight_in_all: int = 256
    waiting: int = 20_000
    waiting_per_endpoint: int = 5_000
    wait_s: float = 10.0
    memory_bytes: int = 64 * 1024 * 1024


class Dispatcher:
    """Sends committed deliveries on their way, in the background of the process that committed them.

    Nothing is kept only in memory: a delivery whose process dies has `dispatched_at` null and a `due_at` that passes,
    and the reconciler starts its workflow.
    """

    def __init__(
        self,
        sender: Sender,
        starter: Starter,
        states: EndpointStates,
        fitness: EndpointFitness,
        lane: LaneLimits | None,
    ) -> None:
        """`lane` is None where this process sends nothing."""
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
        self._sweeper: asyncio.Task[None] | None = None
        self._history: History | None = None

    @property
    def is_idle(self) -> bool:
        return self._lane.is_idle and self._starter.is_idle

    def keep_history(self, history: History) -> None:
        """Have deliveries that this process delivered shown in Temporal by settled workflows."""
        self._history = history

    def dispatch(self, deliveries: Iterable[NewDelivery]) -> None:
        """Send deliveries on their way. Returns at once."""
        for new in deliveries:
            if not self._enter_lane(new):
                self._starter.start_soon(new.input)

    async def close(self) -> None:
        """Finish the attempts under way. What still waits after a few seconds is left to the reconciler."""
        try:
            await asyncio.wait_for(self._lane.drain(), DRAIN_S)
        except TimeoutError:
            for new in self._lane.withdraw():
                self._bytes -= new.size
            await self._lane.drain()
        if self._sweeper is not None:
            self._sweeper.cancel()
        await self._starter.close()

    def _enter_lane(self, new: NewDelivery) -> bool:
        """False where the endpoint is not fit for the lane, or would wait in it for too long."""
        gid = new.input.endpoint_gid
        fit = self._has_lane and new.input.rate_limit is None and _is_healthy(new) and self._fitness.is_fit(gid)
        if not fit or self._bytes + new.size > self._limits.memory_bytes or self._wait_s(gid) > self._limits.wait_s:
            return False
        if not self._lane.offer(gid, new):
            return False
        self._bytes += new.size
        if self._lane.waiting and self._sweeper is None:
            self._sweeper = asyncio.create_task(self._sweep())
        return True

    def _wait_s(self, endpoint_gid: str) -> float:
        """How long a delivery that came now would wait, by the rate at which this endpoint's attempts finish."""
        return self._lane.waiting_of(endpoint_gid) * self._fitness.turn_s(endpoint_gid) / self._limits.in_flight

    async def _sweep(self) -> None:
        """Hand over to workflows what has waited for too long: the endpoint no longer responds as it did."""
        while self._lane.waiting:
            await asyncio.sleep(SWEEP_S)
            for new in self._lane.withdraw(self._limits.wait_s):
                self._bytes -= new.size
                self._starter.start_soon(new.input)
        self._sweeper = None

    async def _run(self, new: NewDelivery) -> None:
        began = time.monotonic()
        try:
            made = await self._first_attempt(new)
        except Exception as error:
            if not is_unavailable(error) and not isinstance(error, DecryptionError):  # both are logged where they occur
                log.error(
                    "a first attempt failed before the request", delivery_gid=new.input.delivery_gid, exc_info=error
                )
            made = None
        finally:
            self._bytes -= new.size
        self._fitness.note_turn(new.input.endpoint_gid, time.monotonic() - began)
        input = replace(new.input, previous=made)
        if made is None or made.outcome.unrecorded is not None or not input.is_delivered:
            self._starter.start_soon(input)
        elif self._history is not None:
            self._history.add(input)

    async def _first_attempt(self, new: NewDelivery) -> PreviousAttempt | None:
        """None where nothing was sent, and the workflow is to make the attempt, or to park."""
        snapshot = await self._current_snapshot(new)
        if snapshot is None:
            return None
        input = new.input
        plan = input.policy.plan(input.attempt, timedelta(), random.random())  # noqa: S311 - jitter
        return await self._sender.first_attempt(input.attempt_input(input.attempt, plan), snapshot)

    async def _current_snapshot(self, new: NewDelivery) -> DeliverySnapshot | None:
        """What the attempt starts from; None where it is not to be made here. What has waited is checked again."""
        input, snapshot = new.input, new.snapshot
        if not self._fitness.is_fit(input.endpoint_gid):
            return None
        if snapshot is None:
            snapshot = await self._sender.load_snapshot(input.delivery_gid)
            return snapshot if snapshot is not None and _can_be_sent(snapshot, input.attempt) else None
        if (now() - snapshot.accepted_at).total_seconds() < FRESH_S:
            return snapshot
        state = await self._states.get(input.endpoint_gid)
        if state is None or not state.sends:
            return None
        return replace(snapshot, endpoint_version=state.version, failures=state.failures)


def _is_healthy(new: NewDelivery) -> bool:
    """By what was read when the delivery was accepted. One that is read later is checked then."""
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
