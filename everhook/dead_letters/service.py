"""Use cases of dead letters: list and show them, replay or discard one, or all that match."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from everhook.audit.store import Actor, on_record
from everhook.batches.service import BatchService
from everhook.contracts import DeadLetterReason, DeliveryStatus, OperatorAction
from everhook.dead_letters import store as dead_letters
from everhook.dead_letters import visibility
from everhook.dead_letters.store import DeadLetterFilter
from everhook.delivery.service import DeliveryService
from everhook.delivery.starts import start_delivery
from everhook.endpoints import store as endpoints
from everhook.endpoints.choice import chosen_endpoints
from everhook.errors import (
    EndpointDeleted,
    InvalidField,
    NotADeadLetter,
    NotFound,
    PayloadErased,
)
from everhook.ids import Kind, new_gid
from everhook.publishing import erasure_store
from everhook.storage.engine import Session
from everhook.storage.paging import Page, any_of
from everhook.storage.tables import Batch, BatchKind, Delivery, Message, now
from everhook.storage.tenant_scope import TenantScope, tenant_bound
from everhook.temporal.client import TemporalClient
from everhook.tenants import store as tenants

MAX_REASON = 1_000
"""Characters of the reason for a decision."""


class Decision(StrEnum):
    """What is done with dead letters; the name of the signal that their workflows get."""

    REPLAY = "replay"
    DISCARD = "discard"


ACTIONS = {Decision.REPLAY: "dead_letter.replayed", Decision.DISCARD: "dead_letter.discarded"}
BULK_ACTIONS = {Decision.REPLAY: "dead_letters.replayed", Decision.DISCARD: "dead_letters.purged"}
"""Actions of the audit trail."""

BATCH_KINDS = {
    Decision.REPLAY: BatchKind.DEAD_LETTER_REPLAY,
    Decision.DISCARD: BatchKind.DEAD_LETTER_PURGE,
}


@dataclass(frozen=True)
class DeadLetterQuery:
    """Which dead letters: every part given must hold, by any of its values. `tenants` are names, `endpoints` gids or
    parts of URLs or descriptions, `subscriptions` gids, for lists only. `since` and `until` bound the time of
    dead-lettering: from, and before."""

    tenants: Sequence[str] | None = None
    channels: Sequence[str] | None = None
    endpoints: Sequence[str] | None = None
    subscriptions: Sequence[str] | None = None
    types: Sequence[str] | None = None
    reasons: Sequence[DeadLetterReason] | None = None
    status_codes: Sequence[int] | None = None
    since: datetime | None = None
    until: datetime | None = None

    def as_detail(self) -> dict[str, Any]:
        """The parts given, by their names in the API: for the audit trail."""
        parts = {
            "tenant": self.tenants,
            "channel": self.channels,
            "endpointGid": self.endpoints,
            "type": self.types,
            "deadLetterReason": self.reasons,
            "lastStatusCode": self.status_codes,
            "since": self.since.isoformat() if self.since is not None else None,
            "until": self.until.isoformat() if self.until is not None else None,
        }
        return {name: value for name, value in parts.items() if value is not None}


@dataclass(frozen=True)
class BulkOperation:
    """`matched`: how many dead letters it is for. `skipped`: how many more match that a replay leaves alone, because
    their endpoint was deleted. `batch_gid` is None if nothing was started."""

    matched: int
    skipped: int
    batch_gid: str | None = None


class DeadLetterService:
    def __init__(self, temporal: TemporalClient, deliveries: DeliveryService, batches: BatchService) -> None:
        self._temporal = temporal
        self._deliveries = deliveries
        self._batches = batches

    async def page(self, session: Session, query: DeadLetterQuery, *, after: str | None, limit: int) -> Page[Delivery]:
        """Newest message first. Raises InvalidField for a tenant or an endpoint that is not clear."""
        return await dead_letters.page(session, await _chosen(session, query), after=after, limit=limit)

    async def count(self, session: Session, query: DeadLetterQuery) -> int:
        """How many match. Raises InvalidField."""
        return await dead_letters.count(session, await _chosen(session, query))

    async def find(self, session: Session, gid: str) -> tuple[Delivery, Message]:
        """A dead letter and the message that it was to deliver. Raises NotFound, also for other deliveries."""
        try:
            delivery, message = await self._deliveries.find_with_message(session, gid)
        except NotFound as error:
            raise NotFound("dead letter", gid) from error
        if delivery.status is not DeliveryStatus.DEAD_LETTERED:
            raise NotFound("dead letter", gid)
        return delivery, message

    async def replay(self, scope: TenantScope, actor: Actor, gid: str, reason: str = "") -> Delivery:
        """Begin a new round of attempts. Returns the delivery as it was. Raises NotFound, NotADeadLetter, PayloadErased
        if nothing is left to send, and EndpointDeleted if there is nowhere to send to."""
        return await self._decide(Decision.REPLAY, scope, actor, gid, reason)

    async def discard(self, scope: TenantScope, actor: Actor, gid: str, reason: str = "") -> Delivery:
        """Give a dead letter up for good. Returns the delivery as it was. Raises NotFound and NotADeadLetter."""
        return await self._decide(Decision.DISCARD, scope, actor, gid, reason)

    async def decide_all(
        self,
        decision: Decision,
        scope: TenantScope,
        actor: Actor,
        query: DeadLetterQuery,
        *,
        reason: str = "",
        dry_run: bool = False,
    ) -> BulkOperation:
        """Replay or discard all that match now, as a Temporal batch operation; `dry_run` only counts. What is
        dead-lettered while the batch runs is left alone: it was not counted.

        Raises InvalidField, EndpointDeleted if a replay names deleted endpoints alone, and BulkOperationRunning.
        """
        _require_short(reason)
        skipped = 0
        asked_at = now()
        before = min(query.until or asked_at, asked_at)
        async with scope.reading() as session:
            chosen = replace(await _chosen(session, query), until=before)
            await _require_known(session, chosen)
            if decision is Decision.REPLAY:
                chosen = await _of_existing(session, chosen)
                skipped = await dead_letters.count(session, replace(chosen, of_deleted=True))
            matched = await dead_letters.count(session, chosen)
            if dry_run or not matched:
                return BulkOperation(matched, skipped)
            visibility_query = await _visibility_query(session, chosen, has_deleted=skipped > 0)
        batch = _batch(decision, actor, query, chosen, matched, reason)
        detail = query.as_detail() | {"reason": reason, "matched": matched}
        action = OperatorAction(actor.name, reason, before=before)
        async with on_record(
            scope, actor, BULK_ACTIONS[decision], batch.gid, tenant_gid=batch.tenant_gid, detail=detail
        ):
            await visibility.until_indexed(self._temporal, visibility_query, matched)
            await self._batches.start_bulk(scope, batch, visibility_query, decision.value, action)
        return BulkOperation(matched, skipped, batch.gid)

    async def _decide(self, decision: Decision, scope: TenantScope, actor: Actor, gid: str, reason: str) -> Delivery:
        """Signal-with-start, so that it works where Temporal has lost the workflow."""
        _require_short(reason)
        async with scope.reading() as session:
            row = await self._deliveries.find(session, gid)
            if row.status is not DeliveryStatus.DEAD_LETTERED:
                raise NotADeadLetter(f"{gid} is {row.status}, not a dead letter.")
            if decision is Decision.REPLAY:
                await _require_sendable(session, row)
        input = await self._deliveries.input(gid)
        detail = {"reason": reason}
        async with on_record(scope, actor, ACTIONS[decision], gid, tenant_gid=row.tenant_gid, detail=detail):
            action = OperatorAction(actor.name, reason)
            await start_delivery(self._temporal, input, signal=decision.value, note=action)
        return row


def _batch(
    decision: Decision, actor: Actor, query: DeadLetterQuery, chosen: DeadLetterFilter, matched: int, reason: str
) -> Batch:
    """The row of a bulk operation. Its gid is the id of Temporal's job."""
    return Batch(
        gid=new_gid(Kind.BATCH),
        kind=BATCH_KINDS[decision],
        tenant_gid=_only(chosen.tenant_gid),
        actor=actor.name,
        key_gid=actor.key_gid,
        reason=reason,
        channel=_only(chosen.channel),
        endpoint_gid=_only(chosen.endpoint_gid),
        event_types=list(chosen.event_type or ()),
        since=chosen.since,
        until=chosen.until,
        selection=query.as_detail(),
        matched=matched,
    )


def _only(values: Sequence[str] | None) -> str | None:
    return values[0] if values is not None and len(values) == 1 else None


def _require_short(reason: str) -> None:
    if len(reason) > MAX_REASON:
        raise InvalidField("reason", f"takes at most {MAX_REASON} characters", "string_too_long")


async def _chosen(session: Session, query: DeadLetterQuery) -> DeadLetterFilter:
    own = tenant_bound(session)
    return DeadLetterFilter(
        tenant_gid=await _tenant_gids(session, query.tenants) or ((own,) if own is not None else None),
        channel=any_of(query.channels),
        endpoint_gid=await chosen_endpoints(session, query.endpoints),
        subscription_gid=any_of(query.subscriptions),
        event_type=any_of(query.types),
        reason=any_of(query.reasons),
        status_code=any_of(query.status_codes),
        since=query.since,
        until=query.until,
    )


async def _tenant_gids(session: Session, names: Sequence[str] | None) -> tuple[str, ...] | None:
    """A tenant that is not there is refused: a bulk operation for a misspelt name must not seem to have worked."""
    return any_of([(await tenants.named_tenant(session, name)).gid for name in names or ()])


async def _require_known(session: Session, chosen: DeadLetterFilter) -> None:
    """The same for a channel and an endpoint."""
    for name in sorted(await dead_letters.unknown_channels(session, chosen.channel or ())):
        raise InvalidField("channel", f"there is no channel {name}")
    named = chosen.endpoint_gid or ()
    for gid in sorted(set(named) - (await endpoints.by_gid(session, named)).keys()):
        raise InvalidField("endpointGid", f"there is no endpoint {gid}")


async def _require_sendable(session: Session, row: Delivery) -> None:
    if await erasure_store.is_erased(session, row.message_gid):
        raise PayloadErased(
            f"{row.gid} cannot be replayed: the payload of {row.message_gid} was erased. It can be discarded."
        )
    if await endpoints.is_deleted(session, row.endpoint_gid):
        raise EndpointDeleted(
            f"{row.gid} cannot be replayed: its endpoint {row.endpoint_gid} was deleted. It can be discarded."
        )


async def _of_existing(session: Session, chosen: DeadLetterFilter) -> DeadLetterFilter:
    """Without the dead letters of deleted endpoints. Raises EndpointDeleted if no other endpoint is named."""
    named = set(chosen.endpoint_gid or ())
    if named and named == await endpoints.deleted(session, named):
        which = f"{', '.join(sorted(named))} {'was' if len(named) == 1 else 'were'} deleted"
        raise EndpointDeleted(f"Nothing can be replayed: {which}. Such dead letters can be discarded.")
    return replace(chosen, of_deleted=False)


async def _visibility_query(session: Session, chosen: DeadLetterFilter, *, has_deleted: bool) -> str:
    """The same selection in Temporal's store.

    That store does not know which endpoints were deleted, and it has names of tenants, which can pass from one tenant
    to another. So the query names endpoints, as many as it can hold.
    """
    if chosen.tenant_gid is None and not has_deleted:
        return visibility.visibility_query(chosen)
    if chosen.tenant_gid is None:
        deleted = await _endpoints(session, replace(chosen, of_deleted=True))
        if deleted is not None:
            return visibility.visibility_query(chosen, but=deleted)
    named = await _endpoints(session, chosen)
    if named is None:
        at_most = f"there are dead letters of more than {visibility.MAX_ENDPOINTS} endpoints; name one"
        raise InvalidField("endpointGid", at_most)
    return visibility.visibility_query(chosen, named)


async def _endpoints(session: Session, chosen: DeadLetterFilter) -> list[str] | None:
    """The endpoints whose dead letters are chosen; None if they are too many for a query."""
    found = await dead_letters.endpoints_of(session, chosen, at_most=visibility.MAX_ENDPOINTS + 1)
    return found if len(found) <= visibility.MAX_ENDPOINTS else None
