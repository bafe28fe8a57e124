"""The pages of a replay of a channel.

Each page is one transaction, which opens rounds, counts them, and moves the position of the replay if it still is where
the page begins. So a page that runs twice, or in two workers at once, opens its rounds once. The workflows are started
after the commit; if the process dies before that, the reconciler starts them once they are due.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from everhook.audit.store import Actor
from everhook.batches import store as batches
from everhook.contracts import ReplayProgress
from everhook.delivery.inputs import NewDelivery
from everhook.delivery.inputs_store import InputDefaults, load_inputs_of
from everhook.publishing.matching import matches_type
from everhook.publishing.publication import Publication
from everhook.publishing.routing import Routes
from everhook.publishing.store import Acceptor
from everhook.redelivery import store
from everhook.redelivery.rounds import is_addressed, open_round, publication_of
from everhook.redelivery.store import MessageGate
from everhook.redelivery.windows_store import STATUSES, Found, ReplaySelection, read_window
from everhook.storage.engine import Database, Session
from everhook.storage.tables import Batch, BatchState, GateState, now

WINDOW = 1_000
"""Entries of an index that one statement reads."""

MATCHED_BEFORE = 3
"""How often the messages of a page are matched before its transaction. If the routes change each time, they are matched
in it."""


@dataclass(frozen=True)
class ReplayPage:
    """A part of a replay. `gids` are of deliveries, or of messages that the endpoint never had. It begins at `start`
    and ends at `end`; with `is_last` nothing follows."""

    batch_gid: str
    is_backfill: bool
    gids: Sequence[str]
    start: str
    end: str
    is_last: bool


@dataclass(frozen=True)
class OpenedPage:
    """A committed page, with `started` deliveries. `new` are those to be started, `queued` the endpoints
    whose queues have deliveries, `messages` those that are sent. `progress` is that of the whole replay."""

    started: int
    new: Sequence[NewDelivery]
    queued: frozenset[str]
    messages: frozenset[str]
    progress: ReplayProgress


@dataclass(frozen=True)
class _Matches:
    """Which messages the routes to an endpoint take: the `publications` by message, and in `taking` the place of the
    route that takes them."""

    routes: Routes = field(default_factory=Routes)
    publications: Mapping[str, Publication] = field(default_factory=dict)
    taking: Mapping[str, int] = field(default_factory=dict)


class _RoutesChanged(Exception):
    """The routes to the endpoint are not those that a page was matched with."""


@dataclass
class _Opening:
    started: int = 0
    skipped: int = 0
    erased: int = 0
    new: Sequence[NewDelivery] = ()
    queued: frozenset[str] = frozenset()
    messages: frozenset[str] = frozenset()


class ReplayPages:
    def __init__(self, database: Database, acceptor: Acceptor, defaults: InputDefaults) -> None:
        self._database = database
        self._acceptor = acceptor
        self._defaults = defaults

    async def next_pages(self, batch_gid: str, size: int) -> Sequence[ReplayPage]:
        """The pages of the next window, each of at most `size` deliveries. Empty if the replay has ended, or was
        deleted with its tenant."""
        async with self._database.reading() as session:
            batch = await batches.find_replay(session, batch_gid)
            if batch is None or batch.state is not BatchState.RUNNING:
                return ()
            connection = await session.connection()
            selection = ReplaySelection.of(batch)
            window = await read_window(connection, selection, batch.position, WINDOW)
            found: Sequence[Found] = window.found
            if selection.is_backfill:
                routes = await self._acceptor.routes_to(
                    connection, ReplaySelection.of(batch).channel, batch.endpoint_gid or ""
                )
                found = of_types(found, routes)
        return list(_pages(batch, [one.gid for one in found], window.end, window.is_last, size))

    async def running(self) -> int:
        """How many replays run at the same time."""
        async with self._database.read_connection() as connection:
            return await batches.running(connection)

    async def progress(self, batch_gid: str) -> ReplayProgress:
        async with self._database.reading() as session:
            batch = await batches.find_replay(session, batch_gid)
        return _progress(batch) if batch is not None else ReplayProgress(more=False)

    async def cancel(self, batch_gid: str, actor: Actor) -> None:
        """End a replay, if it has not ended."""
        async with self._database.writing() as session:
            batch = await batches.find_replay(session, batch_gid, for_change=True)
            if batch is not None and batch.state is BatchState.RUNNING:
                batches.end_cancelled(session, actor, batch)

    async def open(self, page: ReplayPage) -> OpenedPage | None:
        """Open the rounds of a page. None if the replay is not at its start any more: it was cancelled, or another
        worker has done it."""
        for _ in range(MATCHED_BEFORE):
            matches = await self._match_before(page)
            try:
                return await self._commit(page, matches)
            except _RoutesChanged:
                continue
        return await self._commit(page, None)

    async def _match_before(self, page: ReplayPage) -> _Matches:
        """Match messages before the writer and their rows are locked: filters of many messages may take long."""
        if not page.is_backfill or not page.gids:
            return _Matches()
        async with self._database.reading() as session:
            batch = await batches.find_replay(session, page.batch_gid)
            if batch is None:
                return _Matches()
            routes, publications = await self._to_match(session, batch, page.gids)
        return await self._match(routes, publications)

    async def _to_match(
        self, session: Session, batch: Batch, gids: Sequence[str]
    ) -> tuple[Routes, Sequence[Publication]]:
        connection = await session.connection()
        routes = await self._acceptor.routes_to(connection, ReplaySelection.of(batch).channel, batch.endpoint_gid or "")
        messages = [message for message in await store.load_messages(session, gids) if message.payload is not None]
        gates = await store.gates_of(connection, gids)
        publishers = await store.key_names(connection, {m.published_by for m in messages if m.published_by is not None})
        return routes, [publication_of(message, gates.get(message.gid), publishers, None) for message in messages]

    async def _match(self, routes: Routes, publications: Sequence[Publication]) -> _Matches:
        taken = await self._acceptor.taken(publications, routes)
        taking = {
            publication.message_gid: routes.index(taking[0])
            for publication, taking in zip(publications, taken, strict=True)
            if taking
        }
        return _Matches(routes, {each.message_gid: each for each in publications}, taking)

    async def _commit(self, page: ReplayPage, matches: _Matches | None) -> OpenedPage | None:
        """The transaction of a page. Without `matches` the messages are matched in it. Raises _RoutesChanged."""
        async with self._database.writing() as session:
            batch = await batches.find_replay(session, page.batch_gid, for_change=True)
            if batch is None or batch.state is not BatchState.RUNNING or batch.position != page.start:
                return None
            opening = _Opening()
            if page.gids and page.is_backfill:
                opening = await self._deliver(session, batch, page.gids, matches)
            elif page.gids:
                opening = await self._reopen(session, batch, page.gids)
            moment = now()
            batch.position, batch.updated_at = page.end, moment
            batch.started += opening.started
            batch.skipped += opening.skipped
            batch.erased += opening.erased
            if page.is_last:
                batch.state, batch.ended_at = BatchState.COMPLETED, moment
                batch.matched = batch.started + batch.skipped + batch.erased
                batch.matched_at_least = False
            session.add(batch)
        return OpenedPage(opening.started, opening.new, opening.queued, opening.messages, _progress(batch))

    async def _reopen(self, session: Session, batch: Batch, gids: Sequence[str]) -> _Opening:
        """Open the next round of deliveries, if they still have a status that is wanted."""
        messages = await store.messages_of(session, gids)
        sendable = await store.lock_payloads(session, messages)
        connection = await session.connection()
        gates = await store.gates_of(connection, messages)
        legs = await store.lock_legs(session, gids)
        opening, moment, opened = _Opening(), now(), []
        wanted = STATUSES[ReplaySelection.of(batch).mode]
        for leg in legs:
            row = leg.delivery
            if row.message_gid not in sendable:
                opening.erased += 1
            elif row.status in wanted and not leg.endpoint_deleted and _has_passed(gates.get(row.message_gid), row.gid):
                await open_round(session, self._defaults, leg, batch.actor, batch.reason, moment)
                opened.append(leg)
        await session.flush()
        opening.started = len(opened)
        opening.skipped = len(gids) - opening.started - opening.erased
        opening.messages = frozenset(leg.delivery.message_gid for leg in opened)
        opening.queued = frozenset(leg.delivery.endpoint_gid for leg in opened if leg.mode.is_pulled)
        if opened:
            inputs = await load_inputs_of(connection, self._defaults, [leg.delivery.gid for leg in opened])
            opening.new = [NewDelivery(input) for input in inputs]
        return opening

    async def _deliver(self, session: Session, batch: Batch, gids: Sequence[str], matches: _Matches | None) -> _Opening:
        """Create the deliveries of messages that an endpoint never had and subscribes to now."""
        assert batch.endpoint_gid is not None
        connection = await session.connection()
        messages = await store.lock_messages(connection, gids)
        if matches is None:
            matches = await self._match(*await self._to_match(session, batch, gids))
        routes = await self._acceptor.routes_to(connection, ReplaySelection.of(batch).channel, batch.endpoint_gid)
        if routes != matches.routes:
            raise _RoutesChanged
        excluded = await store.not_open_to(connection, gids, batch.endpoint_gid)
        opening, legs = _Opening(skipped=len(gids) - len(messages)), []
        for message in messages:
            if not message.has_payload:
                opening.erased += 1
            elif message.gid in excluded or message.is_cancelled or is_addressed(message):
                opening.skipped += 1
            elif message.gid in matches.taking:
                legs.append((matches.publications[message.gid], routes[matches.taking[message.gid]]))
        if not legs:
            return opening
        accepted = await self._acceptor.deliver_all_further(
            connection, legs, {"decided_by": batch.actor, "decided_why": batch.reason}
        )
        deliveries = [delivery for one in accepted for delivery in one.deliveries]
        if not deliveries:  # the endpoint was deleted a moment ago
            opening.skipped += len(legs)
            return opening
        await store.insert_first_rounds(connection, [each.delivery_gid for each in deliveries], now())
        sent = {one.message_gid for one in accepted if one.deliveries}
        if unrouted := [message.gid for message in messages if message.is_unrouted and message.gid in sent]:
            await store.mark_routed(connection, unrouted)
        opening.started = len(deliveries)
        opening.new = [each for one in accepted for each in one.new]
        opening.queued = frozenset(gid for one in accepted for gid in one.queued)
        opening.messages = frozenset(sent)
        return opening


def of_types(found: Collection[Found], routes: Routes) -> list[Found]:
    """The messages whose type a route takes."""
    return [one for one in found if any(matches_type(one.event_type, route.events) for route in routes)]


def _pages(batch: Batch, gids: Sequence[str], end: str, is_last: bool, size: int) -> Iterator[ReplayPage]:
    """The pages of a window. One without deliveries is a page as well: it moves the position, and may be the last."""
    start, is_backfill = batch.position, ReplaySelection.of(batch).is_backfill
    for first in range(0, max(len(gids), 1), size):
        some, is_final = gids[first : first + size], first + size >= len(gids)
        page_end = end if is_final else some[-1]
        yield ReplayPage(batch.gid, is_backfill, some, start, page_end, is_last=is_last and is_final)
        start = page_end


def _progress(batch: Batch) -> ReplayProgress:
    return ReplayProgress(
        more=batch.state is BatchState.RUNNING,
        position=batch.position,
        started=batch.started,
        skipped=batch.skipped,
        erased=batch.erased,
    )


def _has_passed(gate: MessageGate | None, delivery_gid: str) -> bool:
    """Whether a message may be sent again: a replay must not bypass the people who decide about it, and does not
    ask them again by a step of its gate."""
    return gate is None or (gate.state is GateState.PASSED and delivery_gid not in gate.asked)
