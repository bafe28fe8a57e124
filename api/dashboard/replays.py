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
from everhook.batches.service import BatchView
from everhook.errors import DomainError, InvalidField
from everhook.lifecycle.service import Viewer as MessageViewer
from everhook.redelivery.replays import PlannedReplay, ReplayRequest
from everhook.storage.tables import BatchKind, BatchState, ReplayMode

RECENT = 10
MODES = {
    ReplayMode.FAILED: "Dead letters, and what was discarded",
    ReplayMode.ALL: "All that was sent, delivered or not",
    ReplayMode.MISSING: "What the endpoint never got",
}
KINDS = {
    BatchKind.CHANNEL_REPLAY: "Replay of a channel",
    BatchKind.DEAD_LETTER_REPLAY: "Replay of dead letters",
    BatchKind.DEAD_LETTER_PURGE: "Discard of dead letters",
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
    """`planned` is None before the first count. `recent` are the newest batches."""

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
    recent = await services.batches.page(store, ALL_MESSAGES, after=None, limit=RECENT)
    async with store.reading() as session:
        names = await services.channels.names(session)
    return render(
        request,
        "replay.html",
        viewer,
        status=asked.status,
        title="Replay",
        nav="deliveries",
        v=FormView(asked, planned, recent.rows),
        channels=names,
        kinds=KINDS,
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
    batch = Batch.of(await services.batches.find(store, ALL_MESSAGES, gid))
    is_replay = batch.kind is BatchKind.CHANNEL_REPLAY
    return render(
        request,
        "batch.html",
        viewer,
        title="Replay" if is_replay else "Batch",
        nav="deliveries" if is_replay else "dead-letters",
        batch=batch,
        heading=f"Replay of {batch.channel}" if is_replay else KINDS[batch.kind],
        share=(batch.completed + batch.failed) / batch.total if batch.total else None,
        is_replay=is_replay,
        is_running=batch.state is BatchState.RUNNING,
    )


@router.post("/batches/{gid}/cancel")
async def cancel(gid: str, viewer: ViewerDep, services: ServicesDep, store: StoreDep, form: FormDep) -> Response:
    await services.batches.cancel(store, viewer.caller.actor, ALL_MESSAGES, gid)
    return see_other(viewer, f"/batches/{gid}")
