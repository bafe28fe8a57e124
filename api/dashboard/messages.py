"""Messages, and one with its deliveries."""

from collections.abc import Mapping
from dataclasses import dataclass

from fastapi import APIRouter, Request, Response
from sqlalchemy.ext.asyncio import AsyncSession

from api.dashboard import filters
from api.dashboard.deliveries import Line, lines_of
from api.dashboard.filters import Filters, MessageChoice
from api.dashboard.pages import OperatorDep, Pager, PageRoute, StoreDep, after, pager, render
from api.problems import not_found
from api.query import several
from everhook.contracts import DeliveryStatus
from everhook.delivery import store as deliveries
from everhook.delivery.store import DeliveryFilter
from everhook.publishing import store as messages
from everhook.publishing.store import MessageFilter
from everhook.storage.paging import Page
from everhook.storage.tables import Message
from everhook.tenants import store as tenants

PAGE = 50

router = APIRouter(route_class=PageRoute, include_in_schema=False, prefix="/messages")


@dataclass(frozen=True)
class ListView:
    messages: tuple[Message, ...]
    tenants: Mapping[str, str]
    filters: Filters[MessageChoice]
    pager: Pager


@dataclass(frozen=True)
class DetailView:
    """`lines` are the newest deliveries; `more`: there are others. `counts` are of all, by status."""

    message: Message
    tenant: str | None
    lines: tuple[Line, ...]
    counts: Mapping[DeliveryStatus, int]
    more: bool


@router.get("")
async def show_list(request: Request, viewer: OperatorDep, store: StoreDep, cursor: str = "") -> Response:
    asked = filters.read(MessageChoice, request.query_params)
    async with store.reading() as session:
        names = await filters.channel_names(session)
        page = await _page(session, asked.choice, after("/messages", asked.chosen, cursor))
        owners = await tenants.names(session, {row.tenant_gid for row in page.rows if row.tenant_gid})
    view = ListView(
        messages=tuple(page.rows),
        tenants=owners,
        filters=asked,
        pager=pager("/messages", asked.chosen, cursor, page.next_key),
    )
    return render(
        request, "messages.html", viewer, status=asked.status, title="Messages", nav="messages", v=view, channels=names
    )


async def _page(session: AsyncSession, choice: MessageChoice | None, behind: str | None) -> Page[Message]:
    """Nothing where it is not clear what is wanted."""
    if choice is None:
        return Page((), None)
    tenant_gids = await tenants.chosen_gids(session, choice.tenant)
    chosen = MessageFilter(tenant_gids, several(choice.channel), several(choice.type), choice.since, choice.until)
    return await messages.page(session, chosen, after=behind, limit=PAGE)


@router.get("/{gid}")
async def show_one(gid: str, request: Request, viewer: OperatorDep, store: StoreDep) -> Response:
    async with store.reading() as session:
        message = await messages.get(session, gid)
        if message is None:
            raise not_found("message", gid)
        page = await deliveries.page(session, DeliveryFilter(message_gid=gid), after=None, limit=PAGE)
        lines = await lines_of(session, page.rows)
        counts = await deliveries.counts_of_message(session, gid)
        owners = await tenants.names(session, {message.tenant_gid} if message.tenant_gid else set())
    view = DetailView(
        message=message,
        tenant=owners.get(message.tenant_gid or ""),
        lines=lines,
        counts=counts,
        more=page.next_key is not None,
    )
    return render(request, "message.html", viewer, title=message.event_type, nav="messages", v=view)
