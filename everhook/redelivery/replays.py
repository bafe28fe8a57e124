"""Use cases of replays of a channel: count what one would send, start it, follow it, cancel it.

Their progress is in the database, not in a workflow: it changes in the transactions that open the rounds, so it is
exact; it outlives Temporal's store; and a list of replays is one query within the scope of a tenant.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import structlog
from temporalio.client import Client
from temporalio.service import RPCError

from everhook.audit.store import Actor, record_audit
from everhook.batches import store as batches
from everhook.endpoints import store as endpoints
from everhook.endpoints.choice import FIELD, chosen_endpoint
from everhook.errors import BulkOperationRunning, EndpointDeleted, InvalidField, NotFound
from everhook.lifecycle.service import Viewer
from everhook.notifications.events import is_reserved
from everhook.publishing.routing import Routes
from everhook.publishing.store import Acceptor
from everhook.redelivery import store
from everhook.redelivery.pages import of_types
from everhook.redelivery.rounds import MAX_REASON, publication_of
from everhook.redelivery.starts import start_replay
from everhook.redelivery.windows_store import ReplaySelection, count_window, read_window
from everhook.storage.engine import Session
from everhook.storage.paging import any_of
from everhook.storage.tables import Batch, ReplayMode, now
from everhook.storage.tenant_scope import TenantScope
from everhook.tenants import store as tenants

COUNT_S = 2.0
"""How long a count goes on. What it has found by then is a lower bound."""

COUNT_ROWS = 10_000
LOADED_AT_ONCE = 50
"""Messages whose payloads are read to evaluate filters."""

MAX_RUNNING = 20
"""Replays at the same time. They share the rate, and a key of a tenant has one."""

log = structlog.get_logger()


@dataclass(frozen=True)
class ReplayRequest:
    """What to replay, as a caller names it: see `ReplaySelection`. `until` is now if it is None."""

    channel: str
    mode: ReplayMode
    since: datetime
    until: datetime | None = None
    endpoint: str | None = None
    tenant: str | None = None
    types: Sequence[str] | None = None


@dataclass(frozen=True)
class PlannedReplay:
    """A replay that was checked and counted: `matched` deliveries, of which `erased` have no payload any more.
    `at_least`: there may be more, since counting all of them would take long."""

    selection: ReplaySelection
    matched: int
    erased: int
    at_least: bool

    @property
    def is_empty(self) -> bool:
        return not self.matched and not self.at_least


class ReplayService:
    def __init__(self, temporal: Client, acceptor: Acceptor) -> None:
        self._temporal = temporal
        self._acceptor = acceptor

    async def plan(self, scope: TenantScope, viewer: Viewer, request: ReplayRequest) -> PlannedReplay:
        """Check a replay and count what it would send. Raises NotFound, InvalidField and EndpointDeleted."""
        async with scope.reading() as session:
            selection = await _selection(session, scope, viewer, request)
            if selection.is_backfill:
                return await self._count_messages(session, selection)
            return await _count_deliveries(session, selection)

    async def create(self, session: Session, actor: Actor, planned: PlannedReplay, reason: str) -> Batch:
        """Record a replay. Call `start` after the commit. Raises InvalidField and BulkOperationRunning."""
        if len(reason) > MAX_REASON:
            raise InvalidField("reason", f"takes at most {MAX_REASON} characters", "string_too_long")
        selection = planned.selection
        in_all, of_tenant = await batches.running_for(await session.connection(), selection.tenant_gid)
        if in_all >= MAX_RUNNING or (selection.tenant_bound and of_tenant):
            which = "a replay of this tenant is" if in_all < MAX_RUNNING else f"{in_all} replays are"
            raise BulkOperationRunning(
                f"The maximum number of replays is reached: {which} running. Nothing was started."
            )
        batch = Batch(
            tenant_gid=selection.tenant_gid,
            tenant_bound=selection.tenant_bound,
            actor=actor.name,
            key_gid=actor.key_gid,
            published_by=selection.published_by,
            reason=reason,
            channel=selection.channel,
            mode=selection.mode,
            endpoint_gid=selection.endpoint_gid,
            event_types=list(selection.types),
            since=selection.since,
            until=selection.until,
            matched=planned.matched,
            matched_at_least=planned.at_least,
        )
        session.add(batch)
        detail = {
            "channel": batch.channel,
            "mode": selection.mode.value,
            "endpointGid": batch.endpoint_gid,
            "types": batch.event_types,
            "since": selection.since.isoformat(),
            "until": selection.until.isoformat(),
            "matched": batch.matched,
            "reason": reason,
        }
        record_audit(session, actor, "channel.replayed", batch.gid, tenant_gid=batch.tenant_gid, detail=detail)
        await session.flush()
        return batch

    async def start(self, batch: Batch) -> None:
        """Start the workflow of a replay that was committed. If Temporal is unavailable, the reconciler starts it."""
        try:
            await start_replay(self._temporal, batch.gid)
        except (RPCError, RuntimeError) as error:
            log.warning("a replay is started later", batch_gid=batch.gid, error=str(error))

    async def _count_messages(self, session: Session, selection: ReplaySelection) -> PlannedReplay:
        """Count the messages that an endpoint never had and subscribes to now; for filters their payloads are read."""
        assert selection.endpoint_gid is not None
        connection = await session.connection()
        routes = await self._acceptor.routes_to(connection, selection.channel, selection.endpoint_gid)
        if not routes:
            raise InvalidField(FIELD, f"has no subscription to {selection.channel}, so it misses no message of it")
        matched = erased = 0
        after, until = "", time.monotonic() + COUNT_S
        while True:
            window = await read_window(connection, selection, after, COUNT_ROWS)
            found = of_types(window.found, routes)
            sendable = [one.gid for one in found if one.has_payload]
            after, erased, matched = window.end, erased + len(found) - len(sendable), matched + len(found)
            if routes.have_filters:
                matched -= len(sendable)
                for first in range(0, len(sendable), LOADED_AT_ONCE):
                    if time.monotonic() >= until:
                        return PlannedReplay(selection, matched, erased, at_least=True)
                    matched += await self._count_taken(session, sendable[first : first + LOADED_AT_ONCE], routes)
            if window.is_last or time.monotonic() >= until:
                return PlannedReplay(selection, matched, erased, at_least=not window.is_last)

    async def _count_taken(self, session: Session, gids: Sequence[str], routes: Routes) -> int:
        """How many of these messages the filters of the routes take."""
        messages = await store.load_messages(session, gids)
        sendable = (message for message in messages if message.payload is not None)  # it may be erased meanwhile
        publications = [publication_of(message, None, {}, None) for message in sendable]
        return sum(map(bool, await self._acceptor.taken(publications, routes)))


async def _count_deliveries(session: Session, selection: ReplaySelection) -> PlannedReplay:
    connection = await session.connection()
    matched = erased = 0
    after, until = "", time.monotonic() + COUNT_S
    while True:
        window = await count_window(connection, selection, after, COUNT_ROWS)
        matched, erased, after = matched + window.matched, erased + window.erased, window.end
        if window.is_last or time.monotonic() >= until:
            return PlannedReplay(selection, matched, erased, at_least=not window.is_last)


async def _selection(session: Session, scope: TenantScope, viewer: Viewer, request: ReplayRequest) -> ReplaySelection:
    moment = now()
    until = min(request.until or moment, moment)
    if request.since >= until:
        raise InvalidField("since", "must be before `until`, and in the past")
    if not await batches.channel_exists(session, request.channel):
        raise NotFound("channel", request.channel)
    if request.endpoint is not None and request.tenant is not None:
        raise InvalidField("tenant", "cannot be given together with `endpointGid`")
    tenant_gid, endpoint_gid = scope.tenant_gid, None
    if request.tenant is not None:
        tenant_gid = (await tenants.named_tenant(session, request.tenant)).gid
    if request.endpoint is not None:
        endpoint_gid = await chosen_endpoint(session, request.endpoint)
        tenant_gid = await _owner(session, endpoint_gid)
    if request.mode is ReplayMode.MISSING:
        _require_backfill(request)
    return ReplaySelection(
        channel=request.channel,
        mode=request.mode,
        since=request.since,
        until=until,
        types=any_of(request.types) or (),
        endpoint_gid=endpoint_gid,
        tenant_gid=tenant_gid,
        tenant_bound=scope.tenant_gid is not None,
        published_by=viewer.publisher_gid,
    )


def _require_backfill(request: ReplayRequest) -> None:
    if request.endpoint is None:
        raise InvalidField(FIELD, "must be given for the mode `missing`: whose messages are missing?", "missing")
    if is_reserved(request.channel):
        raise InvalidField("mode", f"subscriptions do not decide who gets the messages of {request.channel}")


async def _owner(session: Session, endpoint_gid: str) -> str:
    """The tenant of an endpoint. Raises InvalidField, and EndpointDeleted."""
    view = await endpoints.view(session, endpoint_gid)
    if view is not None:
        return view.endpoint.tenant_gid
    if await endpoints.is_deleted(session, endpoint_gid):
        raise EndpointDeleted(f"Nothing can be replayed: {endpoint_gid} was deleted.")
    raise InvalidField(FIELD, "there is no such endpoint")
