"""The dead letter queue: look, replay, discard; one or all that match."""

from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Response
from pydantic import Field

from api import problem_types, render
from api.callers import Caller
from api.dead_letters.schemas import MAX_VALUES, BulkOperation, BulkRequest, DeadLetterDetail, Decision
from api.deliveries.schemas import MAX_ATTEMPTS, Delivery, SignalAccepted
from api.dependencies import Paging, Principal, Services, ServicesDep, Store
from api.idempotency import NOT_KEYED, Once, OnceDep
from api.problems import documents
from api.query import EndpointGids, Several, SubscriptionGids
from api.schemas import EventType, Gid, ListOf, Moment, Name
from everhook.contracts import DeadLetterReason
from everhook.dead_letters import service
from everhook.dead_letters.service import DeadLetterQuery
from everhook.storage.tenant_scope import TenantScope

router = APIRouter(tags=["dead letters"])

NOTHING_STARTED: dict[int | str, dict[str, Any]] = {
    HTTPStatus.OK.value: {"model": BulkOperation, "description": "A dry run, or nothing matched: nothing was started"}
}


@router.get("/dead-letters")
async def list_dead_letters(
    paging: Paging,
    services: ServicesDep,
    store: Store,
    tenant: Several[Name] = None,
    channel: Several[Name] = None,
    endpoint_gid: EndpointGids = None,
    subscription_gid: SubscriptionGids = None,
    type: Several[EventType] = None,
    dead_letter_reason: Annotated[
        list[DeadLetterReason] | None, Query(alias="deadLetterReason", max_length=MAX_VALUES)
    ] = None,
    last_status_code: Annotated[
        list[Annotated[int, Field(ge=100, le=599)]] | None, Query(alias="lastStatusCode", max_length=MAX_VALUES)
    ] = None,
    since: Moment | None = None,
    until: Moment | None = None,
) -> ListOf[Delivery]:
    """Newest message first. `since` and `until` bound the time of dead-lettering."""
    query = DeadLetterQuery(
        tenants=tenant,
        channels=channel,
        endpoints=endpoint_gid,
        subscriptions=subscription_gid,
        types=type,
        reasons=dead_letter_reason,
        status_codes=last_status_code,
        since=since,
        until=until,
    )
    async with store.reading() as session:
        page = await services.dead_letters.page(session, query, after=paging.after, limit=paging.limit)
    return ListOf(data=[Delivery.of(row) for row in page.rows], next_cursor=paging.next_cursor(page.next_key))


@router.get("/dead-letters/{gid}", response_model=DeadLetterDetail)
async def get_dead_letter(gid: Gid, services: ServicesDep, store: Store) -> Response:
    """One dead letter: payload, and attempts with response bodies and their receipts; of very many, the newest 100."""
    async with store.reading() as session:
        delivery, message = await services.dead_letters.find(session, gid)
        view = await services.deliveries.view(session, delivery, limit=MAX_ATTEMPTS)
    detail = DeadLetterDetail.of_view(view, payload=None, payload_erased_at=message.payload_erased_at)
    return render.with_payload(detail, message.payload)


@router.post(
    "/dead-letters/replay",
    status_code=HTTPStatus.ACCEPTED,
    responses={
        **NOTHING_STARTED,
        **documents(problem_types.ENDPOINT_DELETED, problem_types.BULK_OPERATION_RUNNING, problem_types.TEMPORAL_BUSY),
    },
)
async def replay_dead_letters(
    body: BulkRequest,
    response: Response,
    services: ServicesDep,
    store: Store,
    caller: Principal,
    once: OnceDep = NOT_KEYED,
) -> BulkOperation:
    """Replay all that match. Circuits still apply: a delivery that its endpoint cannot take is parked. Dead letters of
    endpoints that were deleted are not changed, and counted as `skipped`; `409` where no other endpoint is named."""
    found = await _decide_all(service.Decision.REPLAY, services, store, caller, body, once)
    if found.batch_gid is None:
        response.status_code = HTTPStatus.OK
    return found


@router.post(
    "/dead-letters/purge",
    status_code=HTTPStatus.ACCEPTED,
    responses={**NOTHING_STARTED, **documents(problem_types.BULK_OPERATION_RUNNING, problem_types.TEMPORAL_BUSY)},
)
async def purge_dead_letters(
    body: BulkRequest,
    response: Response,
    services: ServicesDep,
    store: Store,
    caller: Principal,
    once: OnceDep = NOT_KEYED,
) -> BulkOperation:
    """Discard all that match."""
    found = await _decide_all(service.Decision.DISCARD, services, store, caller, body, once)
    if found.batch_gid is None:
        response.status_code = HTTPStatus.OK
    return found


@router.post(
    "/dead-letters/{gid}/replay",
    status_code=HTTPStatus.ACCEPTED,
    responses=documents(
        problem_types.NOT_A_DEAD_LETTER,
        problem_types.PAYLOAD_ERASED,
        problem_types.ENDPOINT_DELETED,
        problem_types.TEMPORAL_BUSY,
    ),
)
async def replay_dead_letter(
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
        row = await services.dead_letters.replay(store, caller.actor, gid, _reason(body))
    response = SignalAccepted(delivery_gid=gid, requested="replay")
    return await once.keep_asked(store, response, HTTPStatus.ACCEPTED, row.tenant_gid)


@router.post(
    "/dead-letters/{gid}/discard",
    status_code=HTTPStatus.ACCEPTED,
    responses=documents(problem_types.NOT_A_DEAD_LETTER, problem_types.TEMPORAL_BUSY),
)
async def discard_dead_letter(
    gid: Gid,
    services: ServicesDep,
    store: Store,
    caller: Principal,
    body: Annotated[Decision | None, Body()] = None,
    once: OnceDep = NOT_KEYED,
) -> SignalAccepted:
    """Give it up for good: it is never delivered."""
    async with once.asking(store):
        row = await services.dead_letters.discard(store, caller.actor, gid, _reason(body))
    response = SignalAccepted(delivery_gid=gid, requested="discard")
    return await once.keep_asked(store, response, HTTPStatus.ACCEPTED, row.tenant_gid)


def _reason(body: Decision | None) -> str:
    return body.reason if body is not None else ""


async def _decide_all(
    decision: service.Decision, services: Services, store: TenantScope, caller: Caller, body: BulkRequest, once: Once
) -> BulkOperation:
    async with once.asking(store):
        found = BulkOperation.model_validate(
            await services.dead_letters.decide_all(
                decision, store, caller.actor, body.query(), reason=body.reason, dry_run=body.dry_run
            )
        )
    status = HTTPStatus.OK if found.batch_gid is None else HTTPStatus.ACCEPTED
    return await once.keep_asked(store, found, status, caller.tenant_gid)
