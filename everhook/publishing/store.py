"""Accepting messages: the transaction of every `202`, and reading messages."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import delete, exists, select, text, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import defer
from sqlmodel import col

from everhook.delivery.inputs_store import InputDefaults
from everhook.errors import IdempotencyKeyReused, InvalidField, NotFound
from everhook.event_types.modes import ValidationMode
from everhook.event_types.schemas import Fault
from everhook.event_types.store import Catalogue, Checked
from everhook.ids import Kind
from everhook.notifications.events import is_reserved
from everhook.observability.metrics import MESSAGES_ACCEPTED, VALIDATION_FAILURES
from everhook.publishing.creation_store import Chain, DeliveryCreator
from everhook.publishing.fan_out import Candidate, match, match_steps
from everhook.publishing.gates import NO_INBOX, Step
from everhook.publishing.gates_store import inboxes
from everhook.publishing.publication import (
    NO_FAULTS,
    Acceptance,
    Accepted,
    AcceptedDelivery,
    KeyReused,
    PayloadRefused,
    Publication,
    Refused,
    UnknownChannel,
)
from everhook.publishing.routes_store import RouteCache, endpoint_routes
from everhook.publishing.routing import Route, Routes
from everhook.publishing.schedules_store import insert_scheduled
from everhook.pulling.direct import DirectHandOut
from everhook.storage.batching import BatchExecutor
from everhook.storage.engine import Database, once_more_if_outdated
from everhook.storage.paging import Page, in_time, one_of, page_of
from everhook.storage.statements import insert_ignoring, insert_into
from everhook.storage.tables import Delivery, Message, MessageKey, now


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
        self._on_queued = on_queued
        self._direct = direct or DirectHandOut()
        self._creator = DeliveryCreator(defaults, self._direct)
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
        [accepted] = await self._creator.create(connection, [publication], [(publication, route)], {})
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
        return await self._creator.create(connection, publications, legs, {}, columns)

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
            accepted = [Accepted.without_deliveries(p) for p in later]
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
        chains: Mapping[str, Chain],
    ) -> list[Accepted]:
        """Match new messages with the routes of their channels, and create their deliveries. `addressed` are the routes
        of those that go to one endpoint, by message."""
        matched = [p for p in publications if p.message_gid not in addressed]
        taken = await match([_candidate(p, routes[p.channel]) for p in matched])
        taking: dict[str, Sequence[Route]] = {p.message_gid: routes for p, routes in zip(matched, taken, strict=True)}
        taking |= {gid: (route,) for gid, route in addressed.items()}
        legs = [(p, route) for p in publications for route in taking[p.message_gid]]  # groups go by their order
        accepted = await self._creator.create(connection, publications, legs, chains)
        unrouted = [one.message_gid for one in accepted if not one.deliveries and not is_reserved(one.channel)]
        if unrouted:
            await connection.execute(update(Message).where(col(Message.gid).in_(unrouted)).values(is_unrouted=True))
        return accepted

    def _committed(self, acceptances: Sequence[Acceptance]) -> None:
        new = [one for one in acceptances if isinstance(one, Accepted) and not one.duplicate]
        MESSAGES_ACCEPTED.inc(len(new))
        for one in acceptances:
            if isinstance(one, PayloadRefused):
                VALIDATION_FAILURES.labels(ValidationMode.REJECT, one.fault.kind).inc()
            elif isinstance(one, Accepted) and one.fault is not None:
                VALIDATION_FAILURES.labels(ValidationMode.WARN, one.fault.kind).inc()
        self.wake_queues({gid for one in new for gid in one.queued})


def _rejects(publication: Publication, routes: Mapping[str, Routes]) -> bool:
    return routes[publication.channel].validation is ValidationMode.REJECT


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


def _candidate(publication: Publication, routes: Routes) -> Candidate:
    return Candidate(
        publication.reach,
        publication.event_type,
        publication.payload,
        publication.content,
        routes,
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
) -> tuple[Mapping[str, Chain], Mapping[str, Refused]]:
    """The gates of messages, by their gids, and those that cannot be asked. Messages without a step that is asked are
    left out. Reads nothing unless there are gates."""
    gated = [(p, steps) for p in publications if (steps := routes[p.channel].gates if p.gates is None else p.gates)]
    if not gated:
        return {}, {}
    found = await inboxes(connection, {step.inbox for _, steps in gated for step in steps})
    chains: dict[str, Chain] = {}
    refused: dict[str, Refused] = {}
    for publication, steps in gated:
        if (refusal := _refusal(publication, steps, found)) is not None:
            refused[publication.message_gid] = refusal
        elif matching := await match_steps(steps, publication.payload, publication.content, publication.attributes):
            if publication.group_key is not None:
                refused[publication.message_gid] = Refused("groupKey", NO_GROUP)
            chains[publication.message_gid] = Chain(steps, matching, found)
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
