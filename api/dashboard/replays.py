"""Replaying the messages of a channel: choose, count, start; and the progress of batches."""

from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import APIRouter, Request, Response

from api.batches.schemas import Batch
from api.dashboard import filters
from api.dashboard.filters import Filters
from api.dashboard.pages import FormDep, PageRoute, StoreDep, ViewerDep, query, render, see_other
from api.dead_letters.schemas import OneOrMore
from api.dependencies import ServicesDep
from api.schemas import ApiModel, EndpointRef, EventType, Moment, Name
from everhook.errors import DomainError, InvalidField
from everhook.lifecycle.service import Viewer as MessageViewer
from everhook.redelivery.replays import BatchView, PlannedReplay, ReplayRequest
from everhook.storage.tables import BatchState, ReplayMode

RECENT = 10
MODES = {
    ReplayMode.FAILED: "Dead letters, and what was discarded",
    ReplayMode.ALL: "All that was sent, delivered or not",
    ReplayMode.MISSING: "What the endpoint never got",
}
ALL_MESSAGES = MessageViewer()

router = APIRouter(route_class=PageRoute, include_in_schema=False)


class ReplayChoice(ApiModel):
    channel: Name
    mode: ReplayMode
    since: Moment
    until: Moment | None = None
    endpoint_gid: EndpointRef | None = None
    type: OneOrMore[EventType] = None
    tenant: Name | None = None

    def request(self) -> ReplayRequest:
        return ReplayRequest(
            channel=self.channel,
            mode=self.mode,
            since=self.since,
            until=self.until,
            endpoint=self.endpoint_gid,
            tenant=self.tenant,
            types=self.type,
        )


@dataclass(frozen=True)
class FormView:
    """`planned` is None before the first count. `recent` are the newest replays."""

    filters: Filters[ReplayChoice]
    planned: PlannedReplay | None
    recent: Sequence[BatchView]


@router.get("/replay")
async def ask(request: Request, viewer: ViewerDep, services: ServicesDep, store: StoreDep) -> Response:
    """Choose what to replay, and count it before acting."""
    chosen = filters.chosen_of(ReplayChoice, request.query_params)
    asked: Filters[ReplayChoice] = Filters(chosen, None, {})
    if "mode" in chosen:
        asked = filters.read(ReplayChoice, request.query_params)
    planned = None
    try:
        if asked.choice is not None:
            planned = await services.replays.plan(store, ALL_MESSAGES, asked.choice.request())
    except InvalidField as error:
        asked = asked.refused(error)
    except DomainError as error:
        asked = Filters(chosen, None, {"endpointGid" if "endpointGid" in chosen else "channel": str(error)})
    async with store.reading() as session:
        names = await filters.channel_names(session)
        recent = await services.replays.page(
            session, ALL_MESSAGES, channels=None, tenants_named=None, states=None, after=None, limit=RECENT
        )
    return render(
        request,
        "replay.html",
        viewer,
        status=asked.status,
        title="Replay",
        nav="deliveries",
        v=FormView(asked, planned, recent.rows),
        channels=names,
        modes=[(mode.value, shown) for mode, shown in MODES.items()],
    )


@router.post("/replay")
async def start(viewer: ViewerDep, services: ServicesDep, store: StoreDep, form: FormDep) -> Response:
    chosen = filters.chosen_of(ReplayChoice, form.values)
    wanted = filters.choice_of(ReplayChoice, chosen)
    planned = await services.replays.plan(store, ALL_MESSAGES, wanted.request())
    if planned.is_empty:
        return see_other(viewer, "/replay" + query(chosen))
    async with store.writing() as session:
        batch = await services.replays.create(session, viewer.caller.actor, planned, form.get("reason"))
    await services.replays.start(batch)
    return see_other(viewer, f"/batches/{batch.gid}")


@router.get("/batches/{gid}")
async def show_batch(gid: str, request: Request, viewer: ViewerDep, services: ServicesDep, store: StoreDep) -> Response:
    async with store.reading() as session:
        found = await services.replays.find(session, ALL_MESSAGES, gid)
    if found is not None:
        batch = Batch.of(found)
    else:
        batch = Batch.of_dead_letters(gid, await services.dead_letters.progress(store, gid))
    return render(
        request,
        "batch.html",
        viewer,
        title="Replay" if found is not None else "Batch",
        nav="deliveries" if found is not None else "dead-letters",
        batch=batch,
        share=(batch.completed + batch.failed) / batch.total if batch.total else None,
        is_running=batch.state is BatchState.RUNNING,
    )


@router.post("/batches/{gid}/cancel")
async def cancel(gid: str, viewer: ViewerDep, services: ServicesDep, store: StoreDep, form: FormDep) -> Response:
    async with store.writing() as session:
        await services.replays.cancel(session, viewer.caller.actor, ALL_MESSAGES, gid)
    return see_other(viewer, f"/batches/{gid}")
