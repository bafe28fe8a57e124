"""Messages, and one with its deliveries."""

from collections.abc import Mapping
from dataclasses import dataclass

from fastapi import APIRouter, Request, Response

from api.dashboard.deliveries import Line, lines_of
from api.dashboard.pages import OperatorDep, PageRoute, StoreDep, query, render
from api.dependencies import decode_cursor, encode_cursor
from api.problems import not_found
from everhook.storage import channels, messages, tenants
from everhook.storage.messages import MessageFilter
from everhook.storage.tables import Message

PAGE = 50
CHANNELS_AT_MOST = 500

router = APIRouter(route_class=PageRoute, include_in_schema=False, prefix="/messages")


@dataclass(frozen=True)
class ListView:
    messages: tuple[Message, ...]
    tenants: Mapping[str, str]
    channel: str
    first: str | None
    more: str | None


@dataclass(frozen=True)
class DetailView:
    message: Message
    tenant: str | None
    lines: tuple[Line, ...]


@router.get("")
async def show_list(
    request: Request, viewer: OperatorDep, store: StoreDep, channel: str = "", cursor: str = ""
) -> Response:
    async with store.reading() as session:
        names = [row.name for row in (await channels.page(session, after=None, limit=CHANNELS_AT_MOST)).rows]
        chosen = MessageFilter(channel=channel or None)
        page = await messages.page(session, chosen, after=decode_cursor(cursor) if cursor else None, limit=PAGE)
        owners = await tenants.names(session, {row.tenant_gid for row in page.rows if row.tenant_gid})
    at = {"channel": channel}
    view = ListView(
        messages=tuple(page.rows),
        tenants=owners,
        channel=channel,
        first="/messages" + query(at) if cursor else None,
        more="/messages" + query({**at, "cursor": encode_cursor(page.next_key)}) if page.next_key else None,
    )
    return render(request, "messages.html", viewer, title="Messages", nav="messages", v=view, channels=names)


@router.get("/{gid}")
async def show_one(gid: str, request: Request, viewer: OperatorDep, store: StoreDep) -> Response:
    async with store.reading() as session:
        message = await messages.get(session, gid)
        if message is None:
            raise not_found("message", gid)
        rows = await messages.deliveries_of(session, gid)
        lines = await lines_of(session, rows)
        owners = await tenants.names(session, {message.tenant_gid} if message.tenant_gid else set())
    view = DetailView(
        message=message,
        tenant=owners.get(message.tenant_gid or ""),
        lines=lines,
    )
    return render(request, "message.html", viewer, title=message.event_type, nav="messages", v=view)
