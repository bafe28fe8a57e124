"""Deliveries: what became of each message at each endpoint."""

from http import HTTPStatus

from fastapi import APIRouter, Response

from api import problem_types
from api.deliveries.schemas import (
    MAX_ATTEMPTS,
    Attempt,
    Delivery,
    DeliveryDetail,
    LiveDelivery,
    SignalAccepted,
    attempts,
)
from api.dependencies import Paging, Principal, ServicesDep, Store
from api.problems import documents
from api.query import EndpointGids, MessageGids, Several, SubscriptionGids
from api.schemas import EventType, Gid, ListOf, Moment, Name
from everhook.contracts import DeliveryStatus
from everhook.delivery.service import DeliveryQuery

router = APIRouter(prefix="/deliveries", tags=["deliveries"])
attempts_router = APIRouter(prefix="/attempts", tags=["deliveries"])


@router.get("")
async def list_deliveries(
    paging: Paging,
    services: ServicesDep,
    store: Store,
    status: Several[DeliveryStatus] = None,
    endpoint_gid: EndpointGids = None,
    subscription_gid: SubscriptionGids = None,
    message_gid: MessageGids = None,
    channel: Several[Name] = None,
    type: Several[EventType] = None,
    tenant: Several[Name] = None,
    since: Moment | None = None,
    until: Moment | None = None,
) -> ListOf[Delivery]:
    """Newest first. `since` and `until` bound the time of acceptance."""
    query = DeliveryQuery(
        tenants=tenant,
        endpoints=endpoint_gid,
        subscriptions=subscription_gid,
        messages=message_gid,
        channels=channel,
        types=type,
        statuses=status,
        since=since,
        until=until,
    )
    async with store.reading() as session:
        page = await services.deliveries.page(session, query, after=paging.after, limit=paging.limit)
        next_attempts = await services.deliveries.next_attempts(session, page.rows)
    data = [Delivery.of(row, next_attempts.get(row.gid)) for row in page.rows]
    return ListOf(data=data, next_cursor=paging.next_cursor(page.next_key))


@router.get("/{gid}")
async def get_delivery(gid: Gid, services: ServicesDep, store: Store) -> DeliveryDetail:
    """One delivery with its attempts, oldest first; of very many, the newest 100."""
    async with store.reading() as session:
        delivery = await services.deliveries.find(session, gid)
        view = await services.deliveries.view(session, delivery, limit=MAX_ATTEMPTS)
    return DeliveryDetail.of_view(view)


@router.get("/{gid}/attempts")
async def list_delivery_attempts(gid: Gid, paging: Paging, services: ServicesDep, store: Store) -> ListOf[Attempt]:
    """All attempts of a delivery, newest first, 100 at most at a time."""
    async with store.reading() as session:
        delivery = await services.deliveries.find(session, gid)
        limit = min(paging.limit, MAX_ATTEMPTS)
        page = await services.deliveries.attempts(session, delivery, after=paging.after, limit=limit)
    return ListOf(data=attempts(page.attempts, page.receipts), next_cursor=paging.next_cursor(page.next_key))


@attempts_router.get(
    "/{gid}/body",
    response_class=Response,
    responses={200: {"content": {"application/octet-stream": {}}, "description": "The bytes that were sent."}},
)
async def get_attempt_body(gid: Gid, services: ServicesDep, store: Store) -> Response:
    """The body of an attempt's request, byte for byte: what its receipt has the SHA-256 of.

    Bodies are not stored: the message is rendered again, and served only if its hash is the recorded one. `404` once
    the payload was erased.
    """
    async with store.reading() as session:
        body = await services.deliveries.sent_body(session, gid)
    return Response(body.content, media_type="application/octet-stream", headers={"x-content-type-options": "nosniff"})


@router.get("/{gid}/live", responses=documents(problem_types.TEMPORAL_BUSY))
async def get_live_delivery(gid: Gid, services: ServicesDep, store: Store) -> LiveDelivery:
    """Ask the workflow itself what it waits for. For a delivery that has ended, `waitingFor` is `nothing`.

    `404` where there is no workflow at this moment.
    """
    return LiveDelivery.model_validate(await services.deliveries.live(store, gid))


@router.post(
    "/{gid}/attempt-now",
    status_code=HTTPStatus.ACCEPTED,
    responses=documents(problem_types.NO_ATTEMPT_DUE, problem_types.TEMPORAL_BUSY),
)
async def attempt_delivery_now(gid: Gid, services: ServicesDep, store: Store, caller: Principal) -> SignalAccepted:
    """Make the next attempt now instead of at its time. An open circuit still prevents it. During an attempt this
    changes nothing."""
    await services.deliveries.attempt_now(store, caller.actor, gid)
    return SignalAccepted(delivery_gid=gid, requested="attempt_now")
