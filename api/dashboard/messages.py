"""Messages, and one with its deliveries."""

from collections.abc import Mapping
from dataclasses import dataclass

from fastapi import APIRouter, Request, Response

from api.dashboard import filters
from api.dashboard.deliveries import Line, lines_of
from api.dashboard.filters import Filters, MessageChoice
from api.dashboard.pages import FormDep, OperatorDep, Pager, PageRoute, StoreDep, after, pager, render, see_other
from api.dependencies import ServicesDep
from everhook.contracts import DeliveryStatus
from everhook.publishing.gate_progress_store import GateView
from everhook.publishing.service import MessageView
from everhook.storage.paging import Page
from everhook.storage.tables import Endpoint, Message

PAGE = 50

router = APIRouter(route_class=PageRoute, include_in_schema=False, prefix="/messages")


@dataclass(frozen=True)
class ListView:
    messages: tuple[MessageView, ...]
    filters: Filters[MessageChoice]
    pager: Pager


@dataclass(frozen=True)
class DetailView:
    """`lines` are the newest deliveries; `more`: there are others. `counts` are of all, by status. `gate` is what they
    waited or wait for, and `inboxes` are those of its steps. `waits`: it has none before its time."""

    message: Message
    tenant: str | None
    lines: tuple[Line, ...]
    counts: Mapping[DeliveryStatus, int]
    more: bool
    gate: GateView | None
    inboxes: Mapping[str, Endpoint]
    waits: bool


@router.get("")
async def show_list(
    request: Request, viewer: OperatorDep, services: ServicesDep, store: StoreDep, cursor: str = ""
) -> Response:
    asked = filters.read(MessageChoice, request.query_params)
    page: Page[MessageView] = Page((), None)
    async with store.reading() as session:
        names = await services.channels.names(session)
        if asked.choice is not None:
            previous = after("/messages", asked.chosen, cursor)
            page = await services.messages.page(session, asked.choice.query(), after=previous, limit=PAGE)
    view = ListView(
        messages=tuple(page.rows),
        filters=asked,
        pager=pager("/messages", asked.chosen, cursor, page.next_key),
    )
    return render(
        request, "messages.html", viewer, status=asked.status, title="Messages", nav="messages", v=view, channels=names
    )


@router.get("/{gid}")
async def show_one(gid: str, request: Request, viewer: OperatorDep, services: ServicesDep, store: StoreDep) -> Response:
    async with store.reading() as session:
        detail = await services.messages.get(session, gid, max_deliveries=PAGE)
        lines = await lines_of(services.endpoints, session, detail.deliveries)
        steps = detail.gate.steps if detail.gate is not None else ()
        inboxes = await services.endpoints.by_gid(session, {step.inbox for step in steps if step.inbox})
    view = DetailView(
        message=detail.message,
        tenant=detail.tenant,
        lines=lines,
        counts=detail.counts,
        more=detail.has_more_deliveries,
        gate=detail.gate,
        inboxes=inboxes,
        waits=detail.waits,
    )
    return render(request, "message.html", viewer, title=detail.message.event_type, nav="messages", v=view)


@router.post("/{gid}/cancel")
async def cancel(gid: str, viewer: OperatorDep, services: ServicesDep, store: StoreDep, form: FormDep) -> Response:
    await services.messages.cancel(store, viewer.caller.actor, gid)
    return see_other(viewer, f"/messages/{gid}", "cancelled")


@router.post("/{gid}/send-again")
async def send_again(gid: str, viewer: OperatorDep, services: ServicesDep, store: StoreDep, form: FormDep) -> Response:
    async with store.writing() as session:
        redelivery = await services.redelivery.redeliver(session, viewer.caller.actor, gid, reason=form.get("reason"))
    services.redelivery.start(redelivery)
    return see_other(viewer, f"/messages/{gid}", "again")
