"""The dead letter queue: look, replay, discard; one or all that match."""

from collections.abc import Sequence
from dataclasses import replace
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Body, Query, Response
from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncSession
from temporalio.service import RPCError, RPCStatusCode

from api import problem_types, render
from api.callers import Caller
from api.dead_letters.schemas import (
    MAX_VALUES,
    BatchOut,
    BulkAnswer,
    BulkRequest,
    DeadLetterDetail,
    DeadLetterSelection,
    Decision,
    SignalAccepted,
)
from api.deliveries.router import find_delivery, newest_attempts
from api.deliveries.schemas import DeliveryOut
from api.dependencies import Paging, Principal, Services, ServicesDep, Store, Temporal
from api.endpoints.choice import chosen_endpoints
from api.idempotency import NOT_KEYED, OnceDep
from api.problems import Problem, conflict, invalid, not_found
from api.query import Several, several
from api.schemas import EndpointRef, EventType, Gid, ListOf, Moment, Name
from everhook.contracts import DeadLetterReason, DeliveryStatus, OperatorAction
from everhook.dead_letters import batches
from everhook.dead_letters import store as dead_letters
from everhook.dead_letters.store import DeadLetterFilter
from everhook.delivery import store as deliveries
from everhook.delivery.inputs_store import load_input
from everhook.delivery.starts import start_delivery
from everhook.endpoints import store as endpoints
from everhook.ids import Kind, is_gid, new_gid
from everhook.publishing import erasure_store as erasure
from everhook.storage.tenant_scope import TenantScope, tenant_bound
from everhook.tenants import audit_store as audit
from everhook.tenants import store as tenants
from everhook.tenants.audit_store import on_record

router = APIRouter(tags=["dead letters"])

_ACTIONS = {"replay": "dead_letter.replayed", "discard": "dead_letter.discarded"}
_BULK_ACTIONS = {"replay": "dead_letters.replayed", "discard": "dead_letters.purged"}


@router.get("/dead-letters")
async def list_dead_letters(
    paging: Paging,
    store: Store,
    tenant: Several[Name] = None,
    channel: Several[Name] = None,
    endpoint: Several[EndpointRef] = None,
    type: Several[EventType] = None,
    reason: Several[DeadLetterReason] = None,
    status_code: Annotated[
        list[Annotated[int, Field(ge=100, le=599)]] | None,
        Query(alias="statusCode", max_length=MAX_VALUES, description="The last one. Several: any of them."),
    ] = None,
    since: Moment | None = None,
    until: Moment | None = None,
) -> ListOf[DeliveryOut]:
    """Newest message first. `since` and `until` bound the time of dead-lettering."""
    async with store.reading() as session:
        chosen = DeadLetterFilter(
            tenant_gid=await _tenant_gids(session, tenant),
            channel=several(channel),
            endpoint_gid=await chosen_endpoints(session, endpoint),
            event_type=several(type),
            reason=several(reason),
            status_code=several(status_code),
            since=since,
            until=until,
        )
        page = await dead_letters.page(session, chosen, after=paging.after, limit=paging.limit)
    return ListOf(data=[render.delivery(row) for row in page.rows], next_cursor=paging.next_cursor(page.next_key))


@router.get("/dead-letters/{gid}", response_model=DeadLetterDetail)
async def get_dead_letter(gid: Gid, store: Store) -> Response:
    """One dead letter: payload, and attempts with response bodies and their receipts; of very many, the newest 100."""
    async with store.reading() as session:
        found = await deliveries.with_message(session, gid)
        if found is None or found[0].status is not DeliveryStatus.DEAD_LETTERED:
            raise not_found("dead letter", gid)
        shown = await newest_attempts(session, found[0])
    row, message = found
    detail = DeadLetterDetail(
        **render.delivery(row).model_dump(),
        payload=None,
        payload_erased_at=message.payload_erased_at,
        **shown,
    )
    return render.with_payload(detail, message.payload)


@router.post("/dead-letters/replay", status_code=HTTPStatus.ACCEPTED)
async def replay_many(
    body: BulkRequest, services: ServicesDep, store: Store, caller: Principal, once: OnceDep = NOT_KEYED
) -> BulkAnswer:
    """Replay all that match. The circuit still rules: what an endpoint cannot take is parked. Dead letters of endpoints
    that were deleted are left alone, and counted as `skipped`; `409` where no other endpoint is named."""
    async with once.asking(store):
        response = await _bulk(services, store, body, "replay", caller)
    return await once.keep_asked(store, response, HTTPStatus.ACCEPTED, caller.tenant_gid)


@router.post("/dead-letters/purge", status_code=HTTPStatus.ACCEPTED)
async def purge_many(
    body: BulkRequest, services: ServicesDep, store: Store, caller: Principal, once: OnceDep = NOT_KEYED
) -> BulkAnswer:
    """Discard all that match."""
    async with once.asking(store):
        response = await _bulk(services, store, body, "discard", caller)
    return await once.keep_asked(store, response, HTTPStatus.ACCEPTED, caller.tenant_gid)


@router.post("/dead-letters/{gid}/replay", status_code=HTTPStatus.ACCEPTED)
async def replay_one(
    gid: Gid,
    services: ServicesDep,
    store: Store,
    caller: Principal,
    body: Annotated[Decision | None, Body()] = None,
    once: OnceDep = NOT_KEYED,
) -> SignalAccepted:
    """Begin a new round of attempts. The old ones stay. `409` where there is nothing left to send, because the payload
    was erased, or nowhere to send it, because the endpoint was deleted."""
    async with once.asking(store):
        tenant_gid = await _signal(services, store, caller, gid, "replay", body)
    response = SignalAccepted(delivery_gid=gid, requested="replay")
    return await once.keep_asked(store, response, HTTPStatus.ACCEPTED, tenant_gid)


@router.delete("/dead-letters/{gid}", status_code=HTTPStatus.ACCEPTED)
async def discard_one(
    gid: Gid, services: ServicesDep, store: Store, caller: Principal, body: Annotated[Decision | None, Body()] = None
) -> SignalAccepted:
    """Give it up for good."""
    await _signal(services, store, caller, gid, "discard", body)
    return SignalAccepted(delivery_gid=gid, requested="discard")


@router.get("/batches/{gid}")
async def get_batch(gid: Gid, store: Store, temporal: Temporal) -> BatchOut:
    """Progress of a bulk replay or purge."""
    async with store.reading() as session:
        if not is_gid(gid, Kind.BATCH) or not await audit.is_recorded(session, gid):
            raise not_found("batch", gid)
    try:
        found = await batches.progress(temporal, gid)
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            raise not_found("batch", gid) from error
        raise
    return BatchOut(batch_gid=gid, **vars(found))


async def _tenant_gids(session: AsyncSession, named: Sequence[str] | None) -> tuple[str, ...] | None:
    return tuple(dict.fromkeys([await _tenant_gid(session, name) for name in named])) if named else None


async def _tenant_gid(session: AsyncSession, named: str) -> str:
    tenant = await tenants.find_tenant(session, named)
    if tenant is None:
        raise invalid("tenant", f"there is no tenant {named}")
    return tenant.gid


async def dead_letter_filter(session: AsyncSession, selection: DeadLetterSelection) -> DeadLetterFilter:
    own = tenant_bound(session)
    return DeadLetterFilter(
        tenant_gid=await _tenant_gids(session, selection.tenant) or ((own,) if own is not None else None),
        channel=several(selection.channel),
        endpoint_gid=await chosen_endpoints(session, selection.endpoint),
        event_type=several(selection.type),
        reason=several(selection.reason),
        status_code=several(selection.status_code),
        since=selection.since,
        until=selection.until,
    )


async def _bulk(services: Services, store: TenantScope, body: BulkRequest, signal: str, caller: Caller) -> BulkAnswer:
    skipped = 0
    async with store.reading() as session:
        chosen = await dead_letter_filter(session, body)
        if signal == "replay":
            chosen = await _of_existing(session, chosen)
            skipped = await dead_letters.count(session, replace(chosen, of_deleted=True))
        matched = await dead_letters.count(session, chosen)
        if body.dry_run or not matched:
            return BulkAnswer(matched=matched, skipped=skipped, batch_gid=None)
        query = await _visibility_query(session, chosen, has_deleted=skipped > 0)
        await _refuse_second(services, session, caller)
    gid = new_gid(Kind.BATCH)
    detail = body.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"dry_run"}) | {"matched": matched}
    action = _BULK_ACTIONS[signal]
    owner = chosen.tenant_gid[0] if chosen.tenant_gid is not None and len(chosen.tenant_gid) == 1 else None
    async with on_record(store, caller.actor, action, gid, tenant_gid=owner, detail=detail):
        await batches.until_indexed(services.temporal, query, matched)
        await _start(services, gid, query, signal, OperatorAction(caller.name, body.why))
    return BulkAnswer(matched=matched, skipped=skipped, batch_gid=gid)


async def _of_existing(session: AsyncSession, chosen: DeadLetterFilter) -> DeadLetterFilter:
    """Without the dead letters of deleted endpoints. 409 where no other endpoint is named."""
    named = set(chosen.endpoint_gid or ())
    if named and named == await endpoints.deleted(session, named):
        which = f"{', '.join(sorted(named))} {'was' if len(named) == 1 else 'were'} deleted"
        raise conflict(f"Nothing can be replayed: {which}. Such dead letters can be discarded.")
    return replace(chosen, of_deleted=False)


async def _visibility_query(session: AsyncSession, chosen: DeadLetterFilter, *, has_deleted: bool) -> str:
    """The same selection in Temporal's store.

    That store does not know which endpoints were deleted, and has names of tenants, which change hands. So the query
    names endpoints, as many as it can hold.
    """
    if chosen.tenant_gid is None and not has_deleted:
        return batches.visibility_query(chosen)
    if chosen.tenant_gid is None:
        deleted = await _endpoints(session, replace(chosen, of_deleted=True))
        if deleted is not None:
            return batches.visibility_query(chosen, but=deleted)
    named = await _endpoints(session, chosen)
    if named is None:
        raise invalid("endpoint", f"there are dead letters of more than {batches.MAX_ENDPOINTS} endpoints; name one")
    return batches.visibility_query(chosen, named)


async def _endpoints(session: AsyncSession, chosen: DeadLetterFilter) -> list[str] | None:
    """The endpoints whose dead letters are chosen; None where they are too many for a query."""
    found = await dead_letters.endpoints_of(session, chosen, at_most=batches.MAX_ENDPOINTS + 1)
    return found if len(found) <= batches.MAX_ENDPOINTS else None


async def _refuse_second(services: Services, session: AsyncSession, caller: Caller) -> None:
    """A tenant has one bulk operation at a time: Temporal runs a few in all, for all tenants."""
    if caller.tenant_gid is None:
        return
    running = await audit.latest_subject(session, caller.tenant_gid, _BULK_ACTIONS.values())
    if running is not None and await _is_running(services, running):
        raise Problem(
            problem_types.BULK_OPERATION_RUNNING,
            f"Your bulk operation {running} is still running; nothing was begun.",
            headers={"retry-after": "10"},
        )


async def _is_running(services: Services, batch_gid: str) -> bool:
    try:
        return (await batches.progress(services.temporal, batch_gid)).state == "running"
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return False
        raise


async def _start(services: Services, gid: str, query: str, signal: str, note: OperatorAction) -> None:
    try:
        await batches.start_signal_batch(services.temporal, gid, query, signal, note)
    except RPCError as error:
        if error.status is RPCStatusCode.RESOURCE_EXHAUSTED:
            raise Problem(
                problem_types.BULK_OPERATION_RUNNING,
                "Temporal runs as many bulk operations as it may at once; nothing was begun.",
                headers={"retry-after": "10"},
            ) from error
        raise


async def _signal(
    services: Services, store: TenantScope, caller: Caller, gid: str, signal: str, body: Decision | None
) -> str:
    """Signal-with-start: it works even where Temporal has lost the workflow. Returns the tenant's gid."""
    why = body.why if body is not None else ""
    async with store.reading() as session:
        row = await find_delivery(session, gid)
        erased = await erasure.is_erased(session, row.message_gid)
        deleted = await endpoints.is_deleted(session, row.endpoint_gid)
    if row.status is not DeliveryStatus.DEAD_LETTERED:
        raise conflict(f"{gid} is {row.status}, not a dead letter.")
    if erased and signal == "replay":
        raise conflict(f"{gid} cannot be replayed: the payload of {row.message_gid} was erased. It can be discarded.")
    if deleted and signal == "replay":
        raise conflict(f"{gid} cannot be replayed: its endpoint {row.endpoint_gid} was deleted. It can be discarded.")
    async with services.database.read_connection() as connection:
        input = await load_input(connection, services.defaults, gid)
    if input is None:  # its tenant is being erased
        raise not_found("delivery", gid)
    action = _ACTIONS[signal]
    async with on_record(store, caller.actor, action, gid, tenant_gid=row.tenant_gid, detail={"why": why}):
        await start_delivery(services.temporal, input, signal=signal, note=OperatorAction(caller.name, why))
    return row.tenant_gid
