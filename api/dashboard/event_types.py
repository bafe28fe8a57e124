"""The catalogue of event types: for operators, and for tenants what they may subscribe to."""

import json
from dataclasses import dataclass

from fastapi import APIRouter, Request, Response

from api.dashboard.pages import (
    AdminFormDep,
    OperatorDep,
    Pager,
    PageRoute,
    StoreDep,
    ViewerDep,
    after,
    pager,
    render,
    see_other,
)
from api.dependencies import ServicesDep
from everhook.storage.tables import EventType

PAGE = 50
PATH = "/event-types"

router = APIRouter(route_class=PageRoute, include_in_schema=False, prefix=PATH)


@dataclass(frozen=True)
class ListView:
    """`archived`: those that are archived, which tenants do not see."""

    types: tuple[EventType, ...]
    archived: bool
    pager: Pager


@dataclass(frozen=True)
class DetailView:
    """`schema` and `example` are JSON texts."""

    type: EventType
    schema: bytes | None
    example: bytes | None


@router.get("")
async def show_list(
    request: Request, viewer: ViewerDep, services: ServicesDep, store: StoreDep, show: str = "", cursor: str = ""
) -> Response:
    archived = show == "archived"
    chosen = {"show": "archived"} if archived else {}
    async with store.reading() as session:
        page = await services.event_types.page(
            session, archived=archived, after=after(PATH, chosen, cursor), limit=PAGE
        )
    view = ListView(tuple(page.rows), archived, pager(PATH, chosen, cursor, page.next_key))
    return render(request, "event_types.html", viewer, title="Event types", nav="event-types", v=view)


@router.get("/{name:path}")
async def show(name: str, request: Request, viewer: ViewerDep, services: ServicesDep, store: StoreDep) -> Response:
    async with store.reading() as session:
        row = await services.event_types.get(session, name)
    view = DetailView(row, _text(row.payload_schema), _text(row.example))
    return render(request, "event_type.html", viewer, title=row.name, nav="event-types", v=view)


@router.post("/{name:path}")
async def change(
    name: str, viewer: OperatorDep, services: ServicesDep, store: StoreDep, form: AdminFormDep
) -> Response:
    """Archive or restore it."""
    archived = form.get("archived") == "yes"
    row = await services.event_types.update(store, viewer.caller.actor, name, {"archived": archived})
    return see_other(viewer, f"{PATH}/{row.name}", "saved")


def _text(document: object) -> bytes | None:
    return json.dumps(document, ensure_ascii=False).encode() if document is not None else None
