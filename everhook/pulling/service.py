"""Use cases of the pull queue: hand deliveries out, take acknowledgements, and find out what became of a delivery.

The database is the truth of a pulled delivery. Each lease that ends (ack, nack, expiry) is recorded as an attempt, with
its receipt, in the transaction that ends it.
"""

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import structlog
from cachetools import LRUCache

from everhook.circuit.machine import CircuitPolicy, CircuitState, Hold
from everhook.circuit.reporter import OutcomeReporter
from everhook.circuit.spec import resolve
from everhook.circuit.store import EndpointState, circuit_specs, claim_probe, endpoint_states, free_probe
from everhook.contracts import (
    AttemptOutcome,
    AttemptRecord,
    DeadLetterReason,
    DeliveryInput,
    DeliveryStatus,
    FailureCode,
    PreviousAttempt,
    PullCheck,
    PulledState,
    Verdict,
)
from everhook.delivery import dead_payloads_store as dead_payloads
from everhook.delivery.classify import Classification
from everhook.delivery.dead_payloads_store import is_about_dead_letter, with_payloads
from everhook.delivery.guards import GuardStarter
from everhook.delivery.history import History
from everhook.delivery.inputs_store import InputDefaults, load_inputs_of
from everhook.delivery.recorder_store import Attempted, Transcript, record_attempts
from everhook.delivery.sender import delivery_missing
from everhook.delivery.store import dead_letter
from everhook.delivery.traffic import Traffic
from everhook.ids import Kind, moment_of, new_gid
from everhook.observability.metrics import ATTEMPT_SECONDS, ATTEMPTS, DELIVERY_SECONDS, LEASES_EXPIRED
from everhook.ordering.store import Freed
from everhook.pulling import queue_store as queue
from everhook.pulling.leases import (
    MAX_BYTES,
    Ack,
    Content,
    Extend,
    Held,
    Item,
    Lease,
    LeaseResult,
    LeaseStatus,
    Nack,
    PulledEndpoint,
    Request,
    hand_out,
)
from everhook.pulling.queue_store import Claimable, PulledDelivery, QueueRow, QueueView
from everhook.pulling.wake_ups import WakeUps
from everhook.receipts.issuer import Issuer, ReceiptContext, issue, url_digest
from everhook.receipts.keys_store import IssuerCache
from everhook.receipts.receipt import signatures_digest
from everhook.storage.engine import Connection, Database, Session, once_more_if_outdated

SWEEP = 100
"""Expired leases that one claim records."""

HELD_CHECK_S = 1.0
HELD_AFTER_FAILURES_S = 5.0
"""How long a process hands nothing out after as many failures in a row as open a circuit: the circuit is opened by a
workflow, which may be late, or away."""

PAUSED_CHECK = timedelta(hours=6)
"""How long a workflow waits for the end of an operator's pause before it checks again."""

PROBE_MARGIN = timedelta(seconds=30)

MAX_ENDPOINTS_REMEMBERED = 10_000

log = structlog.get_logger()


def pull_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of an endpoint's row, as fields of `PulledEndpoint`; absent ones have their defaults."""
    fields: dict[str, Any] = {}
    if "leaseSeconds" in options:
        fields["lease"] = timedelta(seconds=options["leaseSeconds"])
    if "maxInFlight" in options:
        fields |= {"max_in_flight": options["maxInFlight"], "is_limited": True}
    return fields


@dataclass(frozen=True)
class Claim:
    """What was handed out. `more`: there may be more. `held`: why nothing comes. `next_in`: when the next delivery is
    available, in seconds."""

    items: Sequence[Item] = ()
    more: bool = False
    held: Held | None = None
    next_in: float | None = None


@dataclass(frozen=True)
class _Streak:
    """Failures of an endpoint in a row, the last at a monotonic time, of which `threshold` open its circuit."""

    failures: int = 0
    last: float = 0.0
    threshold: int = 1


@dataclass
class _Aftermath:
    """What to do once the transaction is committed: attempts to report, workflows to start and to signal, consumers
    whose leases `ended`, with the deliveries, and deliveries that were `freed` in their groups. `threshold`: how many
    failures open the circuit, if there are any."""

    in_streak: bool = False
    threshold: int = 1
    attempted: list[tuple[Attempted, DeliveryInput]] = field(default_factory=list)
    delivered: list[DeliveryInput] = field(default_factory=list)
    guarded: list[DeliveryInput] = field(default_factory=list)
    ended: dict[str, set[str]] = field(default_factory=dict)
    signalled: list[DeliveryInput] = field(default_factory=list)
    freed: Sequence[Freed] = ()

    def take(self, attempted: Attempted, row: QueueRow, delivery: DeliveryInput) -> None:
        """Take an attempt into account. The first that failed starts the workflow that guards its delivery; the end of
        a guarded delivery, or of a round, is signalled."""
        self.attempted.append((attempted, delivery))
        if row.consumer is not None:
            self.ended.setdefault(row.consumer, set()).add(row.delivery_gid)
        record = attempted.record
        if record.verdict is Verdict.DELIVERED:
            delivered = _as_delivered(delivery, record)
            (self.delivered if row.guarded_at is None else self.signalled).append(delivered)
        elif record.next_attempt_at is None:
            self.signalled.append(delivery)
        elif row.guarded_at is None:
            self.guarded.append(delivery)


class PullQueue:
    """One for each process."""

    def __init__(
        self,
        database: Database,
        defaults: InputDefaults,
        issuers: IssuerCache,
        reporter: OutcomeReporter,
        history: History | None,
        guards: GuardStarter,
        wake_ups: WakeUps,
        traffic: Traffic,
        circuit_policy: CircuitPolicy,
        on_change: Callable[[Collection[str]], None] | None = None,
        max_payload_bytes: int = dead_payloads.MAX_BYTES,
    ) -> None:
        """`history` is None if healthy deliveries get no workflow. `on_change` is called with the messages of attempts
        that were recorded, after the commit. `max_payload_bytes` bounds events that carry a payload."""
        self._max_payload_bytes = max_payload_bytes
        self._database = database
        self._defaults = defaults
        self._issuers = issuers
        self._reporter = reporter
        self._history = history
        self._guards = guards
        self._wake_ups = wake_ups
        self._traffic = traffic
        self._circuit_policy = circuit_policy
        self._on_change = on_change
        self._on_freed: Callable[[Sequence[Freed]], None] = lambda _: None
        self._is_ending = False
        self.turns = asyncio.Semaphore(database.connections // 2)
        """What consumers need the database for when they connect. After a restart all come back at once: without a
        limit they take every connection, wait for more until they fail, and publishes fail with them."""
        self._streaks: LRUCache[str, _Streak] = LRUCache(MAX_ENDPOINTS_REMEMBERED)

    def free_by(self, on_freed: Callable[[Sequence[Freed]], None]) -> None:
        """`on_freed` is called with the deliveries whose turn in their group it is, after the commit."""
        self._on_freed = on_freed

    async def poll(
        self,
        endpoint: PulledEndpoint,
        request: Request,
        wait_s: float,
        has_left: Callable[[], Awaitable[bool]],
    ) -> Claim:
        """Hand deliveries out; if there are none, wait for some. `has_left`: whether the consumer is still there, so
        that nothing is leased to a closed connection."""
        until = time.monotonic() + wait_s
        with self._wake_ups.waiting(endpoint.gid) as waiter:
            while True:
                claim = await self.claim(endpoint, request)
                left = until - time.monotonic()
                if claim.items or left <= 0:
                    return claim
                soonest = [left, claim.next_in, HELD_CHECK_S if claim.held is not None else None]
                await waiter.wait(min(each for each in soonest if each is not None))
                if self._is_ending or await has_left():
                    return Claim()

    async def claim(self, endpoint: PulledEndpoint, request: Request) -> Claim:
        """Hand out up to `request.limit` deliveries, and record the leases that expired. A claim that finds nothing
        costs two reads."""
        async with self.turns:
            async with self._database.read_connection() as connection:
                held = await self._held(connection, endpoint)
                moment, available_at = await queue.next_available(connection, endpoint.gid)
            if available_at is None or available_at > moment:
                next_in = (available_at - moment).total_seconds() if available_at is not None else None
                return Claim(held=held, next_in=next_in)
            if held is not None and held is not Held.MAX_IN_FLIGHT:
                return Claim(held=held)
            issuer = await self._issuers.get()
            claim, after = await once_more_if_outdated(lambda: self._claim(endpoint, request, issuer))
        self._conclude(endpoint, after)
        return claim

    async def acknowledge(
        self,
        endpoint: PulledEndpoint,
        lines: Sequence[Ack | Nack | Extend],
        address: str | None,
        also: Callable[[Connection, Sequence[LeaseResult]], Awaitable[None]] | None = None,
    ) -> Sequence[LeaseResult]:
        """Take acknowledgements, in one transaction; the results are in the same order. A lease that is not current
        fails none of the others. Repeating the call changes nothing more. `also` runs in the same transaction."""
        # The consumer works on meanwhile, and publishers would wait: see `Polls and streams` in bench/RESULTS.md.
        await self._traffic.let_publishes_pass()
        issuer = await self._issuers.get()
        results, after = await once_more_if_outdated(lambda: self._acknowledge(endpoint, lines, address, issuer, also))
        self._conclude(endpoint, after)
        return results

    async def in_flight(self, endpoint: PulledEndpoint, consumer: str) -> set[str]:
        """The deliveries that are leased to a consumer."""
        async with self._database.read_connection() as connection:
            return await queue.held_by(connection, endpoint.gid, consumer)

    def end(self) -> None:
        """Hand out nothing to polls that wait: they respond now."""
        self._is_ending = True
        self._wake_ups.wake_all()

    async def take_back(self, endpoint: PulledEndpoint, consumer_gid: str) -> int:
        """End the leases of a consumer that began anew: they count as expired, and are available at once. Returns how
        many."""
        issuer = await self._issuers.get()
        async with self.turns:
            count, after = await once_more_if_outdated(lambda: self._take_back(endpoint, consumer_gid, issuer))
        self._conclude(endpoint, after, is_one_failure=True)
        if count:
            self._wake_ups.wake([endpoint.gid])
        return count

    async def _take_back(self, endpoint: PulledEndpoint, consumer_gid: str, issuer: Issuer) -> tuple[int, _Aftermath]:
        async with self._database.write_connection() as connection:
            locked = await queue.lock_consumer(connection, endpoint.gid, consumer_gid, 0)
            moment = await queue.database_time(connection)
            state = (await endpoint_states(connection, [endpoint.gid])).get(endpoint.gid)
            after = _Aftermath(in_streak=_in_streak(state))
            rows = [replace(row, lease_until=moment, available_at=moment) for row in locked]
            await self._end_expired(connection, endpoint, rows, moment, issuer, after)
            await self._record(connection, endpoint, after, moment)
        return len(rows), after

    async def signal(self, delivery_gid: str) -> None:
        """Have the workflow of a delivery check the database: its end was committed with `expect_signal`."""
        async with self._database.read_connection() as connection:
            inputs = await self._inputs(connection, [delivery_gid])
        for delivery in inputs.values():
            self._guards.signal(delivery)

    async def extend_held(self, endpoint: PulledEndpoint, consumer_gid: str) -> None:
        """Extend the leases of a consumer by the lease of its endpoint. Those that expired stay expired."""
        async with self._database.write_connection() as connection:
            rows = await queue.lock_consumer(connection, endpoint.gid, consumer_gid, 0)
            moment = await queue.database_time(connection)
            until = moment + endpoint.lease
            await queue.change(
                connection,
                [
                    queue.changed(row, lease_until=until, available_at=until + (row.available_at - row.lease_until))
                    for row in rows
                    if row.lease_until is not None and moment < row.lease_until < until
                ],
            )

    async def release(self, endpoint: PulledEndpoint, consumer_gid: str, after: int, up_to: int | None = None) -> int:
        """Take back leases that a client never received: those after a position of its stream, up to another. They do
        not count as attempts. Returns how many."""
        async with self.turns, self._database.write_connection() as connection:
            rows = await queue.lock_consumer(connection, endpoint.gid, consumer_gid, after, up_to)
            moment = await queue.database_time(connection)
            await queue.change(
                connection,
                [
                    queue.changed(row, number=row.number - 1, available_at=moment, consumer=None, is_last=False)
                    for row in rows
                ],
            )
            if rows:  # one of them may be the probe of the circuit
                await free_probe(connection, endpoint.gid, [row.delivery_gid for row in rows])
        if rows:
            self._wake_ups.wake([endpoint.gid])
        return len(rows)

    async def view(self, session: Session, endpoint: PulledEndpoint) -> QueueView:
        """What is queued, and who holds leases."""
        return await queue.queue_view(session, endpoint.gid)

    async def check(self, check: PullCheck) -> PulledState:
        """Find out, for its workflow, what became of a delivery; dead-letter it if its round is over. What ends the
        round and what dead-letters it is one transaction, so that no consumer can take the delivery in between."""
        issuer = await self._issuers.get()
        after = _Aftermath(in_streak=True)
        async with self._database.writing() as session:
            connection = await session.connection()
            row = (await queue.lock_rows(connection, None, [check.delivery_gid])).get(check.delivery_gid)
            delivery = await queue.pulled_delivery(session, check.delivery_gid)
            if delivery is None:
                raise delivery_missing(check.delivery_gid)
            if row is None:
                return pulled_state(delivery)
            moment = await queue.database_time(connection)
            endpoint = PulledEndpoint(delivery.endpoint_gid, delivery.tenant_gid, delivery.tenant)
            if row.is_leased and _expired(row, moment):
                await self._end_expired(connection, endpoint, [row], moment, issuer, after)
                after.threshold = await self._threshold(connection, endpoint)
                _, after.freed = await record_attempts(
                    connection, [each for each, _ in after.attempted], keep_history=False
                )
                row = replace(row, consumer=None, is_last=row.ends_round(moment))
                delivery = await queue.pulled_delivery(session, check.delivery_gid) or delivery
            state = pulled_state(delivery)
            reason = check.gives_up(row.round) or _why_over(row, delivery, moment)
            if reason is None:
                return replace(state, check_at=_check_at(row, moment))
            await queue.remove(connection, [check.delivery_gid])
            dead = await dead_letter(session, check.delivery_gid, row.round, reason, moment + check.retention)
        self._on_freed([*after.freed, *dead.freed])
        self._report(endpoint, after)
        return replace(state, status=DeliveryStatus.DEAD_LETTERED, reason=reason, dead_lettered_at=dead.at)

    async def _held(self, connection: Connection, endpoint: PulledEndpoint) -> Held | None:
        state = (await endpoint_states(connection, [endpoint.gid], count_leases=True)).get(endpoint.gid)
        if (reason := self._why_held(endpoint, state, moment=None)) is not None:
            return reason
        assert state is not None and state.leases is not None
        return Held.MAX_IN_FLIGHT if state.leases >= endpoint.max_in_flight else None

    def may_offer(self, endpoint: PulledEndpoint) -> bool:
        """Whether streams may take deliveries of an endpoint from the transactions that accept them. On PostgreSQL the
        leases of a limited one are counted under a lock, which a publish must not wait for."""
        return self._database.is_sqlite or not endpoint.is_limited

    def may_hand_out(self, endpoint: PulledEndpoint, state: EndpointState) -> bool:
        """Whether an endpoint may hand out any number of deliveries: its circuit is closed, and nothing holds it."""
        return state.sends and self._why_held(endpoint, state, moment=None) is None

    def _why_held(
        self, endpoint: PulledEndpoint, state: EndpointState | None, *, moment: datetime | None
    ) -> Held | None:
        """Why an endpoint hands nothing out. `moment`: its circuit may also be half-open with a free probe."""
        if state is None or state.hold is Hold.DISABLED:
            return Held.DISABLED
        if state.hold is Hold.PAUSED:
            return Held.PAUSED
        if state.state is not CircuitState.CLOSED:
            self._streaks.pop(endpoint.gid, None)  # the circuit knows of them
        streak = self._streaks.get(endpoint.gid, _Streak())
        is_failing = streak.failures >= streak.threshold and time.monotonic() - streak.last < HELD_AFTER_FAILURES_S
        if state.state is CircuitState.OPEN or is_failing:
            return Held.CIRCUIT_OPEN
        if state.state is CircuitState.HALF_OPEN and moment is not None and not state.may_probe(moment):
            return Held.CIRCUIT_OPEN
        return None

    async def _claim(self, endpoint: PulledEndpoint, request: Request, issuer: Issuer) -> tuple[Claim, _Aftermath]:
        async with self._database.write_connection() as connection:
            if endpoint.is_limited:
                await queue.lock_leases(connection, endpoint.gid)
            moment = await queue.database_time(connection)
            state = (await endpoint_states(connection, [endpoint.gid])).get(endpoint.gid)
            after = _Aftermath(in_streak=_in_streak(state))
            expired = await queue.lock_expired(connection, endpoint.gid, moment, SWEEP)
            await self._end_expired(connection, endpoint, expired, moment, issuer, after)
            claim = await self._hand_out_if_allowed(connection, endpoint, request, state, moment, after)
            await self._record(connection, endpoint, after, moment)
        return claim, after

    async def _hand_out_if_allowed(
        self,
        connection: Connection,
        endpoint: PulledEndpoint,
        request: Request,
        state: EndpointState | None,
        moment: datetime,
        after: _Aftermath,
    ) -> Claim:
        held = self._why_held(endpoint, state, moment=moment)
        if held is not None or state is None:
            return Claim(held=held)
        room = endpoint.max_in_flight - await queue.count_leased(connection, endpoint.gid, endpoint.max_in_flight)
        if room <= 0:
            return Claim(held=Held.MAX_IN_FLIGHT)
        limit = min(request.limit, room) if state.sends else 1
        found = await queue.lock_claimable(connection, endpoint.gid, moment, limit)
        chosen = _within(found, MAX_BYTES)
        if not chosen or (not state.sends and not await self._claims_probe(connection, endpoint, request, chosen[0])):
            return Claim()
        items = await self._hand_out(connection, endpoint, request, chosen, moment, after)
        if not items and not state.sends:  # the payload of the probe was erased just now
            await free_probe(connection, endpoint.gid, [chosen[0].delivery_gid])
        return Claim(items, more=state.sends and (len(found) == limit or len(items) < len(found)))

    @staticmethod
    async def _claims_probe(
        connection: Connection, endpoint: PulledEndpoint, request: Request, probe: Claimable
    ) -> bool:
        lease = (request.lease or endpoint.lease) + PROBE_MARGIN
        return await claim_probe(connection, endpoint.gid, probe.delivery_gid, lease)

    async def _hand_out(
        self,
        connection: Connection,
        endpoint: PulledEndpoint,
        request: Request,
        chosen: Sequence[Claimable],
        moment: datetime,
        after: _Aftermath,
    ) -> Sequence[Item]:
        contents = await self._contents(connection, chosen)
        items: list[Item] = []
        rows: list[dict[str, Any]] = []
        guarded: list[str] = []
        for each in chosen:
            content = contents.get(each.delivery_gid)
            if content is None:
                continue
            item, row = hand_out(
                Lease(each.delivery_gid, each.round, each.number + 1),
                content,
                request,
                policy=each.policy,
                moment=moment,
                lasts=request.lease or endpoint.lease,
                before=len(items),
            )
            items.append(item)
            rows.append(row)
            if row["is_last"] and each.is_guarded:
                guarded.append(each.delivery_gid)
        if rows:
            await queue.lease(connection, rows)
        # Their workflows sleep until the window ends. Now the round ends with the lease, unless it is acknowledged.
        after.signalled.extend((await self._inputs(connection, guarded)).values())
        return items

    async def _contents(self, connection: Connection, chosen: Sequence[Claimable]) -> dict[str, Content]:
        """The messages of deliveries, by the gids of the deliveries. Left out are those whose payload was erased just
        now, and events about dead letters that carry too much together: they are handed out later."""
        messages = await queue.contents(connection, [each.message_gid for each in chosen])
        found = {each.delivery_gid: messages[each.message_gid] for each in chosen if each.message_gid in messages}
        events = {
            gid: content.payload
            for gid, content in found.items()
            if is_about_dead_letter(content.channel, content.event_type)
        }
        if not events:
            return found
        sent = await with_payloads(connection, events, max_bytes=self._max_payload_bytes, at_most=MAX_BYTES)
        others = {gid: content for gid, content in found.items() if gid not in events}
        return others | {gid: replace(found[gid], payload=payload) for gid, payload in sent.items()}

    async def _end_expired(
        self,
        connection: Connection,
        endpoint: PulledEndpoint,
        expired: Sequence[QueueRow],
        moment: datetime,
        issuer: Issuer,
        after: "_Aftermath",
    ) -> None:
        """End leases that expired. Their attempts are recorded later in the transaction."""
        if not expired:
            return
        inputs = await self._inputs(connection, [row.delivery_gid for row in expired])
        ended = [(row, inputs[row.delivery_gid]) for row in expired if row.delivery_gid in inputs]
        for row, delivery in ended:  # those left out are of a tenant that is being erased
            after.take(_attempted(endpoint, row, delivery, issuer, _expiry(row, moment)), row, delivery)
        changes = [
            queue.changed(row, consumer=None, is_last=row.ends_round(moment), guarded_at=row.guarded_at or moment)
            for row, _ in ended
        ]
        await queue.change(connection, changes)
        LEASES_EXPIRED.inc(len(ended))

    async def _acknowledge(
        self,
        endpoint: PulledEndpoint,
        lines: Sequence[Ack | Nack | Extend],
        address: str | None,
        issuer: Issuer,
        also: Callable[[Connection, Sequence[LeaseResult]], Awaitable[None]] | None,
    ) -> tuple[Sequence[LeaseResult], _Aftermath]:
        parsed = [(line, Lease.parse(line.lease)) for line in lines]
        gids = {lease.delivery_gid for _, lease in parsed if lease is not None}
        # Publishes wait for the writer, so the lines are taken, and their receipts signed, before it is: again if a row
        # has changed since.
        async with self._database.read_connection() as connection:
            inputs = await self._inputs(connection, sorted(gids))
            state = (await endpoint_states(connection, [endpoint.gid])).get(endpoint.gid)
            rows = await queue.rows_of(connection, endpoint.gid, gids)
            moment = await queue.database_time(connection)
        desk = _Desk(endpoint, rows, inputs, {}, moment, address, issuer)
        results = desk.take_all(parsed)
        after = _Aftermath(in_streak=_in_streak(state))
        async with self._database.write_connection() as connection:
            locked = await queue.lock_rows(connection, endpoint.gid, gids)
            if locked != rows or len(rows) < len(gids):
                moment = await queue.database_time(connection)
                over = await queue.statuses(connection, endpoint.gid, gids - locked.keys())
                desk = _Desk(endpoint, locked, inputs, over, moment, address, issuer)
                results = desk.take_all(parsed)
            await queue.remove(connection, desk.acked)
            await queue.change(connection, list(desk.changes.values()))
            for row, attempted in desk.attempted:
                after.take(attempted, row, inputs[row.delivery_gid])
            await self._record(connection, endpoint, after, moment)
            if also is not None:
                await also(connection, results)
        return results, after

    async def _inputs(self, connection: Connection, gids: Sequence[str]) -> dict[str, DeliveryInput]:
        inputs = await load_inputs_of(connection, self._defaults, gids) if gids else []
        return {input.delivery_gid: input for input in inputs}

    async def _record(
        self, connection: Connection, endpoint: PulledEndpoint, after: _Aftermath, moment: datetime
    ) -> None:
        if any(attempted.record.verdict is Verdict.RETRY for attempted, _ in after.attempted):
            after.threshold = await self._threshold(connection, endpoint)
        await queue.expect_signal(connection, [each.delivery_gid for each in after.signalled], moment)
        attempted = [each for each, _ in after.attempted]
        _, after.freed = await record_attempts(connection, attempted, keep_history=self._history is not None)

    async def _threshold(self, connection: Connection, endpoint: PulledEndpoint) -> int:
        """How many failures in a row open the circuit, by the settings of the endpoint and of its channels."""
        specs = await circuit_specs(connection, endpoint.gid)
        return resolve(self._circuit_policy, *specs).failure_threshold

    def _conclude(self, endpoint: PulledEndpoint, after: _Aftermath, *, is_one_failure: bool = False) -> None:
        """Start and signal workflows, and report to the circuit, after the commit. `is_one_failure`: all failures have
        one cause, so the circuit counts the first."""
        for delivery in after.delivered:
            if self._history is not None:
                self._history.add(delivery)
        for delivery in after.guarded:
            self._guards.start(delivery)
        for delivery in after.signalled:
            self._guards.signal(delivery)
        self._wake_ups.free(endpoint.gid, after.ended)
        self._on_freed(after.freed)
        if self._on_change is not None:
            self._on_change({delivery.message_gid for _, delivery in after.attempted})
        self._report(endpoint, after, is_one_failure=is_one_failure)

    def _report(self, endpoint: PulledEndpoint, after: _Aftermath, *, is_one_failure: bool = False) -> None:
        for index, (attempted, _) in enumerate(after.attempted):
            record = attempted.record
            if not is_one_failure or index == 0:
                healthy = record.verdict is not Verdict.RETRY
                failures = 0 if healthy else self._streaks.get(endpoint.gid, _Streak()).failures + 1
                self._streaks[endpoint.gid] = _Streak(failures, time.monotonic(), after.threshold)
                classification = Classification(record.verdict, healthy=healthy)
                self._reporter.note(endpoint.gid, endpoint.tenant, classification, in_streak=after.in_streak)
            duration = timedelta(milliseconds=record.duration_ms)
            ATTEMPTS.labels(record.verdict).inc()
            ATTEMPT_SECONDS.observe(duration.total_seconds())
            if record.verdict is Verdict.DELIVERED and record.round == 1:
                waited = record.started_at + duration - moment_of(record.delivery_gid)
                DELIVERY_SECONDS.observe(max(waited.total_seconds(), 0))
            log.info("attempt", **_facts(record, endpoint))


class _Desk:
    """Takes the lines of one call, in order, on rows of the queue. Pure."""

    def __init__(
        self,
        endpoint: PulledEndpoint,
        rows: dict[str, QueueRow],
        inputs: dict[str, DeliveryInput],
        over: dict[str, DeliveryStatus],
        moment: datetime,
        address: str | None,
        issuer: Issuer,
    ) -> None:
        """`over` are the statuses of deliveries that are not queued."""
        self._endpoint = endpoint
        self._rows = dict(rows)
        self._inputs = inputs
        self._over = dict(over)
        self._moment = moment
        self._address = address
        self._issuer = issuer
        self.acked: list[str] = []
        self.changes: dict[str, dict[str, Any]] = {}
        self.attempted: list[tuple[QueueRow, Attempted]] = []

    def take_all(self, lines: Sequence[tuple[Ack | Nack | Extend, Lease | None]]) -> Sequence[LeaseResult]:
        """What the lines do to their leases, one after the other."""
        return [self._take(line, lease) for line, lease in lines]

    def _take(self, line: Ack | Nack | Extend, lease: Lease | None) -> LeaseResult:
        row = self._rows.get(lease.delivery_gid) if lease is not None else None
        if lease is None or (row is None and lease.delivery_gid not in self._over):
            return LeaseResult(line.lease, LeaseStatus.UNKNOWN)
        if row is None:
            return self._take_late(line, self._over[lease.delivery_gid])
        if lease.delivery_gid not in self._inputs or (lease.round, lease.number) > (row.round, row.newest_number):
            return LeaseResult(line.lease, LeaseStatus.UNKNOWN)
        if isinstance(line, Ack):
            return self._ack(line, row)
        if isinstance(line, Nack) and not line.needs_lease:
            return self._nack(line, row)
        if not row.is_leased or (lease.round, lease.number) != (row.round, row.number):
            return LeaseResult(line.lease, LeaseStatus.LOST)
        return self._nack(line, row) if isinstance(line, Nack) else self._extend(line, row)

    def _take_late(self, line: Ack | Nack | Extend, status: DeliveryStatus) -> LeaseResult:
        if status is DeliveryStatus.DELIVERED:
            if isinstance(line, Ack):
                return LeaseResult(line.lease, LeaseStatus.ACKED, duplicate=True)
            return LeaseResult(line.lease, LeaseStatus.LOST)
        return LeaseResult(line.lease, LeaseStatus.CONFLICT, detail=f"the delivery is {status}")

    def _ack(self, ack: Ack, row: QueueRow) -> LeaseResult:
        """An acknowledgement counts even if another consumer holds the delivery now: the work was done,
        and refusing it would have it done again."""
        if ack.needs_open_round and row.is_round_over:
            return LeaseResult(ack.lease, LeaseStatus.CONFLICT, detail="its delivery has failed")
        number = row.newest_number
        ended = _Ended(Verdict.DELIVERED, number, self._moment, address=self._address, result=ack.result)
        self._end(row, ended)
        del self._rows[row.delivery_gid]
        self._over[row.delivery_gid] = DeliveryStatus.DELIVERED
        self.changes.pop(row.delivery_gid, None)
        self.acked.append(row.delivery_gid)
        return LeaseResult(ack.lease, LeaseStatus.ACKED)

    def _nack(self, nack: Nack, row: QueueRow) -> LeaseResult:
        if row.is_round_over:
            return LeaseResult(nack.lease, LeaseStatus.NACKED, duplicate=True)
        scheduled = row.available_at - row.lease_until if row.lease_until is not None else timedelta()
        next_at = self._moment + max(scheduled, nack.retry_after or timedelta())
        number = row.newest_number
        is_over = nack.dead_letter or row.is_last or next_at >= row.window_until
        ended = _Ended(
            Verdict.REJECTED if nack.dead_letter else Verdict.RETRY,
            number,
            self._moment,
            next_at=None if is_over else next_at,
            error=FailureCode.NACKED,
            detail=nack.reason,
            address=self._address,
        )
        self._end(row, ended)
        self.changes[row.delivery_gid] = queue.changed(
            row,
            number=number,
            consumer=None,
            available_at=self._moment if is_over else next_at,
            is_last=is_over,
            guarded_at=row.guarded_at or self._moment,
        )
        self._rows[row.delivery_gid] = replace(
            row, number=number, consumer=None, is_last=is_over, guarded_at=row.guarded_at or self._moment
        )
        return LeaseResult(nack.lease, LeaseStatus.NACKED)

    def _extend(self, extend: Extend, row: QueueRow) -> LeaseResult:
        assert row.lease_until is not None
        until = self._moment + extend.by
        extended = replace(row, lease_until=until, available_at=until + (row.available_at - row.lease_until))
        self.changes[row.delivery_gid] = queue.changed(extended)
        self._rows[row.delivery_gid] = extended
        return LeaseResult(extend.lease, LeaseStatus.EXTENDED, lease_until=until)

    def _end(self, row: QueueRow, ended: "_Ended") -> None:
        delivery = self._inputs[row.delivery_gid]
        self.attempted.append((row, _attempted(self._endpoint, row, delivery, self._issuer, ended)))


@dataclass(frozen=True)
class _Ended:
    """How a lease ended. `next_at`: when the delivery is available again; None: its round is over."""

    verdict: Verdict
    number: int
    at: datetime
    next_at: datetime | None = None
    error: FailureCode | None = None
    detail: str = ""
    address: str | None = None
    result: bytes | None = None


def _expiry(row: QueueRow, moment: datetime) -> _Ended:
    assert row.lease_until is not None
    return _Ended(
        Verdict.RETRY,
        row.number,
        row.lease_until,
        next_at=None if row.ends_round(moment) else row.available_at,
        error=FailureCode.LEASE_EXPIRED,
        address=row.consumer_address,
    )


def _attempted(
    endpoint: PulledEndpoint, row: QueueRow, delivery: DeliveryInput, issuer: Issuer, ended: _Ended
) -> Attempted:
    """A lease as an attempt, with its receipt."""
    started_at = row.leased_at or ended.at
    record = AttemptRecord(
        attempt_gid=new_gid(Kind.ATTEMPT),
        delivery_gid=row.delivery_gid,
        endpoint_gid=endpoint.gid,
        round=row.round,
        number=ended.number,
        verdict=ended.verdict,
        started_at=started_at,
        duration_ms=max(0, round((ended.at - started_at) / timedelta(milliseconds=1))),
        error=ended.error,
        request_sha256=row.item_sha256 or hashlib.sha256(b"").hexdigest(),
        response_sha256=hashlib.sha256(ended.result).hexdigest() if ended.result is not None else None,
        response_size=len(ended.result) if ended.result is not None else None,
        peer_address=ended.address,
        next_attempt_at=ended.next_at,
        url_sha256=url_digest(endpoint.url),
        signatures_sha256=signatures_digest(()),
    )
    context = ReceiptContext(endpoint.tenant_gid, delivery.message_gid, endpoint.url)
    transcript = Transcript(
        detail=ended.detail.replace("\0", "") or None,
        body=ended.result,
        url=endpoint.url,
        receipt=issue(record, context, issuer),
    )
    return Attempted(
        record,
        transcript,
        before_workflow=row.guarded_at is None,
        pulled_until=row.window_until,
        is_grouped=row.is_grouped,
    )


def _as_delivered(delivery: DeliveryInput, record: AttemptRecord) -> DeliveryInput:
    """The input of the workflow of a delivery that is acknowledged: it completes in its first task."""
    outcome = AttemptOutcome(Verdict.DELIVERED, attempt_gid=record.attempt_gid, duration_ms=record.duration_ms)
    return replace(delivery, attempt=record.number, previous=PreviousAttempt(outcome))


def _within(found: Sequence[Claimable], max_bytes: int) -> Sequence[Claimable]:
    """The first of these whose payloads have at most so many bytes together; at least one."""
    total = 0
    for index, each in enumerate(found):
        total += each.size
        if total > max_bytes and index:
            return found[:index]
    return found


def _expired(row: QueueRow, moment: datetime) -> bool:
    return row.lease_until is not None and row.lease_until <= moment


def _why_over(row: QueueRow, delivery: PulledDelivery, moment: datetime) -> DeadLetterReason | None:
    """Why the round of a queued delivery is over; None if it is not."""
    if row.is_leased and not _expired(row, moment):
        return None  # a consumer works on it
    if delivery.endpoint_deleted:
        return DeadLetterReason.ENDPOINT_DELETED
    if delivery.payload_erased:
        return DeadLetterReason.PAYLOAD_ERASED
    attempt = delivery.attempt
    if row.is_last and not row.is_leased:
        rejected = attempt is not None and attempt.verdict is Verdict.REJECTED
        return DeadLetterReason.REJECTED if rejected else DeadLetterReason.EXHAUSTED
    if row.window_until > moment or delivery.hold is Hold.PAUSED:
        return None
    if delivery.hold is Hold.DISABLED:
        return DeadLetterReason.ENDPOINT_DISABLED
    if row.number:
        return DeadLetterReason.EXHAUSTED
    return DeadLetterReason.UNCLAIMED if delivery.state is CircuitState.CLOSED else DeadLetterReason.CIRCUIT_OPEN


def _check_at(row: QueueRow, moment: datetime) -> datetime:
    """When the round of a queued delivery may be over."""
    at = row.window_until
    if row.is_leased and row.lease_until is not None and (row.ends_round(moment) or row.lease_until > at):
        at = row.lease_until
    if at <= moment:  # a pause may last long
        return moment + PAUSED_CHECK
    return at


def pulled_state(delivery: PulledDelivery) -> PulledState:
    """What the workflow of a delivery has to know of it."""
    attempt = delivery.attempt
    last = None
    if attempt is not None:
        last = AttemptOutcome(
            attempt.verdict, error=attempt.error, attempt_gid=attempt.gid, duration_ms=attempt.duration_ms
        )
    return PulledState(
        delivery.status, delivery.attempts, delivery.reason, last=last, dead_lettered_at=delivery.dead_lettered_at
    )


def _in_streak(state: EndpointState | None) -> bool:
    return state is not None and (state.failures > 0 or state.state is not CircuitState.CLOSED)


def _facts(record: AttemptRecord, endpoint: PulledEndpoint) -> dict[str, Any]:
    """The fields of the log line of an attempt, named as for webhooks."""
    return {
        "attempt_gid": record.attempt_gid,
        "delivery_gid": record.delivery_gid,
        "endpoint_gid": record.endpoint_gid,
        "tenant": endpoint.tenant,
        "round": record.round,
        "number": record.number,
        "verdict": record.verdict.value,
        "error": record.error,
        "duration_ms": record.duration_ms,
    }
