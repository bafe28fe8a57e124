"""Deliveries: what became of each message at each endpoint."""

from dataclasses import replace
from http import HTTPStatus

from fastapi import APIRouter
from sqlalchemy.ext.asyncio import AsyncSession
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from api import render
from api.dependencies import Paging, Principal, Store, Temporal
from api.problems import conflict, not_found
from api.query import Several, several
from api.schemas import (
    DeliveryDetail,
    DeliveryOut,
    EventType,
    Gid,
    ListOf,
    LiveDelivery,
    Moment,
    Name,
    SignalAccepted,
)
from everhook.contracts import TERMINAL_STATUSES, DeliveryState, DeliveryStatus
from everhook.ids import delivery_workflow_id
from everhook.storage import deliveries, receipts, tenants
from everhook.storage.audit import on_record
from everhook.storage.deliveries import DeliveryFilter
from everhook.storage.tables import Delivery

NOTHING = "nothing"

router = APIRouter(prefix="/deliveries", tags=["deliveries"])


@router.get("")
async def list_deliveries(
    paging: Paging,
    store: Store,
    status: Several[DeliveryStatus] = None,
    endpoint: Several[Gid] = None,
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
            endpoint_gid=several(endpoint),
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
    """One delivery with every attempt of every round."""
    async with store.reading() as session:
        row = await find_delivery(session, gid)
        attempts = await deliveries.attempts_of(session, gid)
        issued = await receipts.gids_of_delivery(session, gid)
    return DeliveryDetail(**render.delivery(row).model_dump(), attempts=render.attempts(attempts, issued))


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
async def attempt_now(gid: Gid, store: Store, temporal: Temporal, caller: Principal) -> SignalAccepted:
    """Do not wait for the next attempt's time. The circuit still rules."""
    async with store.reading() as session:
        row = await find_delivery(session, gid)
    if row.status in TERMINAL_STATUSES or row.status is DeliveryStatus.DEAD_LETTERED:
        raise conflict(f"{gid} is {row.status}: no attempt is due. A dead letter is replayed instead.")
    async with on_record(store, caller.actor, "delivery.attempt_requested", gid, tenant_gid=row.tenant_gid):
        await _signal(temporal, gid, "attempt_now")
    return SignalAccepted(delivery_gid=gid, requested="attempt_now")


async def find_delivery(session: AsyncSession, gid: str) -> Delivery:
    row = await session.get(Delivery, gid)
    if row is None:
        raise not_found("delivery", gid)
    return row


async def _signal(temporal: Client, gid: str, signal: str) -> None:
    try:
        await temporal.get_workflow_handle(delivery_workflow_id(gid)).signal(signal)
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            raise conflict(f"{gid} has no open workflow at this moment; it is started by itself.") from error
        raise
