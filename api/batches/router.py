"""Replaying the messages of a channel, and the progress of replays and of bulk operations on dead letters."""

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
from everhook.errors import NotFound
from everhook.storage.tables import BatchState

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

    A workflow opens the rounds at a bounded rate; `GET /v1/batches/{gid}` shows its progress. What is in progress is
    left alone, and payloads that were erased are skipped. Circuits and rate limits apply, and fresh messages come
    first. A key with the scope `publish` alone replays what was published with it.
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
    channel: Several[Name] = None,
    tenant: Several[Name] = None,
    state: Several[BatchState] = None,
) -> ListOf[Batch]:
    """Replays of channels, newest first. Bulk operations on dead letters are shown by their gid only."""
    async with store.reading() as session:
        page = await services.replays.page(
            session,
            viewer_of(caller),
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
    viewer = viewer_of(caller)
    async with store.reading() as session:
        view = await services.replays.find(session, viewer, gid)
    if view is not None:
        return Batch.of(view)
    if viewer.publisher_gid is not None:
        raise NotFound("batch", gid)
    return Batch.of_dead_letters(gid, await services.dead_letters.progress(store, gid))


@router.post("/batches/{gid}/cancel", status_code=HTTPStatus.ACCEPTED, responses=documents(problem_types.CONFLICT))
async def cancel_batch(gid: Gid, services: ServicesDep, store: Store, caller: Principal) -> Batch:
    """End a replay of a channel at its next page. The deliveries that it has started go on.

    `409` if it has completed. Bulk operations on dead letters cannot be cancelled.
    """
    async with store.writing() as session:
        return Batch.of(await services.replays.cancel(session, caller.actor, viewer_of(caller), gid))
