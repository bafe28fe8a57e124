"""Use cases of senders: wait until a message is settled, and follow what becomes of it."""

import random
import re
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

import structlog

from everhook.contracts import DeliveryMode, DeliveryStatus
from everhook.delivery.policy import MAX_ATTEMPTS
from everhook.errors import InvalidField, NotFound, TooManyDeliveries, TooManyStreams
from everhook.lifecycle import store
from everhook.lifecycle.events import (
    DISCARDED,
    DeliveryRow,
    GateRow,
    LifecycleEvent,
    LifecycleKind,
    MessageRow,
    Position,
    cancelled,
    gate_ended,
    gated,
    of_delivery,
    of_message,
    settled,
)
from everhook.lifecycle.store import DeliveryResponse, Tally
from everhook.lifecycle.watch import MessageWatch
from everhook.pulling.wake_ups import Waiter
from everhook.storage.engine import Session, is_unavailable
from everhook.storage.paging import Page
from everhook.storage.tenant_scope import TenantScope
from everhook.streaming.service import Bye, ByeReason, KeepAlive

MAX_DELIVERIES = 100
"""Deliveries in one response: a message may go to very many endpoints."""

MAX_FOLLOWED = 1_000
"""A stream of events follows at most this many deliveries of a message; the list has those of any number."""

REPEATED = timedelta(seconds=30)
"""A resumed stream repeats this much: what is recorded at once by several processes is not committed in order."""

LEFT_CHECK_S = 1.0
OUTAGE_PAUSE_S = 1.0
LOADED_AT_ONCE = 100

_KEY = re.compile(r"(dlv_[0-9a-z]{26})\.([0-9]{1,9})\.([0-9]{1,9})")
_OF_ACCEPTANCE, _OF_GATE, _OF_END = "accepted", "gated", "ended"
"""Keys of pages that end with an event of the message."""

log = structlog.get_logger()


@dataclass(frozen=True)
class Viewer:
    """Who looks at a message. `publisher_gid`: a key that sees only what was published with it."""

    publisher_gid: str | None = None

    def may_see(self, row: MessageRow) -> bool:
        return self.publisher_gid is None or row.published_by == self.publisher_gid


class Until(StrEnum):
    """`SETTLED`: all deliveries are settled. `FIRST`: one of them is."""

    SETTLED = "settled"
    FIRST = "first"


class Outcome(StrEnum):
    """What became of a message all of whose deliveries are settled. `DECLINED`: a person refused it. `CANCELLED`: its
    publisher did, before it had deliveries."""

    DELIVERED = "delivered"
    PARTLY = "partly"
    DEAD_LETTERED = "dead_lettered"
    DISCARDED = "discarded"
    DECLINED = "declined"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class MessageResult:
    """The result of a message. `outcome` is None while it is pending, and for a message without deliveries."""

    message_gid: str
    is_settled: bool
    outcome: Outcome | None
    deliveries: Sequence[DeliveryResponse]
    has_more_deliveries: bool


@dataclass(frozen=True)
class LifecycleLimits:
    """Those of a process. Times in seconds; the lifetime of a stream, and the time after which a client should
    reconnect, are random between two values."""

    waits: int = 5_000
    streams: int = 2_000
    keep_alive: float = 15.0
    check: float = 15.0
    lifetime: tuple[float, float] = (240.0, 360.0)
    reconnect: tuple[float, float] = (1.0, 5.0)


@dataclass(frozen=True)
class Following:
    """The first event of a stream."""

    message_gid: str
    retry: timedelta


FollowedEvent = Following | LifecycleEvent | KeepAlive | Bye


class LifecycleService:
    """One for each process."""

    def __init__(self, watch: MessageWatch, limits: LifecycleLimits | None = None) -> None:
        self.limits = limits or LifecycleLimits()
        self.watch = watch
        self.is_ending = False
        self._open: Counter[str] = Counter()

    async def wait(
        self,
        scope: TenantScope,
        viewer: Viewer,
        gid: str,
        *,
        timeout_s: float,
        until: Until,
        has_left: Callable[[], Awaitable[bool]],
    ) -> MessageResult:
        """The result of a message, as soon as it is settled, or after the timeout. Raises NotFound and
        TooManyStreams."""
        async with scope.reading() as session:
            await self._visible(session, viewer, gid)
            tally = await store.tally(session, gid)
        if timeout_s > 0 and not _is_over(tally, until):
            with self.counted("waits", self.limits.waits):
                await self._wait(scope, gid, timeout_s, until, has_left)
        async with scope.reading() as session:
            return await self._result(session, gid)

    async def _wait(
        self,
        scope: TenantScope,
        gid: str,
        timeout_s: float,
        until: Until,
        has_left: Callable[[], Awaitable[bool]],
    ) -> None:
        ends_at = time.monotonic() + timeout_s
        with self.watch.watching(gid) as waiter:
            while not self.is_ending and (left := ends_at - time.monotonic()) > 0:
                if await waiter.wait(min(left, LEFT_CHECK_S)):
                    async with scope.reading() as session:
                        if _is_over(await store.tally(session, gid), until):
                            return
                elif await has_left():
                    return

    async def _result(self, session: Session, gid: str) -> MessageResult:
        rows = await store.delivery_responses(session, gid, MAX_DELIVERIES + 1)
        # Read after the deliveries: those of a settled message are settled, unless a replay started in between.
        tally = await store.tally(session, gid)
        is_settled = tally.is_settled and (len(rows) > MAX_DELIVERIES or _are_settled(rows))
        outcome = outcome_of(tally) if is_settled else None
        return MessageResult(gid, is_settled, outcome, rows[:MAX_DELIVERIES], len(rows) > MAX_DELIVERIES)

    async def page(
        self, session: Session, viewer: Viewer, gid: str, *, after: str | None, limit: int
    ) -> Page[LifecycleEvent]:
        """The events of a message: its acceptance, and its gate if it has one; those of its deliveries, one delivery
        after the other; the end of the gate, and that it is settled. Raises NotFound, and InvalidField for a key of no
        page."""
        row = await self._visible(session, viewer, gid)
        gate = await store.gate(session, gid)
        found = [of_message(row)] if after is None else []
        if gate is not None and after in (None, _OF_ACCEPTANCE):
            found.append(gated(gate))
        if after == _OF_END:
            return Page(await self._end(session, row, None), None)
        if len(found) > limit:
            return Page(found[:limit], _OF_ACCEPTANCE)
        position = _position_of(after) if after not in (None, _OF_ACCEPTANCE, _OF_GATE) else None
        since_gid = position[0] if position is not None else None
        rows = await store.deliveries(session, gid, since_gid=since_gid, limit=limit + 2)
        starts_within = position if position is not None and rows and rows[0].gid == since_gid else None
        histories = await store.histories(session, rows, after=starts_within, limit=limit + MAX_ATTEMPTS + 2)
        for history in histories:
            begins = starts_within is not None and history.delivery.gid == starts_within[0]
            found += of_delivery(history, starts_within[1] if begins and starts_within else None)
            if len(found) > limit:
                return Page(found[:limit], _key_of(found[limit - 1]))
        if len(rows) == limit + 2:
            return Page(found, _key(rows[-1].gid, (rows[-1].round, DISCARDED)))
        found += await self._end(session, row, gate)
        has_more = len(found) > limit
        return Page(found[:limit], _key_of(found[limit - 1]) if has_more else None)

    async def _end(self, session: Session, row: MessageRow, gate: GateRow | None) -> list[LifecycleEvent]:
        """The last events of a message."""
        ended = gate_ended(gate) if gate is not None else None
        found = [ended] if ended is not None else []
        tally = await store.tally(session, row.gid)
        if tally.cancelled_at is not None:
            found.append(cancelled(row.gid, tally.cancelled_at))
        return [*found, _settled(row, tally)] if tally.is_settled else found

    async def follow(
        self,
        scope: TenantScope,
        viewer: Viewer,
        gid: str,
        last_event_id: str | None,
        may_continue: Callable[[], Awaitable[bool]],
    ) -> "MessageStream":
        """Open a stream of the events of a message. `may_continue`: whether the caller may still have it. Raises
        NotFound, TooManyDeliveries and TooManyStreams."""
        async with scope.reading() as session:
            row = await self._visible(session, viewer, gid)
            followed = await store.deliveries(session, gid, limit=MAX_FOLLOWED + 1)
        if len(followed) > MAX_FOLLOWED:
            raise TooManyDeliveries(
                f"{gid} has more than {MAX_FOLLOWED} deliveries. GET /v1/messages/{gid}/events lists their events."
            )
        self.take("streams", self.limits.streams)
        return MessageStream(self, scope, row, last_event_id, may_continue)

    @contextmanager
    def counted(self, what: str, limit: int) -> Iterator[None]:
        self.take(what, limit)
        try:
            yield
        finally:
            self.give_back(what)

    def take(self, what: str, limit: int) -> None:
        """Count one more. Raises TooManyStreams."""
        if self._open[what] >= limit:
            after = timedelta(seconds=random.uniform(1, 10))  # noqa: S311 - spreads load
            raise TooManyStreams(f"This process has {limit} {what} for messages already.", after)
        self._open[what] += 1

    def give_back(self, what: str) -> None:
        self._open[what] -= 1

    def end(self) -> None:
        """End all streams, and respond to those who wait: the server waits for their responses."""
        self.is_ending = True
        self.watch.wake_all()

    async def can_be_seen(self, session: Session, viewer: Viewer, gid: str) -> bool:
        row = await store.message(session, gid)
        return row is not None and viewer.may_see(row)

    async def _visible(self, session: Session, viewer: Viewer, gid: str) -> MessageRow:
        row = await store.message(session, gid)
        if row is None or not viewer.may_see(row):
            raise NotFound("message", gid)
        return row


class MessageStream:
    """One stream of the events of a message."""

    def __init__(
        self,
        service: LifecycleService,
        scope: TenantScope,
        message: MessageRow,
        last_event_id: str | None,
        may_continue: Callable[[], Awaitable[bool]],
    ) -> None:
        self._service = service
        self._scope = scope
        self._message = message
        self._last_event_id = last_event_id
        self._may_continue = may_continue
        self._waiter = Waiter()
        self._has_left = False
        self._is_first = True
        self._last_settled = ""
        self._states: dict[str, tuple[DeliveryStatus, int, int]] = {}
        self._positions: dict[str, Position] = {}
        self._sent: set[str] = set()

    def leave(self) -> None:
        """The client has left: `events` ends soon."""
        if not self._has_left:
            self._has_left = True
            self._service.give_back("streams")
            self._waiter.wake()

    async def events(self) -> AsyncGenerator[FollowedEvent]:
        """The events. When the generator continues, the last one was written."""
        limits = self._service.limits
        clock = time.monotonic
        ends_at, check_at = clock() + _between(limits.lifetime), clock() + limits.check
        try:
            yield Following(self._message.gid, timedelta(seconds=_between(limits.reconnect)))
            silent_since = clock()
            with self._service.watch.watching(self._message.gid, self._waiter):
                while not self._has_left:
                    if self._service.is_ending or clock() >= ends_at:
                        yield Bye(ByeReason.SHUTDOWN if self._service.is_ending else ByeReason.ROTATE)
                        return
                    if clock() >= check_at:
                        if not await self._is_still_allowed():
                            yield Bye(ByeReason.CLOSED)
                            return
                        check_at = clock() + limits.check
                    new, pause = await self._new()
                    for event in new:
                        if self._has_left:
                            return
                        yield event
                        silent_since = clock()
                    if clock() - silent_since >= limits.keep_alive:
                        yield KeepAlive()
                        silent_since = clock()
                    soonest = min(ends_at, check_at, silent_since + limits.keep_alive) - clock()
                    await self._waiter.wait(max(0.0, min(soonest, pause)))
        finally:
            self.leave()

    async def _new(self) -> tuple[Sequence[LifecycleEvent], float]:
        """What happened since the last call, and how long to wait for a wake-up at most. First: all that happened; on a
        resumed stream, since 30 s before the last event that the client received."""
        try:
            events = await self._load()
        except Exception as error:
            if not is_unavailable(error):
                raise
            return (), OUTAGE_PAUSE_S
        if self._is_first:
            self._is_first = False
            last = next((event for event in events if event.id == self._last_event_id), None)
            if last is not None:
                since = last.order[0] - REPEATED
                return [event for event in events if event.order[0] >= since], float("inf")
        return events, float("inf")

    async def _load(self) -> list[LifecycleEvent]:
        """Load the events of the deliveries that changed. Changes this stream's state only when all of it succeeds."""
        async with self._scope.reading() as session:
            # Before the deliveries, so that "settled" never comes before what settled it.
            tally = await store.tally(session, self._message.gid)
            gate = await store.gate(session, self._message.gid)
            rows = await store.deliveries(session, self._message.gid, limit=MAX_FOLLOWED)
            # What happens to a task may not change its delivery.
            changed = [row for row in rows if self._states.get(row.gid) != row.state or row.mode is DeliveryMode.INBOX]
            found: list[LifecycleEvent] = [of_message(self._message)] if self._is_first else []
            for start in range(0, len(changed), LOADED_AT_ONCE):
                for history in await store.histories(session, changed[start : start + LOADED_AT_ONCE]):
                    found += of_delivery(history, self._positions.get(history.delivery.gid))
        found += self._of_gate(gate)
        if tally.cancelled_at is not None and self._last_settled == "":
            found.append(cancelled(self._message.gid, tally.cancelled_at))
        return self._took(changed, found, tally)

    def _of_gate(self, gate: GateRow | None) -> list[LifecycleEvent]:
        """The events of the gate that were not sent before."""
        events = [gated(gate), gate_ended(gate)] if gate is not None else []
        return [event for event in events if event is not None and event.id not in self._sent]

    def _took(self, changed: Sequence[DeliveryRow], found: list[LifecycleEvent], tally: Tally) -> list[LifecycleEvent]:
        self._states |= {row.gid: row.state for row in changed}
        for event in found:
            if event.delivery_gid is None:
                self._sent.add(event.id)
            else:
                self._positions[event.delivery_gid] = event.position
        found.sort(key=lambda event: event.order)
        if tally.is_settled and (event := _settled(self._message, tally)).id != self._last_settled:
            self._last_settled = event.id
            found.append(event)
        return found

    async def _is_still_allowed(self) -> bool:
        try:
            return await self._may_continue()
        except Exception as error:
            if not is_unavailable(error):
                raise
            return True


def outcome_of(tally: Tally) -> Outcome | None:
    """The outcome of a message that is settled. None if it went to no endpoint. It is `DECLINED` if a person declined
    a step of its gate, or if all deliveries were discarded and a person declined one of them."""
    delivered = tally.counts.get(DeliveryStatus.DELIVERED, 0)
    if not tally.counts:
        return Outcome.CANCELLED if tally.cancelled_at is not None else None
    if tally.gate_declined:
        return Outcome.DECLINED
    if delivered:
        return Outcome.DELIVERED if delivered == sum(tally.counts.values()) else Outcome.PARTLY
    if tally.counts.get(DeliveryStatus.DEAD_LETTERED):
        return Outcome.DEAD_LETTERED
    return Outcome.DECLINED if tally.declined else Outcome.DISCARDED


def _is_over(tally: Tally, until: Until) -> bool:
    return tally.is_settled or (until is Until.FIRST and tally.settled > 0)


def _are_settled(rows: Sequence[DeliveryResponse]) -> bool:
    return all(row.is_settled for row in rows)


def _settled(row: MessageRow, tally: Tally) -> LifecycleEvent:
    outcome = outcome_of(tally)
    return settled(row.gid, _latest(row, tally), outcome.value if outcome is not None else None)


def _latest(row: MessageRow, tally: Tally) -> datetime:
    return tally.last_at or tally.cancelled_at or row.accepted_at


def _key_of(event: LifecycleEvent) -> str:
    if event.delivery_gid is not None:
        return _key(event.delivery_gid, event.position)
    if event.kind is LifecycleKind.MESSAGE_GATED:
        return _OF_GATE
    return _OF_ACCEPTANCE if event.kind is LifecycleKind.MESSAGE_ACCEPTED else _OF_END


def _key(delivery_gid: str, position: Position) -> str:
    return f"{delivery_gid}.{position[0]}.{position[1]}"


def _position_of(key: str | None) -> tuple[str, Position]:
    found = _KEY.fullmatch(key or "")
    if found is None:
        raise InvalidField("cursor", "is not a cursor of this list; send `nextCursor` unchanged")
    return found[1], (int(found[2]), int(found[3]))


def _between(bounds: tuple[float, float]) -> float:
    return random.uniform(*bounds)  # noqa: S311 - spreads load
