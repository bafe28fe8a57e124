"""Replaying the messages of a channel; listing, following and cancelling batches."""

from http import HTTPStatus

from fastapi import APIRouter, Response

from api import problem_types
from api.batches.schemas import Batch, Replay, ReplayIn
from api.dependencies import Paging, Principal, ServicesDep, Store
from api.idempotency import NOT_KEYED, OnceDep
from api.lifecycle.viewers import viewer_of
from api.problems import documents
from api.query import Several
from api.schemas import Gid, ListOf, Name
from everhook.storage.tables import BatchKind, BatchState

replays_router = APIRouter(tags=["messages"])
router = APIRouter(tags=["batches"])


@replays_router.post(
    "/channels/{name}/replay",
    status_code=HTTPStatus.ACCEPTED,
    responses={
        HTTPStatus.OK.value: {"model": Replay, "description": "A dry run, or nothing matched: nothing was started"},
        **documents(problem_types.ENDPOINT_DELETED, problem_types.BULK_OPERATION_RUNNING),
    },
)
async def replay_channel(
    name: Name,
    body: ReplayIn,
    response: Response,
    services: ServicesDep,
    store: Store,
    caller: Principal,
    once: OnceDep = NOT_KEYED,
) -> Replay:
    """Send the messages of a time range again: those that failed, all, or those that an endpoint never had.

    A workflow opens the rounds at a bounded rate; `GET /v1/batches/{gid}` shows its progress. Deliveries in
    progress are not changed, and payloads that were erased are skipped. Circuits and rate limits apply, and fresh
    messages come first. A key with only the scope `publish` replays the messages that were published with it.
    """
    planned = await services.replays.plan(store, viewer_of(caller), body.request(name))
    if body.dry_run or planned.is_empty:
        response.status_code = HTTPStatus.OK
        return Replay.of(planned, None)
    async with once.writing(store) as session:
        batch = await services.replays.create(session, caller.actor, planned, body.reason)
        replay = Replay.of(planned, batch)
        await once.keep(session, replay, HTTPStatus.ACCEPTED, batch.tenant_gid)
    await services.replays.start(batch)
    return replay


@router.get("/batches")
async def list_batches(
    paging: Paging,
    services: ServicesDep,
    store: Store,
    caller: Principal,
    kind: Several[BatchKind] = None,
    channel: Several[Name] = None,
    tenant: Several[Name] = None,
    state: Several[BatchState] = None,
) -> ListOf[Batch]:
    """Replays of channels and bulk operations on dead letters, newest first.

    `channel` also finds bulk operations on the dead letters of this channel alone. While Temporal is unavailable, bulk
    operations that run are shown as they were recorded.
    """
    page = await services.batches.page(
        store,
        viewer_of(caller),
        kinds=kind,
        channels=channel,
        tenants_named=tenant,
        states=state,
        after=paging.after,
        limit=paging.limit,
    )
    return ListOf(data=[Batch.of(view) for view in page.rows], next_cursor=paging.next_cursor(page.next_key))


@router.get("/batches/{gid}")
async def get_batch(gid: Gid, services: ServicesDep, store: Store, caller: Principal) -> Batch:
    """Progress of a replay of a channel, or of a bulk replay or purge of dead letters."""
    return Batch.of(await services.batches.find(store, viewer_of(caller), gid))


@router.post("/batches/{gid}/cancel", status_code=HTTPStatus.ACCEPTED, responses=documents(problem_types.CONFLICT))
async def cancel_batch(gid: Gid, services: ServicesDep, store: Store, caller: Principal) -> Batch:
    """End a replay of a channel at its next page, or a bulk operation on dead letters at once. What it has started
    goes on.

    `409` if it has completed or failed. If Temporal is unavailable, a bulk operation stays `running` until it can be
    stopped.
    """
    return Batch.of(await services.batches.cancel(store, caller.actor, viewer_of(caller), gid))
