"""Accepting messages: the transaction of every `202`, and reading messages."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from sqlalchemy import delete, exists, select, text, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import defer
from sqlmodel import col

from everhook.circuit.store import EndpointState, endpoint_states
from everhook.contracts import DeliveryInput, DeliveryMode, DeliveryStatus
from everhook.delivery.inputs import NewDelivery
from everhook.delivery.inputs_store import InputDefaults, first_input
from everhook.delivery.policy import one_attempt
from everhook.delivery.snapshot_store import DeliverySnapshot
from everhook.errors import IdempotencyKeyReused, InvalidField, NotFound
from everhook.event_types.modes import ValidationMode
from everhook.event_types.schemas import Fault
from everhook.event_types.store import Catalogue, Checked
from everhook.ids import Kind, new_gid, new_gid_at
from everhook.notifications.events import is_reserved
from everhook.observability.metrics import MESSAGES_ACCEPTED, VALIDATION_FAILURES
from everhook.ordering.store import Group, Positions, insert_grouped, is_ordered, take_positions
from everhook.publishing.fan_out import Candidate, match, match_steps
from everhook.publishing.gates import NO_INBOX, Step, task_of
from everhook.publishing.gates_store import Asking, asking, inboxes, insert_gates
from everhook.publishing.routes_store import RouteCache, endpoint_routes
from everhook.publishing.routing import Audience, Route, Routes
from everhook.publishing.rows import (
    Publisher,
    asked_row,
    delivery_row,
    gated_row,
    new_task,
    opened_events,
    pulled_row,
    queued_row,
)
from everhook.publishing.schedules_store import insert_scheduled
from everhook.pulling.direct import DirectHandOut
from everhook.pulling.leases import Content
from everhook.pulling.queue_store import enqueue, queue_row
from everhook.storage.batching import BatchExecutor
from everhook.storage.engine import Database, once_more_if_outdated
from everhook.storage.paging import Page, in_time, one_of, page_of
from everhook.storage.statements import insert_ignoring, insert_into
from everhook.storage.tables import Delivery, GateState, Message, MessageKey, OperationalEvent, Task, now

NO_FAULTS: Mapping[str, Fault] = {}


@dataclass(frozen=True)
class Publication:
    """A message to be published. `content` is the parsed payload, for filters; `payload` the bytes, for receivers.

    It goes to the endpoints of its tenant, of all tenants if it has none, or to `audience`. `gates` are its own; None:
    those of the channel. `accepted_at`: it was accepted before, and gets further deliveries. `endpoint_gid`: it goes to
    this endpoint alone, regardless of its subscriptions. `single_attempt`: a round of its deliveries is one attempt.
    `deliver_at`: it gets its deliveries at this time. `group_key`: its deliveries are in order with those of the same
    key.
    """

    message_gid: str
    channel: str
    event_type: str
    payload: bytes
    content: Any
    body_sha256: str
    published_at: datetime
    tenant_gid: str | None = None
    idempotency_key: str | None = None
    audience: Audience | None = None
    traceparent: str | None = None
    task: Mapping[str, Any] = field(default_factory=dict)
    publisher: Publisher = field(default_factory=lambda: Publisher())
    gates: Sequence[Step] | None = None
    accepted_at: datetime | None = None
    attributes: Mapping[str, str] | None = None
    endpoint_gid: str | None = None
    single_attempt: bool = False
    deliver_at: datetime | None = None
    group_key: str | None = None

    @property
    def reach(self) -> Audience:
        """The endpoints that may take it."""
        return self.audience or Audience.of(self.tenant_gid)

    def new_delivery_gid(self) -> str:
        """All deliveries of a message have gids of the time at which it was accepted: they are looked for there."""
        return new_gid(Kind.DELIVERY) if self.accepted_at is None else new_gid_at(Kind.DELIVERY, self.accepted_at)

    @property
    def key(self) -> tuple[str, str, str] | None:
        """The idempotency key: scope, channel, key."""
        if self.idempotency_key is None:
            return None
        return (self.tenant_gid or "", self.channel, self.idempotency_key)


@dataclass(frozen=True)
class AcceptedDelivery:
    delivery_gid: str
    endpoint_gid: str
    status: DeliveryStatus


@dataclass(frozen=True)
class Accepted:
    """A committed message. `new` are the deliveries whose first attempt is to be made, or whose workflow is to be
    started: none for a duplicate, and none that were parked because their endpoint cannot receive now. `queued` are the
    endpoints whose consumers have to claim a delivery. `deliver_at`: it gets its deliveries at this time. `fault`: it
    does not fit the catalogue of event types."""

    message_gid: str
    channel: str
    event_type: str
    published_at: datetime
    deliveries: tuple[AcceptedDelivery, ...]
    new: tuple[NewDelivery, ...] = ()
    queued: frozenset[str] = frozenset()
    duplicate: bool = False
    deliver_at: datetime | None = None
    fault: Fault | None = None


@dataclass(frozen=True)
class UnknownChannel:
    channel: str


@dataclass(frozen=True)
class KeyReused:
    """The idempotency key was used before, with another body. `message_gid` is the message that has the key."""

    message_gid: str


@dataclass(frozen=True)
class Refused:
    """The inbox of a step cannot be asked about the message, or it cannot go to the endpoint that it names, so nothing
    was accepted."""

    field: str
    message: str


@dataclass(frozen=True)
class PayloadRefused:
    """The message does not fit the catalogue of event types, and its channel rejects that: nothing was accepted."""

    fault: Fault


Acceptance = Accepted | UnknownChannel | KeyReused | Refused | PayloadRefused


class Acceptor:
    """Commits messages, with one delivery for each matching endpoint."""

    def __init__(
        self,
        database: Database,
        defaults: InputDefaults,
        on_queued: Callable[[Collection[str]], None] | None = None,
        direct: DirectHandOut | None = None,
    ) -> None:
        """`on_queued` is called with the endpoints for which deliveries were queued, after the commit. `direct`: to
        the streams of this process."""
        self._database = database
        self._defaults = defaults
        self._on_queued = on_queued
        self._direct = direct or DirectHandOut()
        self._routes = RouteCache()
        self._catalogue = Catalogue()
        self._group = BatchExecutor(self.transaction, self._apply)

    def transaction(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """A transaction that may accept messages."""
        return self._direct.transaction(self._database)

    async def accept(self, publication: Publication) -> Acceptance:
        """Accept a message. Returns once it is committed with its deliveries; concurrent messages share a
        transaction (group commit)."""
        acceptance = await self._group.submit(publication)
        self._committed([acceptance])
        return acceptance

    async def accept_all(self, publications: Sequence[Publication]) -> Sequence[Acceptance]:
        """Accept the messages of one call in one transaction. Raises InvalidField for a message that is refused; then
        none is accepted."""
        acceptances = await once_more_if_outdated(lambda: self._accept_at_once(publications, _require_possible))
        self._committed(acceptances)
        return acceptances

    async def accept_all_or_none(self, publications: Sequence[Publication]) -> Sequence[Accepted]:
        """Accept the messages of one call in one transaction. Raises InvalidField and IdempotencyKeyReused for the
        first message that cannot be accepted; then none is."""
        acceptances = await once_more_if_outdated(lambda: self._accept_at_once(publications, _require_accepted))
        self._committed(acceptances)
        return [one for one in acceptances if isinstance(one, Accepted)]

    async def _accept_at_once(
        self, publications: Sequence[Publication], require: Callable[[int, Acceptance], None]
    ) -> Sequence[Acceptance]:
        async with self.transaction() as connection:
            acceptances = await self._apply(connection, publications)
            for index, one in enumerate(acceptances):
                if isinstance(one, PayloadRefused):
                    self._committed([one])  # counted
                require(index, one)  # if it raises, the transaction is rolled back
            return acceptances

    async def accept_for(self, publication: Publication, route: Route, *, is_checked: bool = False) -> Acceptance:
        """Accept a message for one endpoint, regardless of its subscriptions and of gates. With `is_checked` the
        channel, if there is one, may reject it as any other. Raises NotFound if the endpoint was deleted."""
        acceptance = await once_more_if_outdated(lambda: self._accept_for_one(publication, route, is_checked))
        self._committed([acceptance])
        return acceptance

    async def _accept_for_one(self, publication: Publication, route: Route, is_checked: bool) -> Acceptance:
        async with self.transaction() as connection:
            faults: Mapping[str, Fault] = {}
            if is_checked:
                routes = await self._routes.routes(connection, [publication.channel])
                faults = await self._faults(connection, [publication] if routes else [], routes)
                if (fault := faults.get(publication.message_gid)) and _rejects(publication, routes):
                    repeats = await _resolve_repeats(connection, [publication] if publication.key else [])
                    return repeats.get(publication.message_gid) or PayloadRefused(fault)
            acceptance = await self.accept_for_within(connection, publication, route, faults)
            if isinstance(acceptance, Accepted) and not acceptance.deliveries:
                raise NotFound("endpoint", route.endpoint_gid)
            return acceptance

    async def accept_for_within(
        self,
        connection: AsyncConnection,
        publication: Publication,
        route: Route,
        faults: Mapping[str, Fault] = NO_FAULTS,
    ) -> Acceptance:
        """The same in the transaction of the caller, who calls `MessageService.start` after its commit. For an endpoint
        that was deleted, the message has no delivery."""
        publication = replace(publication, endpoint_gid=route.endpoint_gid)
        while not await _insert_messages(connection, [publication], faults):
            repeats = await _resolve_repeats(connection, [publication])
            if publication.message_gid in repeats:
                return repeats[publication.message_gid]
            await _release_keys(connection, [publication])
        [accepted] = await self._commit_deliveries(connection, [publication], [(publication, route)], {})
        return replace(accepted, fault=faults.get(publication.message_gid)) if faults else accepted

    async def matching(self, connection: AsyncConnection, publication: Publication) -> Sequence[Route]:
        """The routes that take a message now."""
        routes = (await self._routes.routes(connection, [publication.channel])).get(publication.channel)
        if routes is None:
            return ()
        [taking] = await match([_candidate(publication, routes)])
        return taking

    async def routes_to(self, connection: AsyncConnection, channel: str, endpoint_gid: str) -> Routes:
        """The routes of a channel that lead to one endpoint now."""
        routes = (await self._routes.routes(connection, [channel])).get(channel, ())
        return Routes.of((route for route in routes if route.endpoint_gid == endpoint_gid), ())

    async def taken(self, publications: Sequence[Publication], routes: Routes) -> list[list[Route]]:
        """Those of the routes that take each of the messages."""
        return await match([_candidate(publication, routes) for publication in publications])

    async def deliver_further(
        self, connection: AsyncConnection, publication: Publication, routes: Sequence[Route]
    ) -> Accepted:
        """Create further deliveries of a message that was accepted before, in the transaction of the caller. Its gates
        are not asked again."""
        [accepted] = await self.deliver_all_further(connection, [(publication, route) for route in routes])
        return accepted

    async def deliver_all_further(
        self,
        connection: AsyncConnection,
        legs: Sequence[tuple[Publication, Route]],
        columns: dict[str, Any] | None = None,
    ) -> Sequence[Accepted]:
        """The same for several messages, in their order. `columns` are further ones of the deliveries."""
        publications = list({publication.message_gid: publication for publication, _ in legs}.values())
        return await self._commit_deliveries(connection, publications, legs, {}, columns)

    def wake_queues(self, endpoint_gids: Collection[str]) -> None:
        """Wake the consumers of endpoints for which deliveries were queued in the transaction of the caller."""
        if self._on_queued is not None:
            self._on_queued(endpoint_gids)

    def wake(self, accepted: Accepted) -> None:
        """Wake the consumers that wait for a message that was accepted in the transaction of the caller."""
        self._committed([accepted])

    async def accept_within(
        self, connection: AsyncConnection, publications: Sequence[Publication]
    ) -> Sequence[Acceptance]:
        """Accept messages in the transaction of the caller. They are not counted as accepted, because no caller
        published them."""
        return await self._apply(connection, publications)

    async def _apply(self, connection: AsyncConnection, publications: Sequence[Publication]) -> Sequence[Acceptance]:
        routes = await self._routes.routes(connection, sorted({p.channel for p in publications}))
        known = [p for p in publications if p.channel in routes]
        addressed, refused = await _addressed(connection, known)
        chains, not_asked = await _chains(connection, known, routes)
        refused |= not_asked
        faults = await self._faults(connection, known, routes)
        rejected = [p for p in known if p.message_gid in faults and _rejects(p, routes)]
        results: dict[str, Acceptance] = {p.message_gid: PayloadRefused(faults[p.message_gid]) for p in rejected}
        results |= refused
        if results:  # one that was accepted before is not refused
            results |= await _resolve_repeats(connection, [p for p in known if p.message_gid in results and p.key])
            known = [p for p in known if p.message_gid not in results]
        inserted = await _insert_messages(connection, known, faults)
        if repeats := [p for p in known if p.message_gid not in inserted]:
            # Now: a message whose key can be used again keeps its place before later ones of its group.
            await _release_keys(connection, repeats)
            inserted |= await _insert_messages(connection, repeats, faults)
        new = [p for p in known if p.message_gid in inserted]
        accepted: list[Accepted] = []
        if later := [p for p in new if p.deliver_at is not None]:
            await insert_scheduled(connection, [_scheduled(p) for p in later])
            accepted = [_accepted(p) for p in later]
            new = [p for p in new if p.deliver_at is None]
        accepted += await self._deliver(connection, new, routes, addressed, chains)
        if faults:
            accepted = [replace(one, fault=faults.get(one.message_gid)) for one in accepted]
        results |= {one.message_gid: one for one in accepted}
        results |= await _resolve_repeats(connection, [p for p in known if p.message_gid not in inserted])
        if freed := [p for p in known if p.message_gid not in results]:
            await _release_keys(connection, freed)
            again = await self._apply(connection, freed)
            results |= {p.message_gid: result for p, result in zip(freed, again, strict=True)}
        return [results.get(p.message_gid) or UnknownChannel(p.channel) for p in publications]

    async def _faults(
        self, connection: AsyncConnection, publications: Sequence[Publication], routes: Mapping[str, Routes]
    ) -> Mapping[str, Fault]:
        """Of messages that do not fit the catalogue of event types, on channels that check it."""
        checked = [p for p in publications if routes[p.channel].validation is not ValidationMode.OFF]
        if not checked:
            return NO_FAULTS
        return await self._catalogue.faults(
            connection, [Checked(p.message_gid, p.event_type, p.content) for p in checked]
        )

    async def deliver_scheduled(self, connection: AsyncConnection, publication: Publication) -> Accepted | Refused:
        """Create the deliveries of a message that was accepted before, in the transaction of the caller, who calls
        `MessageService.start` after its commit."""
        routes = await self._routes.routes(connection, [publication.channel])
        routes.setdefault(publication.channel, Routes())
        addressed, refused = await _addressed(connection, [publication])
        chains, not_asked = await _chains(connection, [publication], routes)
        for refusal in (*refused.values(), *not_asked.values()):
            return refusal
        [accepted] = await self._deliver(connection, [publication], routes, addressed, chains)
        return accepted

    async def _deliver(
        self,
        connection: AsyncConnection,
        publications: Sequence[Publication],
        routes: Mapping[str, Routes],
        addressed: Mapping[str, Route],
        chains: Mapping[str, "_Chain"],
    ) -> list[Accepted]:
        """Match new messages with the routes of their channels, and create their deliveries. `addressed` are the routes
        of those that go to one endpoint, by message."""
        matched = [p for p in publications if p.message_gid not in addressed]
        taken = await match([_candidate(p, routes[p.channel]) for p in matched])
        taking: dict[str, Sequence[Route]] = {p.message_gid: routes for p, routes in zip(matched, taken, strict=True)}
        taking |= {gid: (route,) for gid, route in addressed.items()}
        legs = [(p, route) for p in publications for route in taking[p.message_gid]]  # groups go by their order
        accepted = await self._commit_deliveries(connection, publications, legs, chains)
        unrouted = [one.message_gid for one in accepted if not one.deliveries and not is_reserved(one.channel)]
        if unrouted:
            await connection.execute(update(Message).where(col(Message.gid).in_(unrouted)).values(is_unrouted=True))
        return accepted

    async def _commit_deliveries(
        self,
        connection: AsyncConnection,
        publications: Sequence[Publication],
        legs: Sequence["_Leg"],
        chains: Mapping[str, "_Chain"],
        columns: dict[str, Any] | None = None,
    ) -> list[Accepted]:
        """Insert one delivery for each leg. Those to an endpoint that cannot receive now are parked at once; those that
        consumers pull are queued. Those of a message with a gate wait for it; its first step is opened."""
        endpoint_gids = sorted({route.endpoint_gid for _, route in legs})
        found = (
            await endpoint_states(
                connection, endpoint_gids, lock_held=True, count_leases=self._direct.is_offered(endpoint_gids)
            )
            if legs
            else {}
        )
        states = {gid: state for gid, state in found.items() if not state.is_deleted}
        moment = now()
        may_probe = {gid for gid, state in states.items() if state.may_probe(moment)}
        rows: list[dict[str, Any]] = []
        queued: list[dict[str, Any]] = []
        tasks: list[dict[str, Any]] = []
        events: list[dict[str, Any]] = []
        deliveries: dict[str, list[AcceptedDelivery]] = {p.message_gid: [] for p in publications}
        new: dict[str, list[NewDelivery]] = {p.message_gid: [] for p in publications}
        to_claim: dict[str, set[str]] = {p.message_gid: set() for p in publications}
        turns = await _Turns.taken(connection, [leg for leg in legs if leg[1].endpoint_gid in states])
        for publication, route in legs:
            state = states.get(route.endpoint_gid)
            if state is None:
                continue  # deleted meanwhile
            delivery = self._input(publication, route)
            if turns.has_to_wait(publication, route, delivery):
                rows.append(queued_row(delivery, route.tenant_gid, moment, route.subscription_gid))
                accepted = AcceptedDelivery(delivery.delivery_gid, route.endpoint_gid, DeliveryStatus.QUEUED)
                deliveries[publication.message_gid].append(accepted)
                continue
            if (chain := chains.get(publication.message_gid)) is not None:
                if route.endpoint_gid in chain.asked:
                    continue  # it gets the message as a step
                rows.append(gated_row(delivery, route.tenant_gid, moment, route.subscription_gid))
                accepted = AcceptedDelivery(delivery.delivery_gid, route.endpoint_gid, DeliveryStatus.GATED)
                deliveries[publication.message_gid].append(accepted)
                continue
            if route.mode is DeliveryMode.INBOX:
                task = new_task(delivery, route, publication.task, publication.publisher, moment)
                bound = self._defaults.first_attempt_bound(delivery.policy)
                rows.append(asked_row(delivery, route.tenant_gid, moment, moment + bound, route.subscription_gid))
                tasks.append(task)
                events += opened_events(task, delivery, route.options)
                new[publication.message_gid].append(NewDelivery(delivery))
                accepted = AcceptedDelivery(delivery.delivery_gid, route.endpoint_gid, DeliveryStatus.AWAITING_DECISION)
                deliveries[publication.message_gid].append(accepted)
                continue
            if route.mode.is_pulled:
                rows.append(pulled_row(delivery, route.tenant_gid, moment, route.subscription_gid))
                row = queue_row(delivery.delivery_gid, route.endpoint_gid, moment, delivery.policy)
                if not await self._direct.lease(connection, state, delivery, _content(publication), row):
                    to_claim[publication.message_gid].add(route.endpoint_gid)
                queued.append(row)
                accepted = AcceptedDelivery(delivery.delivery_gid, route.endpoint_gid, DeliveryStatus.AVAILABLE)
                deliveries[publication.message_gid].append(accepted)
                continue
            goes_out = state.sends or route.endpoint_gid in may_probe
            may_probe.discard(route.endpoint_gid)
            bound = self._defaults.first_attempt_bound(delivery.policy) if goes_out else delivery.policy.max_window
            row = delivery_row(
                delivery,
                route.tenant_gid,
                moment,
                due_at=moment + bound,
                parked=not goes_out,
                subscription_gid=route.subscription_gid,
            )
            rows.append(row)
            status = DeliveryStatus.ACCEPTED if goes_out else DeliveryStatus.PARKED
            accepted = AcceptedDelivery(delivery.delivery_gid, delivery.endpoint_gid, status)
            deliveries[publication.message_gid].append(accepted)
            if goes_out:
                snapshot = _snapshot(delivery, publication, state, moment)
                new[publication.message_gid].append(NewDelivery(delivery, snapshot))
        gates: list[dict[str, Any]] = []
        for publication in publications if chains else ():
            if (chain := chains.get(publication.message_gid)) is not None:
                opened, gate = chain.rows(publication, moment, self._defaults)
                rows.append(opened.delivery)
                tasks.append(opened.task)
                events += opened.events
                gates.append(gate)
                new[publication.message_gid].append(NewDelivery(opened.input))
                deliveries[publication.message_gid].append(
                    AcceptedDelivery(
                        opened.delivery["gid"], opened.delivery["endpoint_gid"], DeliveryStatus.AWAITING_DECISION
                    )
                )
        _complete(rows, publications)
        if rows:
            await connection.execute(insert_into(Delivery), [row | columns for row in rows] if columns else rows)
        if turns.rows:
            await insert_grouped(connection, turns.rows)
        if gates:
            await insert_gates(connection, gates)
        if queued:
            await enqueue(connection, queued)
        if tasks:
            await connection.execute(insert_into(Task), tasks)
        if events:
            await connection.execute(insert_into(OperationalEvent), events)
        return [
            replace(
                _accepted(p),
                deliveries=tuple(deliveries[p.message_gid]),
                new=tuple(new[p.message_gid]),
                queued=frozenset(to_claim[p.message_gid]),
            )
            for p in publications
        ]

    def _committed(self, acceptances: Sequence[Acceptance]) -> None:
        new = [one for one in acceptances if isinstance(one, Accepted) and not one.duplicate]
        MESSAGES_ACCEPTED.inc(len(new))
        for one in acceptances:
            if isinstance(one, PayloadRefused):
                VALIDATION_FAILURES.labels(ValidationMode.REJECT, one.fault.kind).inc()
            elif isinstance(one, Accepted) and one.fault is not None:
                VALIDATION_FAILURES.labels(ValidationMode.WARN, one.fault.kind).inc()
        self.wake_queues({gid for one in new for gid in one.queued})

    def _input(self, publication: Publication, route: Route) -> DeliveryInput:
        if publication.single_attempt:
            route = replace(route, policy=one_attempt(route.policy))
        return first_input(
            publication.new_delivery_gid(),
            publication.message_gid,
            publication.channel,
            publication.event_type,
            route,
            self._defaults,
        )


def _complete(rows: Sequence[dict[str, Any]], publications: Sequence[Publication]) -> None:
    """Add what deliveries have of their messages. All deliveries of a message have gids and times of the time at which
    it was accepted: queries and retention rely on it."""
    special = {p.message_gid: p for p in publications if p.accepted_at or p.single_attempt or p.group_key}
    for row in rows if special else ():
        if (publication := special.get(row["message_gid"])) is not None:
            row["accepted_at"] = publication.accepted_at or row["accepted_at"]
            row["single_attempt"] = publication.single_attempt or None
            row["group_key"] = publication.group_key


def _rejects(publication: Publication, routes: Mapping[str, Routes]) -> bool:
    return routes[publication.channel].validation is ValidationMode.REJECT


def _accepted(publication: Publication) -> Accepted:
    """An accepted message, without deliveries yet."""
    return Accepted(
        message_gid=publication.message_gid,
        channel=publication.channel,
        event_type=publication.event_type,
        published_at=publication.published_at,
        deliveries=(),
        deliver_at=publication.deliver_at,
    )


def _scheduled(publication: Publication) -> dict[str, Any]:
    document = {
        "task": dict(publication.task),
        "gates": [step.document for step in publication.gates] if publication.gates is not None else None,
        "publisher": publication.publisher.name,
    }
    return {"message_gid": publication.message_gid, "deliver_at": publication.deliver_at, "document": document}


def _require_possible(index: int, acceptance: Acceptance) -> None:
    if isinstance(acceptance, Refused):
        raise InvalidField(f"messages[{index}].{acceptance.field}", acceptance.message)
    if isinstance(acceptance, PayloadRefused):
        raise acceptance.fault.error(f"messages[{index}].")


def _require_accepted(index: int, acceptance: Acceptance) -> None:
    _require_possible(index, acceptance)
    if isinstance(acceptance, UnknownChannel):
        raise InvalidField(f"messages[{index}].channel", f"there is no channel {acceptance.channel}")
    if isinstance(acceptance, KeyReused):
        raise IdempotencyKeyReused(
            f"messages[{index}].idempotencyKey: was used for {acceptance.message_gid} with another body. Nothing was "
            "published."
        )


NO_GROUP = "cannot be combined with a gate: a message that waits for people would hold up its group"
NO_ENDPOINT = "there is no such endpoint"
"""Also for one of another tenant: callers cannot distinguish the two."""

_Leg = tuple[Publication, Route]
"""A new message and a route that takes it."""


def _candidate(publication: Publication, routes: Routes) -> Candidate:
    return Candidate(
        publication.reach,
        publication.event_type,
        publication.payload,
        publication.content,
        routes,
        publication.attributes,
    )


class _Turns:
    """The turns of new deliveries in their groups. `rows` are their positions, for `insert_grouped`."""

    def __init__(self, positions: Mapping[Group, Positions]) -> None:
        self._free = {group for group, each in positions.items() if each.is_free}
        self._next = {group: each.first for group, each in positions.items()}
        self.rows: list[dict[str, Any]] = []

    @classmethod
    async def taken(cls, connection: AsyncConnection, legs: Sequence["_Leg"]) -> "_Turns":
        """Take positions for deliveries that are to be created. Reads and writes nothing unless some have a group."""
        groups = Counter(_group(publication, route) for publication, route in legs if publication.group_key is not None)
        del groups[None]
        return cls(await take_positions(connection, {group: n for group, n in groups.items() if group is not None}))

    def has_to_wait(self, publication: Publication, route: Route, delivery: DeliveryInput) -> bool:
        """Whether a delivery waits for others. Asked once for each, in their order."""
        group = _group(publication, route)
        if group is None:
            return False
        position, self._next[group] = self._next[group], self._next[group] + 1
        self.rows.append(
            {
                "delivery_gid": delivery.delivery_gid,
                "endpoint_gid": group[0],
                "group_key": group[1],
                "position": position,
            }
        )
        is_first, self._free = group in self._free, self._free - {group}
        return not is_first


def _group(publication: Publication, route: Route) -> Group | None:
    """The group of a delivery. A further delivery of a message that was accepted before goes out of order."""
    if publication.group_key is None or not is_ordered(route.mode):
        return None
    return route.endpoint_gid, publication.group_key


@dataclass(frozen=True)
class _Chain:
    """The steps of a gate, of which at least one is asked. `inboxes` are those of the steps that are asked."""

    steps: Sequence[Step]
    matching: frozenset[int]
    inboxes: Mapping[str, Route]

    @property
    def asked(self) -> Collection[str]:
        """The inboxes of the steps that are asked."""
        return {self.steps[index].inbox for index in self.matching}

    def rows(
        self, publication: Publication, moment: datetime, defaults: InputDefaults
    ) -> tuple[Asking, dict[str, Any]]:
        """The rows of the first step, and that of the gate.

        The deliveries of later steps have their gids from the beginning: all deliveries of a message have gids of the
        time at which it was accepted.
        """
        first = min(self.matching)
        steps = [
            {
                **step.document,
                **({"deliveryGid": publication.new_delivery_gid()} if at in self.matching else {"skipped": True}),
            }
            for at, step in enumerate(self.steps)
        ]
        inbox, delivery_gid = self.inboxes[self.steps[first].inbox], steps[first]["deliveryGid"]
        delivery = first_input(
            delivery_gid, publication.message_gid, publication.channel, publication.event_type, inbox, defaults
        )
        task = task_of(steps[first], publication.task)
        gate = {
            "gid": new_gid(Kind.GATE),
            "message_gid": publication.message_gid,
            "steps": steps,
            "step": first,
            "delivery_gid": delivery_gid,
            "task": dict(publication.task),
            "state": GateState.OPEN,
            "created_at": moment,
        }
        return asking(delivery, inbox, task, publication.publisher, defaults, moment, moment), gate


def _content(publication: Publication) -> Content:
    return Content(
        publication.message_gid,
        publication.channel,
        publication.event_type,
        publication.payload,
        publication.published_at,
        publication.attributes,
    )


async def _addressed(
    connection: AsyncConnection, publications: Sequence[Publication]
) -> tuple[dict[str, Route], dict[str, Refused]]:
    """The routes of messages that go to one endpoint, by their gids, and those that cannot go there. Reads nothing
    unless there are any."""
    addressed = [(p, (p.channel, p.endpoint_gid)) for p in publications if p.endpoint_gid is not None]
    if not addressed:
        return {}, {}
    found = await endpoint_routes(connection, {key for _, key in addressed})
    routes: dict[str, Route] = {}
    refused: dict[str, Refused] = {}
    for publication, key in addressed:
        route = found.get(key)
        if route is None or not publication.reach.has(route.endpoint_gid, route.tenant_gid):
            refused[publication.message_gid] = Refused("endpointGid", NO_ENDPOINT)
        else:
            routes[publication.message_gid] = route
    return routes, refused


async def _chains(
    connection: AsyncConnection, publications: Sequence[Publication], routes: Mapping[str, Routes]
) -> tuple[Mapping[str, _Chain], Mapping[str, Refused]]:
    """The gates of messages, by their gids, and those that cannot be asked. Messages without a step that is asked are
    left out. Reads nothing unless there are gates."""
    gated = [(p, steps) for p in publications if (steps := routes[p.channel].gates if p.gates is None else p.gates)]
    if not gated:
        return {}, {}
    found = await inboxes(connection, {step.inbox for _, steps in gated for step in steps})
    chains: dict[str, _Chain] = {}
    refused: dict[str, Refused] = {}
    for publication, steps in gated:
        if (refusal := _refusal(publication, steps, found)) is not None:
            refused[publication.message_gid] = refusal
        elif matching := await match_steps(steps, publication.payload, publication.content, publication.attributes):
            if publication.group_key is not None:
                refused[publication.message_gid] = Refused("groupKey", NO_GROUP)
            chains[publication.message_gid] = _Chain(steps, matching, found)
    return chains, refused


def _refusal(publication: Publication, steps: Sequence[Step], found: Mapping[str, Route]) -> Refused | None:
    """Inboxes may be asked about what their endpoints may receive, as with subscriptions."""
    for index, step in enumerate(steps):
        inbox = found.get(step.inbox)
        if inbox is None or not publication.reach.has(inbox.endpoint_gid, inbox.tenant_gid):
            what = NO_INBOX
            if publication.gates is None:
                what = (
                    "the channel's gate cannot be asked: this inbox was deleted, or belongs to another tenant than the "
                    "message. Send other `gates`, or change those of the channel"
                )
            return Refused(f"gates[{index}].inbox", what)
    return None


def _snapshot(
    delivery: DeliveryInput, publication: Publication, state: EndpointState, moment: datetime
) -> DeliverySnapshot:
    return DeliverySnapshot(
        gid=delivery.delivery_gid,
        status=DeliveryStatus.ACCEPTED,
        round=delivery.round,
        attempts=0,
        message_gid=publication.message_gid,
        channel=publication.channel,
        event_type=publication.event_type,
        payload=publication.payload,
        published_at=publication.published_at,
        accepted_at=moment,
        traceparent=publication.traceparent,
        attributes=publication.attributes,
        group_key=publication.group_key,
        is_scheduled=publication.accepted_at is not None,
        endpoint_version=state.version,
        endpoint_deleted=False,
        state=state.state,
        hold=state.hold,
        failures=state.failures,
    )


async def _insert_messages(
    connection: AsyncConnection, publications: Sequence[Publication], faults: Mapping[str, Fault] = NO_FAULTS
) -> set[str]:
    """Insert messages and return the gids of those that were new."""
    taken = await _take_keys(connection, [p for p in publications if p.key is not None])
    new = [p for p in publications if p.key is None or p.message_gid in taken]
    if not new:
        return set()
    accepted_at = now()
    rows = [
        {
            "gid": p.message_gid,
            "tenant_gid": p.tenant_gid,
            "channel": p.channel,
            "event_type": p.event_type,
            "payload": p.payload,
            "body_sha256": p.body_sha256,
            "idempotency_scope": p.tenant_gid or "",
            "idempotency_key": p.idempotency_key,
            "published_at": p.published_at,
            "accepted_at": accepted_at,
            "traceparent": p.traceparent,
            "published_by": p.publisher.key_gid,
            "attributes": dict(p.attributes) if p.attributes else None,
            "endpoint_gid": p.endpoint_gid,
            "single_attempt": p.single_attempt or None,
            "deliver_at": p.deliver_at,
            "validation_error": str(faults[p.message_gid]) if p.message_gid in faults else None,
            "group_key": p.group_key,
        }
        for p in sorted(new, key=lambda p: p.key or ("", "", ""))
    ]
    await connection.execute(insert_into(Message), rows)
    return {p.message_gid for p in new}


async def _take_keys(connection: AsyncConnection, keyed: Sequence[Publication]) -> set[str]:
    """Insert idempotency keys and return the gids of the messages whose key was free. Rows are sorted by key, so that
    two processes cannot deadlock."""
    rows = [
        {"idempotency_scope": scope, "channel": channel, "idempotency_key": key, "message_gid": gid}
        for (scope, channel, key), gid in sorted((p.key, p.message_gid) for p in keyed if p.key is not None)
    ]
    if not rows:
        return set()
    statement = insert_ignoring(
        connection, MessageKey, "idempotency_scope", "channel", "idempotency_key", returning="message_gid"
    )
    return set((await connection.execute(statement, rows)).scalars())


async def _release_keys(connection: AsyncConnection, publications: Sequence[Publication]) -> None:
    """Release keys whose message was deleted."""
    taken = tuple_(col(MessageKey.idempotency_scope), col(MessageKey.channel), col(MessageKey.idempotency_key))
    await connection.execute(
        delete(MessageKey).where(
            taken.in_(sorted({p.key for p in publications if p.key is not None})),
            ~exists().where(col(Message.gid) == col(MessageKey.message_gid)),
        )
    )


async def _resolve_repeats(connection: AsyncConnection, repeats: Sequence[Publication]) -> dict[str, Acceptance]:
    """Resolve publications whose key is taken: to the first message with the key, or to `KeyReused` if its body
    differs. Those whose key was released, or whose first message was deleted, are left out."""
    if not repeats:
        return {}
    scope, channel, key = col(MessageKey.idempotency_scope), col(MessageKey.channel), col(MessageKey.idempotency_key)
    rows = await connection.execute(
        select(
            scope,
            channel,
            key,
            col(Message.gid),
            col(Message.event_type),
            col(Message.body_sha256),
            col(Message.published_at),
            col(Message.deliver_at),
        )
        .join(Message, col(Message.gid) == col(MessageKey.message_gid))
        .where(tuple_(scope, channel, key).in_({p.key for p in repeats}))
    )
    first = {(row.idempotency_scope, row.channel, row.idempotency_key): row for row in rows}
    deliveries = await _deliveries_of(connection, [row.gid for row in first.values()])
    results: dict[str, Acceptance] = {}
    for p in repeats:
        row = first.get(p.key or ("", "", ""))
        if row is None:
            continue
        if row.body_sha256 != p.body_sha256:
            results[p.message_gid] = KeyReused(row.gid)
            continue
        results[p.message_gid] = Accepted(
            message_gid=row.gid,
            channel=row.channel,
            event_type=row.event_type,
            published_at=row.published_at,
            deliveries=tuple(deliveries.get(row.gid, ())),
            duplicate=True,
            deliver_at=row.deliver_at,
        )
    return results


async def _deliveries_of(connection: AsyncConnection, message_gids: Sequence[str]) -> dict[str, list[AcceptedDelivery]]:
    rows = await connection.execute(
        select(col(Delivery.message_gid), col(Delivery.gid), col(Delivery.endpoint_gid), col(Delivery.status))
        .where(col(Delivery.message_gid).in_(message_gids))
        .order_by(col(Delivery.gid))
    )
    found: dict[str, list[AcceptedDelivery]] = {}
    for row in rows:
        found.setdefault(row.message_gid, []).append(AcceptedDelivery(row.gid, row.endpoint_gid, row.status))
    return found


@dataclass(frozen=True)
class MessageFilter:
    """Several values of a field mean any of them. `since` (inclusive) and `until` (exclusive) bound the time of
    acceptance. `is_unrouted`: only those that no endpoint took."""

    tenant_gid: str | tuple[str, ...] | None = None
    channel: str | tuple[str, ...] | None = None
    event_type: str | tuple[str, ...] | None = None
    since: datetime | None = None
    until: datetime | None = None
    is_unrouted: bool = False


_IS_UNROUTED = text("message.is_unrouted")
"""Written like its index: SQLite uses the index for no other spelling."""


async def get(session: AsyncSession, gid: str) -> Message | None:
    return await session.get(Message, gid)


async def page(session: AsyncSession, chosen: MessageFilter, *, after: str | None, limit: int) -> Page[Message]:
    """One page of messages, newest first, without payloads."""
    statement = select(Message).options(defer(Message.payload))  # type: ignore[arg-type]
    statement = statement.where(
        *one_of(col(Message.tenant_gid), chosen.tenant_gid),
        *one_of(col(Message.channel), chosen.channel),
        *one_of(col(Message.event_type), chosen.event_type),
        *([_IS_UNROUTED] if chosen.is_unrouted else ()),
    )
    key = col(Message.gid)
    statement = statement.where(*in_time(col(Message.accepted_at), key, Kind.MESSAGE, chosen.since, chosen.until))
    return await page_of(session, statement, key, after=after, limit=limit)
