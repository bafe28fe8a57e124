"""The dead letter queue: look, replay, discard; one or all that match."""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Body, Depends, Query, Response
from sqlalchemy.ext.asyncio import AsyncSession
from temporalio.service import RPCError, RPCStatusCode

from api import render
from api.dependencies import Caller, Paging, Principal, Services, ServicesDep, Store, Temporal, encode_cursor
from api.problems import Problem, conflict, invalid, not_found
from api.routers.deliveries import find_delivery
from api.schemas import (
    BatchOut,
    BulkAnswer,
    BulkRequest,
    DeadLetterDetail,
    DeadLetterSelection,
    Decision,
    DeliveryOut,
    EventType,
    Gid,
    ListOf,
    Moment,
    Name,
    SignalAccepted,
)
from everhook import batches
from everhook.contracts import DeadLetterReason, DeliveryStatus, OperatorNote
from everhook.dispatch import start_delivery
from everhook.ids import Kind, is_gid
from everhook.storage import dead_letters, deliveries, erasure, tenants
from everhook.storage.dead_letters import DeadLetterFilter
from everhook.storage.orders import load_order

router = APIRouter(tags=["dead letters"])


def _selection(
    tenant: Name | None = None,
    channel: Name | None = None,
    endpoint: str | None = None,
    type: EventType | None = None,
    reason: DeadLetterReason | None = None,
    status_code: Annotated[int | None, Query(alias="statusCode", ge=100, le=599, description="The last one.")] = None,
    since: Moment | None = None,
    until: Moment | None = None,
) -> DeadLetterSelection:
    return DeadLetterSelection(
        tenant=tenant,
        channel=channel,
        endpoint=endpoint,
        type=type,
        reason=reason,
        status_code=status_code,
        since=since,
        until=until,
    )


@router.get("/dead-letters")
async def list_dead_letters(
    selection: Annotated[DeadLetterSelection, Depends(_selection)], paging: Paging, store: Store
) -> ListOf[DeliveryOut]:
    """Newest message first. `since` and `until` bound the time of dead-lettering."""
    async with store.reading() as session:
        chosen = await _filter(session, selection)
        page = await dead_letters.page(session, chosen, after=paging.after, limit=paging.limit)
    return ListOf(data=[render.delivery(row) for row in page.rows], next_cursor=encode_cursor(page.next_key))


@router.get("/dead-letters/{gid}", response_model=DeadLetterDetail)
async def get_dead_letter(gid: Gid, store: Store) -> Response:
    """One dead letter: payload, and attempts with response bodies."""
    async with store.reading() as session:
        found = await deliveries.with_message(session, gid)
        if found is None or found[0].status is not DeliveryStatus.DEAD_LETTERED:
            raise not_found("dead letter", gid)
        attempts = await deliveries.attempts_of(session, gid)
    row, message = found
    detail = DeadLetterDetail(
        **render.delivery(row).model_dump(),
        payload=None,
        payload_erased_at=message.payload_erased_at,
        attempts=[render.attempt(attempt) for attempt in attempts],
    )
    return render.with_payload(detail, message.payload)


@router.post("/dead-letters/replay", status_code=HTTPStatus.ACCEPTED)
async def replay_many(body: BulkRequest, services: ServicesDep, caller: Principal) -> BulkAnswer:
    """Replay all that match. The circuit still rules: what an endpoint cannot take is parked."""
    return await _bulk(services, body, "replay", caller)


@router.post("/dead-letters/purge", status_code=HTTPStatus.ACCEPTED)
async def purge_many(body: BulkRequest, services: ServicesDep, caller: Principal) -> BulkAnswer:
    """Discard all that match."""
    return await _bulk(services, body, "discard", caller)


@router.post("/dead-letters/{gid}/replay", status_code=HTTPStatus.ACCEPTED)
async def replay_one(
    gid: Gid, services: ServicesDep, caller: Principal, body: Annotated[Decision | None, Body()] = None
) -> SignalAccepted:
    """Begin a new round of attempts. The old ones stay. `409` where the payload was erased: nothing is left to send."""
    await _signal(services, gid, "replay", _note(caller, body))
    return SignalAccepted(delivery_gid=gid, requested="replay")


@router.delete("/dead-letters/{gid}", status_code=HTTPStatus.ACCEPTED)
async def discard_one(
    gid: Gid, services: ServicesDep, caller: Principal, body: Annotated[Decision | None, Body()] = None
) -> SignalAccepted:
    """Give it up for good."""
    await _signal(services, gid, "discard", _note(caller, body))
    return SignalAccepted(delivery_gid=gid, requested="discard")


@router.get("/batches/{gid}")
async def get_batch(gid: Gid, temporal: Temporal) -> BatchOut:
    """Progress of a bulk replay or purge."""
    if not is_gid(gid, Kind.BATCH):
        raise not_found("batch", gid)
    try:
        found = await batches.progress(temporal, gid)
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            raise not_found("batch", gid) from error
        raise
    return BatchOut(batch_gid=gid, **vars(found))


async def _filter(session: AsyncSession, selection: DeadLetterSelection) -> DeadLetterFilter:
    if selection.endpoint is not None and not is_gid(selection.endpoint, Kind.ENDPOINT):
        raise invalid("endpoint", "is not an endpoint gid")
    tenant = await tenants.find_tenant(session, selection.tenant) if selection.tenant is not None else None
    if selection.tenant is not None and tenant is None:
        raise invalid("tenant", f"there is no tenant {selection.tenant}")
    return DeadLetterFilter(
        tenant_gid=tenant.gid if tenant is not None else None,
        channel=selection.channel,
        endpoint_gid=selection.endpoint,
        event_type=selection.type,
        reason=selection.reason,
        status_code=selection.status_code,
        since=selection.since,
        until=selection.until,
    )


async def _bulk(services: Services, body: BulkRequest, signal: str, caller: Caller) -> BulkAnswer:
    async with services.database.reading() as session:
        chosen = await _filter(session, body)
        matched = await dead_letters.count(session, chosen)
    if body.dry_run or not matched:
        return BulkAnswer(matched=matched, batch_gid=None)
    query = batches.visibility_query(chosen, body.tenant)
    note = OperatorNote(caller.name, body.why)
    try:
        gid = await batches.start_signal_batch(services.temporal, query, signal, note)
    except RPCError as error:
        if error.status is RPCStatusCode.RESOURCE_EXHAUSTED:
            raise Problem(
                HTTPStatus.TOO_MANY_REQUESTS,
                "Another bulk operation is still running; nothing was begun.",
                headers={"retry-after": "10"},
            ) from error
        raise
    return BulkAnswer(matched=matched, batch_gid=gid)


async def _signal(services: Services, gid: str, signal: str, note: OperatorNote) -> None:
    """Signal-with-start: it works even where Temporal has lost the workflow."""
    async with services.database.reading() as session:
        row = await find_delivery(session, gid)
        erased = await erasure.is_erased(session, row.message_gid)
    if row.status is not DeliveryStatus.DEAD_LETTERED:
        raise conflict(f"{gid} is {row.status}, not a dead letter.")
    if erased and signal == "replay":
        raise conflict(f"{gid} cannot be replayed: the payload of {row.message_gid} was erased. It can be discarded.")
    async with services.database.read_connection() as connection:
        order = await load_order(connection, services.defaults, gid)
    if order is None:  # its tenant is being erased
        raise not_found("delivery", gid)
    await start_delivery(services.temporal, order, signal=signal, note=note)


def _note(caller: Caller, body: Decision | None) -> OperatorNote:
    return OperatorNote(caller.name, body.why if body is not None else "")
