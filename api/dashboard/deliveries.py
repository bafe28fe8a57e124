"""Deliveries: the list of them, and what became of one, attempt by attempt."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby

from fastapi import APIRouter, Request, Response

from api.dashboard import charts, filters, states
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
from everhook.contracts import TERMINAL_STATUSES, DeliveryStatus
from everhook.delivery.policy import resolve
from everhook.delivery.service import DeliveryService, rendered_body
from everhook.endpoints.service import EndpointService
from everhook.errors import InvalidField, NotFound
from everhook.ids import delivery_workflow_id
from everhook.storage.engine import Session
from everhook.storage.paging import Page
from everhook.storage.tables import Attempt, Delivery, Endpoint, Message, Receipt, now
from everhook.storage.tenant_scope import TenantScope

PAGE = 50
ATTEMPTS = 20
"""On the page of a delivery: each may have 16 KiB of a response, and all of it is rendered on the event loop."""

WITHOUT_ATTEMPT = TERMINAL_STATUSES | {
    DeliveryStatus.DEAD_LETTERED,
    DeliveryStatus.AWAITING_DECISION,
    DeliveryStatus.GATED,
    DeliveryStatus.QUEUED,
}
"""No attempt can be asked for."""

STATUSES = (("", "Any"), *((status.value, status.value.replace("_", " ")) for status in DeliveryStatus))
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
    """`schedule` is None where a release that kept no history opened the round."""

    number: int
    attempts: tuple[Attempt, ...]
    schedule: Chart | None


@dataclass(frozen=True)
class SentBody:
    """The body of one attempt's request. `content` is None if it cannot be rendered again."""

    attempt: Attempt
    content: bytes | None


@dataclass(frozen=True)
class DetailView:
    """`rounds` with the newest first, and in each the newest attempt. `receipts` are by the gids of attempts.

    `is_moving`: it is not at rest. `schedule` is that of the current round, `schedule_of_replay` that of the next one
    where it would be another. `task_gid` is what people are asked, if it goes to an inbox, which has no schedule.
    """

    delivery: Delivery
    message: Message
    endpoint: Endpoint | None
    rounds: tuple[Round, ...]
    receipts: Mapping[str, Receipt]
    cursor: str
    pager: Pager
    sent: SentBody | None
    next_attempt_at: datetime | None
    waiting_for: str
    is_moving: bool
    schedule: Chart | None
    schedule_of_replay: Chart | None
    task_gid: str | None
    workflow_url: str | None
    may_attempt_now: bool
    may_replay: bool
    may_send_again: bool


async def lines_of(endpoints: EndpointService, session: Session, rows: Collection[Delivery]) -> tuple[Line, ...]:
    known = await endpoints.by_gid(session, {row.endpoint_gid for row in rows})
    return tuple(Line(row, known.get(row.endpoint_gid)) for row in rows)


@router.get("")
async def show_list(
    request: Request, viewer: ViewerDep, services: ServicesDep, store: StoreDep, cursor: str = ""
) -> Response:
    asked = filters.read(DeliveryChoice, request.query_params)
    previous = after("/deliveries", asked.chosen, cursor)
    page: Page[Delivery] = Page((), None)
    async with store.reading() as session:
        names = await services.channels.names(session)
        try:
            if asked.choice is not None:
                page = await services.deliveries.page(session, asked.choice.query(), after=previous, limit=PAGE)
        except InvalidField as error:
            asked = asked.refused(error)
        lines = await lines_of(services.endpoints, session, page.rows)
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


@router.get("/{gid}")
async def show_one(
    gid: str,
    request: Request,
    viewer: ViewerDep,
    services: ServicesDep,
    store: StoreDep,
    cursor: str = "",
    attempt: str = "",
) -> Response:
    """`attempt` is the one whose body is shown; the newest, unless given."""
    view = await _detail(gid, request, viewer, services, store, cursor, attempt)
    return render(
        request, "delivery.html", viewer, title=f"{view.delivery.event_type} delivery", nav="deliveries", v=view
    )


@router.get("/{gid}/body")
async def download_body(
    gid: str, viewer: ViewerDep, services: ServicesDep, store: StoreDep, attempt: str = ""
) -> Response:
    """The body of an attempt as a file, for `everhook receipts verify --body`."""
    async with store.reading() as session:
        if await _shown_attempt(services.deliveries, session, gid, attempt) is None:
            raise NotFound("attempt", attempt)
        body = await services.deliveries.sent_body(session, attempt)
    headers = {
        "content-disposition": f'attachment; filename="{attempt}.bin"',
        "x-content-type-options": "nosniff",
    }
    return Response(body.content, media_type="application/octet-stream", headers=headers)


async def _detail(
    gid: str, request: Request, viewer: Viewer, services: Services, store: TenantScope, cursor: str, attempt: str
) -> DetailView:
    previous = after(f"/deliveries/{gid}", {}, cursor)
    async with store.reading() as session:
        delivery, message = await services.deliveries.find_with_message(session, gid)
        view = await services.deliveries.view(session, delivery, after=previous, limit=ATTEMPTS)
        page = view.page
        shown = await _shown_attempt(services.deliveries, session, gid, attempt) or next(iter(page.attempts), None)
        known = await services.endpoints.by_gid(session, {delivery.endpoint_gid})
        policies = {number: policy for number, (_, policy) in view.rounds.items()}
        channel = await services.channels.find(session, delivery.channel)
        task_gid = await services.tasks.of_delivery(session, gid)
        sent = await _sent(session, message, shown)
    endpoint = known.get(delivery.endpoint_gid)
    status = delivery.status
    today = resolve(channel.policy if channel else None, endpoint.policy if endpoint else None)
    schedules = {number: charts.schedule(policy) for number, policy in policies.items()}
    may_replay = status is DeliveryStatus.DEAD_LETTERED
    return DetailView(
        delivery=delivery,
        message=message,
        endpoint=endpoint,
        rounds=_rounds(page.attempts, schedules),
        receipts=page.receipts,
        cursor=cursor,
        pager=pager(f"/deliveries/{gid}", {}, cursor, page.next_key),
        sent=sent,
        next_attempt_at=view.next_attempt_at,
        waiting_for=_waiting_for(delivery, viewer),
        is_moving=status not in TERMINAL_STATUSES and status is not DeliveryStatus.DEAD_LETTERED,
        schedule=schedules.get(delivery.round) if task_gid is None else None,
        schedule_of_replay=charts.schedule(today)
        if may_replay and policies.get(delivery.round) != today and task_gid is None
        else None,
        task_gid=task_gid,
        workflow_url=_workflow_url(request, viewer, services, gid),
        may_attempt_now=status not in WITHOUT_ATTEMPT,
        may_replay=may_replay,
        may_send_again=status in TERMINAL_STATUSES
        and message.payload is not None
        and (endpoint is None or endpoint.deleted_at is None),
    )


def _waiting_for(delivery: Delivery, viewer: Viewer) -> str:
    is_late = delivery.due_at is not None and delivery.due_at < now()
    if delivery.status is DeliveryStatus.ACCEPTED and is_late and viewer.tenant_gid is None:
        return states.LATE
    return states.WAITING_FOR.get(delivery.status, "")


async def _shown_attempt(deliveries: DeliveryService, session: Session, gid: str, attempt: str) -> Attempt | None:
    """The attempt of a delivery that an address names."""
    found = await deliveries.find_attempt(session, attempt) if attempt else None
    return found if found is not None and found.delivery_gid == gid else None


def _rounds(attempts: Sequence[Attempt], schedules: Mapping[int, Chart]) -> tuple[Round, ...]:
    """`attempts` are the newest first, and so are the rounds."""
    by_round = groupby(attempts, key=lambda attempt: attempt.round)
    return tuple(Round(number, tuple(rows), schedules.get(number)) for number, rows in by_round)


async def _sent(session: Session, message: Message, attempt: Attempt | None) -> SentBody | None:
    if attempt is None or not attempt.request_sha256:
        return None
    return SentBody(attempt, await rendered_body(session, message, attempt))


def _workflow_url(request: Request, viewer: Viewer, services: Services, gid: str) -> str | None:
    """Tenants have no business in the Temporal UI."""
    ui = dashboard_of(request).settings.temporal_ui_url
    if ui is None or viewer.tenant_gid is not None:
        return None
    workflow = delivery_workflow_id(gid).replace("/", "%2F")
    return f"{ui.rstrip('/')}/namespaces/{services.temporal.namespace}/workflows/{workflow}"


@router.post("/{gid}/attempt-now")
async def attempt_now(gid: str, viewer: ViewerDep, services: ServicesDep, store: StoreDep, form: FormDep) -> Response:
    await services.deliveries.attempt_now(store, viewer.caller.actor, gid)
    return see_other(viewer, f"/deliveries/{gid}", "attempt-now")


@router.post("/{gid}/replay")
async def replay(gid: str, viewer: ViewerDep, services: ServicesDep, store: StoreDep, form: FormDep) -> Response:
    await services.dead_letters.replay(store, viewer.caller.actor, gid, form.get("reason"))
    return see_other(viewer, f"/deliveries/{gid}", "replay")


@router.post("/{gid}/send-again")
async def send_again(gid: str, viewer: ViewerDep, services: ServicesDep, store: StoreDep, form: FormDep) -> Response:
    async with store.writing() as session:
        delivery = await services.deliveries.find(session, gid)
        redelivery = await services.redelivery.redeliver(
            session,
            viewer.caller.actor,
            delivery.message_gid,
            endpoint_gid=delivery.endpoint_gid,
            reason=form.get("reason"),
        )
    services.redelivery.start(redelivery)
    return see_other(viewer, f"/deliveries/{gid}", "again")


@router.post("/{gid}/discard")
async def discard(gid: str, viewer: ViewerDep, services: ServicesDep, store: StoreDep, form: FormDep) -> Response:
    await services.dead_letters.discard(store, viewer.caller.actor, gid, form.get("reason"))
    return see_other(viewer, f"/deliveries/{gid}", "discard")
