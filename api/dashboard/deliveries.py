"""Deliveries: the list of them, and what became of one, attempt by attempt."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any

from fastapi import APIRouter, Request, Response
from sqlalchemy.ext.asyncio import AsyncSession

from api.dashboard import charts, filters
from api.dashboard.charts import Chart
from api.dashboard.filters import DeliveryChoice, Filters
from api.dashboard.pages import (
    FormDep,
    Pager,
    PageRoute,
    StoreDep,
    Viewer,
    ViewerDep,
    after,
    dashboard_of,
    pager,
    render,
    see_other,
)
from api.dependencies import Services, ServicesDep
from api.problems import not_found
from api.routers import dead_letters as dead_letters_api
from api.routers import deliveries as api
from api.schemas import Decision
from everhook.contracts import TERMINAL_STATUSES, DeliveryStatus
from everhook.ids import delivery_workflow_id
from everhook.policy import resolve
from everhook.storage import channels, deliveries, endpoints, receipts, tenants
from everhook.storage.deliveries import DeliveryFilter
from everhook.storage.paging import Page
from everhook.storage.reach import Reach
from everhook.storage.tables import Attempt, Delivery, Endpoint, Message, Receipt

PAGE = 50

STATUSES = (("", "Any"), *((status.value, status.value.replace("_", " ")) for status in DeliveryStatus))
WAITING_FOR = {
    DeliveryStatus.ACCEPTED: (
        "Its first attempt is under way, or it waits for its workflow. If this lasts, Temporal or its workers are away."
    ),
    DeliveryStatus.SENDING: "An attempt is being made.",
    DeliveryStatus.RETRYING: "The last attempt failed; the next is on the schedule.",
    DeliveryStatus.PARKED: "The endpoint's circuit is open, or it is paused or disabled. Goes out when that ends.",
    DeliveryStatus.DEAD_LETTERED: "No attempt is due. Replay it to begin a new round, or discard it.",
}

router = APIRouter(route_class=PageRoute, include_in_schema=False, prefix="/deliveries")


@dataclass(frozen=True)
class Line:
    """A delivery in a list, here and on the pages of dead letters and messages."""

    delivery: Delivery
    endpoint: Endpoint | None


@dataclass(frozen=True)
class ListView:
    lines: tuple[Line, ...]
    filters: Filters[DeliveryChoice]
    pager: Pager


@dataclass(frozen=True)
class Round:
    number: int
    attempts: tuple[Attempt, ...]


@dataclass(frozen=True)
class DetailView:
    """`rounds` with the newest first, and in each the newest attempt. `receipts` are by the gids of attempts."""

    delivery: Delivery
    message: Message
    endpoint: Endpoint | None
    rounds: tuple[Round, ...]
    receipts: Mapping[str, Receipt]
    next_attempt_at: datetime | None
    waiting_for: str | None
    schedule: Chart
    workflow_url: str | None
    may_attempt_now: bool
    may_replay: bool


async def lines_of(session: AsyncSession, rows: Collection[Delivery]) -> tuple[Line, ...]:
    known = await endpoints.by_gid(session, {row.endpoint_gid for row in rows})
    return tuple(Line(row, known.get(row.endpoint_gid)) for row in rows)


@router.get("")
async def show_list(request: Request, viewer: ViewerDep, store: StoreDep, cursor: str = "") -> Response:
    asked = filters.read(DeliveryChoice, request.query_params)
    async with store.reading() as session:
        names = await filters.channel_names(session)
        page = await _page(session, asked.choice, cursor)
        lines = await lines_of(session, page.rows)
    view = ListView(
        lines=lines,
        filters=asked,
        pager=pager("/deliveries", asked.chosen, cursor, page.next_key),
    )
    return render(
        request,
        "deliveries.html",
        viewer,
        status=asked.status,
        title="Deliveries",
        nav="deliveries",
        v=view,
        channels=names,
        statuses=STATUSES,
    )


async def _page(session: AsyncSession, choice: DeliveryChoice | None, cursor: str) -> Page[Delivery]:
    """Nothing where it is not clear what is wanted."""
    if choice is None:
        return Page((), None)
    chosen = DeliveryFilter(
        tenant_gid=await tenants.chosen_gid(session, choice.tenant),
        message_gid=choice.message,
        endpoint_gid=choice.endpoint,
        channel=choice.channel,
        event_type=choice.type,
        status=choice.status,
        since=choice.since,
        until=choice.until,
    )
    return await deliveries.page(session, chosen, after=after(cursor), limit=PAGE)


@router.get("/{gid}")
async def show_one(gid: str, request: Request, viewer: ViewerDep, services: ServicesDep, store: StoreDep) -> Response:
    view = await _detail(gid, request, viewer, services, store)
    return render(
        request, "delivery.html", viewer, title=f"{view.delivery.event_type} delivery", nav="deliveries", v=view
    )


async def _detail(gid: str, request: Request, viewer: Viewer, services: Services, store: Reach) -> DetailView:
    async with store.reading() as session:
        found = await deliveries.with_message(session, gid)
        if found is None:
            raise not_found("delivery", gid)
        delivery, message = found
        attempts = await deliveries.attempts_of(session, gid)
        stated = await receipts.of_delivery(session, gid)
        known = await endpoints.by_gid(session, {delivery.endpoint_gid})
        channel = await channels.get(session, delivery.channel)
    endpoint = known.get(delivery.endpoint_gid)
    status = delivery.status
    policy = resolve(channel.policy if channel else None, endpoint.policy if endpoint else None)
    return DetailView(
        delivery=delivery,
        message=message,
        endpoint=endpoint,
        rounds=_rounds(attempts),
        receipts={receipt.attempt_gid: receipt for receipt in stated},
        next_attempt_at=delivery.due_at if status is DeliveryStatus.RETRYING else None,
        waiting_for=WAITING_FOR.get(status),
        schedule=charts.schedule(policy, made=delivery.attempts),
        workflow_url=_workflow_url(request, viewer, services, gid),
        may_attempt_now=status not in TERMINAL_STATUSES and status is not DeliveryStatus.DEAD_LETTERED,
        may_replay=status is DeliveryStatus.DEAD_LETTERED,
    )


def _rounds(attempts: Any) -> tuple[Round, ...]:
    rounds = groupby(attempts, key=lambda attempt: attempt.round)
    return tuple(reversed([Round(number, tuple(reversed([*made]))) for number, made in rounds]))


def _workflow_url(request: Request, viewer: Viewer, services: Services, gid: str) -> str | None:
    """Tenants have no business in the Temporal UI."""
    ui = dashboard_of(request).settings.temporal_ui_url
    if ui is None or viewer.tenant_gid is not None:
        return None
    workflow = delivery_workflow_id(gid).replace("/", "%2F")
    return f"{ui.rstrip('/')}/namespaces/{services.temporal.namespace}/workflows/{workflow}"


@router.post("/{gid}/attempt-now")
async def attempt_now(gid: str, viewer: ViewerDep, services: ServicesDep, store: StoreDep, form: FormDep) -> Response:
    await api.attempt_now(gid, services, store, viewer.caller)
    return see_other(viewer, f"/deliveries/{gid}", "attempt-now")


@router.post("/{gid}/replay")
async def replay(gid: str, viewer: ViewerDep, services: ServicesDep, store: StoreDep, form: FormDep) -> Response:
    await dead_letters_api.replay_one(gid, services, store, viewer.caller, Decision(why=form.get("why")))
    return see_other(viewer, f"/deliveries/{gid}", "replay")


@router.post("/{gid}/discard")
async def discard(gid: str, viewer: ViewerDep, services: ServicesDep, store: StoreDep, form: FormDep) -> Response:
    await dead_letters_api.discard_one(gid, services, store, viewer.caller, Decision(why=form.get("why")))
    return see_other(viewer, f"/deliveries/{gid}", "discard")
