"""Deliveries: what became of each message at each endpoint."""

from dataclasses import replace
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Response
from sqlalchemy.ext.asyncio import AsyncSession
from temporalio.service import RPCError, RPCStatusCode

from api import problem_types, render
from api.dead_letters.schemas import SignalAccepted
from api.deliveries.schemas import AttemptOut, DeliveryDetail, DeliveryOut, LiveDelivery
from api.dependencies import Paging, Principal, Services, ServicesDep, Store, Temporal
from api.endpoints.choice import chosen_endpoints
from api.problems import Problem, conflict, invalid, not_found
from api.query import Several, several
from api.schemas import EndpointRef, EventType, Gid, ListOf, Moment, Name
from everhook.contracts import TERMINAL_STATUSES, DeliveryState, DeliveryStatus
from everhook.delivery import (
    attempts_store as delivery_attempts,
)
from everhook.delivery import (
    policy_history_store as policy_history,
)
from everhook.delivery import (
    store as deliveries,
)
from everhook.delivery.attempts_store import Position, position_of
from everhook.delivery.body_formats import Content, find_body
from everhook.delivery.inputs_store import load_input
from everhook.delivery.starts import wake_delivery
from everhook.delivery.store import DeliveryFilter
from everhook.ids import delivery_workflow_id
from everhook.storage.tables import Attempt, Delivery, Message, now
from everhook.tenants import store as tenants
from everhook.tenants.audit_store import on_record

MAX_ATTEMPTS = 100
"""In one response: with 16 KiB of body each they are a few megabytes."""

NOTHING = "nothing"

router = APIRouter(prefix="/deliveries", tags=["deliveries"])
attempts_router = APIRouter(prefix="/attempts", tags=["deliveries"])


@router.get("")
async def list_deliveries(
    paging: Paging,
    store: Store,
    status: Several[DeliveryStatus] = None,
    endpoint: Several[EndpointRef] = None,
    message: Several[Gid] = None,
    channel: Several[Name] = None,
    type: Several[EventType] = None,
    tenant: Several[Name] = None,
    since: Moment | None = None,
    until: Moment | None = None,
) -> ListOf[DeliveryOut]:
    """Newest first. `since` and `until` bound the time of acceptance."""
    async with store.reading() as session:
        chosen = DeliveryFilter(
            tenant_gid=await tenants.chosen_gids(session, tenant),
            message_gid=several(message),
            endpoint_gid=await chosen_endpoints(session, endpoint),
            channel=several(channel),
            event_type=several(type),
            status=several(status),
            since=since,
            until=until,
        )
        page = await deliveries.page(session, chosen, after=paging.after, limit=paging.limit)
    return ListOf(data=[render.delivery(row) for row in page.rows], next_cursor=paging.next_cursor(page.next_key))


@router.get("/{gid}")
async def get_delivery(gid: Gid, store: Store) -> DeliveryDetail:
    """One delivery with its attempts, oldest first; of very many, the newest 100."""
    async with store.reading() as session:
        row = await find_delivery(session, gid)
        shown = await newest_attempts(session, row)
    return DeliveryDetail(**render.delivery(row).model_dump(), **shown)


@router.get("/{gid}/attempts")
async def list_attempts(gid: Gid, paging: Paging, store: Store) -> ListOf[AttemptOut]:
    """All attempts of a delivery, newest first, 100 at most at a time."""
    before = position_behind(paging.after)
    async with store.reading() as session:
        await find_delivery(session, gid)
        limit = min(paging.limit, MAX_ATTEMPTS)
        page = await delivery_attempts.newest_attempts(session, gid, before=before, limit=limit)
        issued = await delivery_attempts.receipts_of(session, gid, page.rows)
    return ListOf(data=render.attempts(page.rows, issued), next_cursor=paging.next_cursor(page.next_key))


@attempts_router.get(
    "/{gid}/body",
    response_class=Response,
    responses={200: {"content": {"application/octet-stream": {}}, "description": "The bytes that were sent."}},
)
async def get_sent_body(gid: Gid, store: Store) -> Response:
    """The body of an attempt's request, byte for byte: what its receipt has the SHA-256 of.

    Bodies are not kept: it is rendered again from the message, and served only if its hash is the recorded one. `404`
    once the payload was erased.
    """
    async with store.reading() as session:
        found = await delivery_attempts.find(session, gid)
    if found is None:
        raise not_found("attempt", gid)
    attempt, message = found
    body = sent_body(message, attempt)
    if body is None:
        why = "its payload was erased" if message.payload is None else "rendering the message again gives other bytes"
        raise Problem(problem_types.NOT_FOUND, f"The body of {gid} cannot be had: {why}.")
    return Response(body, media_type="application/octet-stream", headers={"x-content-type-options": "nosniff"})


@router.get("/{gid}/live")
async def get_live_delivery(gid: Gid, store: Store, temporal: Temporal) -> LiveDelivery:
    """Ask the workflow itself what it waits for. A delivery that is over waits for nothing, and no workflow is asked.

    `404` where there is no workflow at this moment.
    """
    async with store.reading() as session:
        row = await find_delivery(session, gid)
    if row.status in TERMINAL_STATUSES:
        return _over(DeliveryState(row.status, row.round, row.attempts, NOTHING, dead_letter_reason=row.reason))
    handle = temporal.get_workflow_handle(delivery_workflow_id(gid))
    try:
        state = await handle.query("status", result_type=DeliveryState)
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            raise not_found("workflow for delivery", gid) from error
        raise
    return _over(state) if state.status in TERMINAL_STATUSES else LiveDelivery.model_validate(state)


def _over(state: DeliveryState) -> LiveDelivery:
    """A workflow that has ended says what it last waited for."""
    return LiveDelivery.model_validate(replace(state, waiting_for=NOTHING, next_attempt_at=None))


@router.post("/{gid}/attempt-now", status_code=HTTPStatus.ACCEPTED)
async def attempt_now(gid: Gid, services: ServicesDep, store: Store, caller: Principal) -> SignalAccepted:
    """Make the next attempt now instead of at its time. The circuit still rules. While an attempt is under way this
    changes nothing."""
    async with store.reading() as session:
        row = await find_delivery(session, gid)
    if row.status in TERMINAL_STATUSES or row.status is DeliveryStatus.DEAD_LETTERED:
        raise conflict(f"{gid} is {row.status}: no attempt is due. A dead letter is replayed instead.")
    async with on_record(store, caller.actor, "delivery.attempt_requested", gid, tenant_gid=row.tenant_gid):
        if not _is_under_way(row):
            await _wake(services, gid)
    return SignalAccepted(delivery_gid=gid, requested="attempt_now")


async def newest_attempts(session: AsyncSession, row: Delivery) -> dict[str, Any]:
    """The fields of a delivery's detail that hold its attempts and their rounds."""
    page = await delivery_attempts.newest_attempts(session, row.gid, limit=MAX_ATTEMPTS)
    issued = await delivery_attempts.receipts_of(session, row.gid, page.rows)
    rounds = {row.round, *(attempt.round for attempt in page.rows)}
    return {
        "rounds": render.rounds(await policy_history.policies_of(session, row, rounds)),
        "attempts": render.attempts(page.rows[::-1], issued),
        "earlier_attempts": page.next_key is not None,
    }


def position_behind(key: str | None) -> Position | None:
    """The attempt that a cursor names. 422 for the cursor of another list."""
    try:
        return position_of(key) if key is not None else None
    except ValueError as error:
        raise invalid("cursor", "is not one of ours; take `nextCursor` as it is") from error


def sent_body(message: Message, attempt: Attempt) -> bytes | None:
    """The body of an attempt's request, rendered again. None where that does not give the bytes that were sent."""
    if message.payload is None:
        return None
    content = Content(
        message.gid, message.channel, message.event_type, message.payload, message.published_at, attempt.number
    )
    found = find_body(content, attempt.request_sha256)
    return found[1] if found is not None else None


async def find_delivery(session: AsyncSession, gid: str) -> Delivery:
    row = await session.get(Delivery, gid)
    if row is None:
        raise not_found("delivery", gid)
    return row


def _is_under_way(row: Delivery) -> bool:
    """Its first attempt is being made by the process that accepted it."""
    return row.status is DeliveryStatus.ACCEPTED and row.due_at is not None and row.due_at > now()


async def _wake(services: Services, gid: str) -> None:
    async with services.database.read_connection() as connection:
        input = await load_input(connection, services.defaults, gid)
    if input is None:  # its tenant is being erased
        raise not_found("delivery", gid)
    await wake_delivery(services.temporal, input)
