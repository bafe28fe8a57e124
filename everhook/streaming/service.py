"""Streams: deliveries are handed out to a consumer as long as it has credit.

A stream has at most `prefetch` open leases. The next batch is claimed when the last one was written, so that no lease
ages in a buffer of this process. Acknowledgements may arrive at another process, so the database says how many leases
are open. While its queue is empty, a stream offers to take what this process accepts next: see
`everhook/pulling/direct.py`.
"""

import random
import re
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, aclosing, nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum

import structlog

from everhook.errors import TooManyStreams
from everhook.ids import Kind, is_gid, new_gid
from everhook.observability.metrics import STREAMS
from everhook.pulling.direct import DirectHandOut, Offer
from everhook.pulling.leases import Item, PulledEndpoint, Request, stream_consumer
from everhook.pulling.service import Claim, PullQueue
from everhook.pulling.wake_ups import Waiter, WakeUps
from everhook.storage.engine import is_unavailable

MAX_BATCH = 100
WRITTEN_AT_ONCE = 64 * 1024
"""Bytes of items in one write."""

HELD_CHECK_S = 2.0
TAKING_CHECK_S = 60.0
OUTAGE_PAUSE_S = 1.0

_EVENT_ID = re.compile(r"([a-z]+_[0-9a-z]{26})\.([0-9]{1,15})")

log = structlog.get_logger()


@dataclass(frozen=True)
class StreamLimits:
    """Times in seconds. The lifetime of a stream, and the time after which a client should reconnect, are random
    between two values, so that clients do not reconnect all at once."""

    per_endpoint: int = 100
    in_all: int = 2_000
    keep_alive: float = 15.0
    check: float = 15.0
    lifetime: tuple[float, float] = (240.0, 360.0)
    reconnect: tuple[float, float] = (1.0, 5.0)


@dataclass(frozen=True)
class StreamRequest:
    """What a consumer asks for. `last_event_id`: of the last event that it received on an earlier stream.

    Streams with the same `holder`, the gid of a consumer, share their leases; without it a stream has its own.
    Positions begin after `after`. `lifetime` is in seconds; None: that of all streams."""

    name: str
    prefetch: int = 16
    lease: timedelta | None = None
    address: str | None = None
    last_event_id: str | None = None
    holder: str | None = None
    after: int = 0
    lifetime: float | None = None


class ByeReason(StrEnum):
    """Why a stream ends. `CLOSED`: the key is no longer valid, or the endpoint no longer exists."""

    ROTATE = "rotate"
    SHUTDOWN = "shutdown"
    CLOSED = "closed"


@dataclass(frozen=True)
class Hello:
    """The first event. `released`: leases that an earlier stream had written and the client never received."""

    consumer: str
    prefetch: int
    lease: timedelta
    released: int
    retry: timedelta


@dataclass(frozen=True)
class Messages:
    """Items; `position` is that of the first one in the stream."""

    consumer: str
    position: int
    items: Sequence[Item]


@dataclass(frozen=True)
class KeepAlive:
    """Nothing was written for a while."""


@dataclass(frozen=True)
class Bye:
    """The last event."""

    reason: ByeReason


StreamEvent = Hello | Messages | KeepAlive | Bye


class PullStreams:
    """The streams of a process."""

    def __init__(
        self, pulls: PullQueue, wake_ups: WakeUps, direct: DirectHandOut, limits: StreamLimits | None = None
    ) -> None:
        self.limits = limits or StreamLimits()
        self._pulls = pulls
        self._wake_ups = wake_ups
        self._direct = direct
        self._open: dict[str, PullStream] = {}
        self._per_endpoint: Counter[str] = Counter()
        self.is_ending = False

    def open(
        self, endpoint: PulledEndpoint, request: StreamRequest, may_continue: Callable[[], Awaitable[bool]]
    ) -> "PullStream":
        """Open a stream; it counts until its `leave`. `may_continue`: whether the caller may still have it. Raises
        TooManyStreams."""
        limits = self.limits
        if len(self._open) >= limits.in_all:
            raise _too_many(f"This process has {limits.in_all} streams already.")
        if self._per_endpoint[endpoint.gid] >= limits.per_endpoint:
            raise _too_many(f"{endpoint.gid} has {limits.per_endpoint} streams already.")
        stream = PullStream(self, self._pulls, self._wake_ups, self._direct, endpoint, request, may_continue)
        self._open[stream.gid] = stream
        self._per_endpoint[endpoint.gid] += 1
        STREAMS.inc()
        return stream

    def leave(self, gid: str) -> None:
        """The client of a stream has left, or reconnected."""
        if gid in self._open:
            self._open[gid].leave()

    def forget(self, stream: "PullStream") -> None:
        if self._open.pop(stream.gid, None) is not None:
            self._per_endpoint[stream.endpoint.gid] -= 1
            if not self._per_endpoint[stream.endpoint.gid]:
                del self._per_endpoint[stream.endpoint.gid]
            STREAMS.dec()

    def end(self) -> None:
        """End all streams, and polls that wait: the server waits for their responses."""
        self.is_ending = True
        self._pulls.end()


class PullStream:
    """One stream. `gid` is that of its consumer."""

    def __init__(
        self,
        streams: PullStreams,
        pulls: PullQueue,
        wake_ups: WakeUps,
        direct: DirectHandOut,
        endpoint: PulledEndpoint,
        request: StreamRequest,
        may_continue: Callable[[], Awaitable[bool]],
    ) -> None:
        self.gid = new_gid(Kind.CONSUMER)
        self.endpoint = endpoint
        self._streams = streams
        self._pulls = pulls
        self._wake_ups = wake_ups
        self._direct = direct
        self._request = request
        self._may_continue = may_continue
        self._holder = request.holder or self.gid
        self._consumer = stream_consumer(self._holder, request.name)
        self._waiter = Waiter()
        self._has_left = False
        self._handed_out = self._written = request.after
        self._in_flight: set[str] = set()
        self._is_unsure = False
        self._offer = Offer(
            endpoint,
            Request(self._consumer),
            may_hand_out=lambda state: pulls.may_hand_out(endpoint, state),
            begin=self._begin,
            settle=self._settle,
        )
        self._is_taking = False
        self._taken: Sequence[Item] = ()
        self._claim_at = 0.0
        """When to claim if no hint comes before; 0: at once. Until then the queue is empty, as far as is known."""

    @property
    def _credit(self) -> int:
        return self._request.prefetch - len(self._in_flight)

    @property
    def _at_once(self) -> int:
        """How many deliveries a transaction may lease; `_release_unwritten` releases as many."""
        return min(self._credit, MAX_BATCH)

    def leave(self) -> None:
        """The client has left: `events` ends soon."""
        self._has_left = True
        self._streams.forget(self)
        self._waiter.wake()

    async def events(self) -> AsyncGenerator[StreamEvent]:
        """The events. When the generator continues, the last one was written. At the end, leases that were not written
        are released."""
        limits = self._streams.limits
        try:
            yield Hello(
                consumer=self.gid,
                prefetch=self._request.prefetch,
                lease=self._request.lease or self.endpoint.lease,
                released=await self._release_undelivered(),
                retry=timedelta(seconds=_between(limits.reconnect)),
            )
            with self._wake_ups.waiting(self.endpoint.gid, self._waiter, consumer=self._consumer, on_freed=self._freed):
                async with aclosing(self._deliver(limits)) as delivered:
                    async for event in delivered:
                        yield event
        finally:
            self.leave()
            while self._is_taking:
                await self._waiter.wait(TAKING_CHECK_S)
            await self._release_unwritten()

    async def _deliver(self, limits: StreamLimits) -> AsyncGenerator[StreamEvent]:
        clock = time.monotonic
        silent_since = clock()
        lifetime = self._request.lifetime if self._request.lifetime is not None else _between(limits.lifetime)
        ends_at, check_at = silent_since + lifetime, silent_since + limits.check
        while not self._has_left:
            if self._streams.is_ending:
                yield Bye(ByeReason.SHUTDOWN)
                return
            if clock() >= ends_at:
                yield Bye(ByeReason.ROTATE)
                return
            if clock() >= check_at:
                if not await self._is_still_allowed():
                    yield Bye(ByeReason.CLOSED)
                    return
                check_at = clock() + limits.check
            items, pause = await self._next()
            for messages in self._chunks(items):
                if self._has_left or self._streams.is_ending:
                    break
                yield messages
                self._written += len(messages.items)
                silent_since = clock()
            if items:
                continue
            if clock() - silent_since >= limits.keep_alive:
                yield KeepAlive()
                silent_since = clock()
            soonest = min(ends_at, check_at, silent_since + limits.keep_alive) - clock()
            with self._offered():
                await self._waiter.wait(max(0.0, min(soonest, pause)))

    def _offered(self) -> AbstractContextManager[None]:
        """Offer to take what is accepted next, if the queue is empty and there is credit."""
        is_ready = self._pulls.may_offer(self.endpoint) and self._credit > 0
        if self._waiter.is_hinted or self._claim_at <= time.monotonic() or not is_ready:
            return nullcontext()
        request = self._request
        self._offer.request = Request(
            self._consumer, self._at_once, request.lease, request.address, position=self._written + 1
        )
        return self._direct.offered(self._offer)

    def _begin(self) -> None:
        """A transaction has taken the offer."""
        self._is_taking = True

    def _settle(self, items: Sequence[Item] | None) -> None:
        """The transaction has ended."""
        self._is_taking = False
        if items is None:
            self._is_unsure, self._claim_at = True, 0.0
        else:
            self._taken = items
            self._handed_out += len(items)
            self._in_flight |= {item.lease.delivery_gid for item in items}
        self._waiter.nudge()

    def _freed(self, delivery_gids: Collection[str]) -> None:
        """Leases of this stream ended."""
        had_credit = self._credit > 0
        self._in_flight.difference_update(delivery_gids)
        if not had_credit:
            self._waiter.wake()
        elif not self._is_taking:
            self._offer.request = replace(self._offer.request, limit=self._at_once)

    async def _next(self) -> tuple[Sequence[Item], float]:
        """The items to write next, and how long to wait at most if there are none; infinite if a wake-up will come."""
        while self._is_taking:
            await self._waiter.wait(TAKING_CHECK_S)
        if self._taken:
            items, self._taken = self._taken, ()
            return items, 0.0
        left = self._claim_at - time.monotonic()
        if not self._waiter.is_hinted and self._credit > 0 and left > 0:
            return (), left
        self._waiter.is_hinted = False
        claim, pause, is_empty = await self._claim()
        self._claim_at = time.monotonic() + pause if is_empty else 0.0
        return claim.items, pause

    async def _claim(self) -> tuple[Claim, float, bool]:
        """Claim as much as there is credit for. Also how long to wait if nothing was handed out, at most, and whether
        that is because the queue is empty."""
        request = self._request
        try:
            if self._is_unsure:
                await self._release_unwritten()
            if self._in_flight:
                self._in_flight = await self._pulls.in_flight(self.endpoint, self._consumer)
            if self._credit <= 0:
                return Claim(), float("inf"), False
            self._is_unsure = True
            claim = await self._pulls.claim(
                self.endpoint,
                Request(
                    consumer=self._consumer,
                    limit=self._at_once,
                    lease=request.lease,
                    address=request.address,
                    position=self._written + 1,
                ),
            )
        except Exception as error:
            if not is_unavailable(error):
                log.exception("a stream could not claim deliveries", endpoint_gid=self.endpoint.gid)
            return Claim(), OUTAGE_PAUSE_S, False
        self._is_unsure = False
        self._in_flight |= {item.lease.delivery_gid for item in claim.items}
        self._handed_out = self._written + len(claim.items)
        if claim.held is not None:
            return claim, HELD_CHECK_S, False
        pause = claim.next_in if claim.next_in is not None else float("inf")
        return claim, pause, not claim.items

    def _chunks(self, items: Sequence[Item]) -> Iterator[Messages]:
        chunk: list[Item] = []
        size = 0
        for item in items:
            if chunk and size + len(item.body) > WRITTEN_AT_ONCE:
                yield Messages(self.gid, self._written + 1, chunk)
                chunk, size = [], 0
            chunk.append(item)
            size += len(item.body)
        if chunk:
            yield Messages(self.gid, self._written + 1, chunk)

    async def _is_still_allowed(self) -> bool:
        try:
            return await self._may_continue()
        except Exception as error:
            if not is_unavailable(error):
                raise
            return True

    async def _release_undelivered(self) -> int:
        """Release what an earlier stream had written and the client never received. While the database is unavailable
        the stream waits: if it began without the release, messages would wait for the ends of their leases."""
        found = _EVENT_ID.fullmatch(self._request.last_event_id or "")
        if found is None or not is_gid(found[1], Kind.CONSUMER):
            return 0
        self._streams.leave(found[1])
        while not (self._has_left or self._streams.is_ending):
            try:
                return await self._pulls.release(self.endpoint, found[1], int(found[2]))
            except Exception as error:
                if not is_unavailable(error):
                    raise
            await self._waiter.wait(OUTAGE_PAUSE_S)
        return 0

    async def _release_unwritten(self) -> None:
        if self._handed_out <= self._written and not self._is_unsure:
            return
        try:
            await self._pulls.release(
                self.endpoint, self._holder, self._written, self._written + self._request.prefetch
            )
        except Exception as error:  # then the leases expire
            if not is_unavailable(error):
                log.exception("a stream could not release leases", endpoint_gid=self.endpoint.gid)
        else:
            self._handed_out, self._is_unsure = self._written, False


def _between(bounds: tuple[float, float]) -> float:
    return random.uniform(*bounds)  # noqa: S311 - spreads load


def _too_many(detail: str) -> TooManyStreams:
    return TooManyStreams(detail, timedelta(seconds=random.uniform(1, 10)))  # noqa: S311 - spreads load
