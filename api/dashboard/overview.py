"""The first page: what is wrong, since when, and how much goes through."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from fastapi import APIRouter, Request, Response
from markupsafe import Markup
from sqlalchemy.ext.asyncio import AsyncSession
from sse_starlette import EventSourceResponse

from api.dashboard import charts, live, text
from api.dashboard.charts import Band, Chart, Column
from api.dashboard.live import Regions
from api.dashboard.pages import PageRoute, StoreDep, Viewer, ViewerDep, dashboard_of, markup, render
from everhook.contracts import DeadLetterReason
from everhook.storage import overview
from everhook.storage.endpoint_list import Listed
from everhook.storage.overview import COUNT_AT_MOST, Minute, Waiting
from everhook.storage.reach import Reach
from everhook.storage.tables import now

REGIONS = ("headline", "figures", "traffic", "circuits", "dead")
WINDOW_MINUTES = 60
TROUBLED_AT_MOST = 20
LONG_WAIT = timedelta(seconds=30)
"""A start that is this long in coming means that Temporal or its workers are away."""

REASONS = {
    DeadLetterReason.EXHAUSTED: "every attempt failed",
    DeadLetterReason.REJECTED: "the endpoint refused it",
    DeadLetterReason.BLOCKED: "the address is not allowed",
    DeadLetterReason.CIRCUIT_OPEN: "the circuit stayed open",
    DeadLetterReason.ENDPOINT_DISABLED: "the endpoint is disabled",
    DeadLetterReason.ENDPOINT_DELETED: "the endpoint was deleted",
}

router = APIRouter(route_class=PageRoute, include_in_schema=False)


@dataclass(frozen=True)
class Trouble:
    """One thing that is wrong, and the page on which it is mended."""

    what: str
    path: str
    severe: bool = True


@dataclass(frozen=True)
class Reason:
    reason: DeadLetterReason
    told: str
    count: int
    share: float


@dataclass(frozen=True)
class OverviewView:
    """`success` and the latencies are of the last hour."""

    troubles: tuple[Trouble, ...]
    accepted_a_minute: int
    attempts: int
    success: float | None
    average_ms: float | None
    under_500: float | None
    waiting: Waiting
    oldest: datetime | None
    traffic: Chart
    latency: Chart
    circuits: tuple[Listed, ...]
    reasons: tuple[Reason, ...]
    dead_letters: int
    has_endpoints: bool


@router.get("/")
async def show(request: Request, viewer: ViewerDep, store: StoreDep) -> Response:
    regions = await _regions(request, viewer, store)
    shown = {name: Markup(html) for name, html in regions.items()}  # noqa: S704 - our own templates' markup
    return render(request, "overview.html", viewer, title="Overview", nav="overview", regions=shown)


@router.get("/live")
async def follow(request: Request, viewer: ViewerDep, store: StoreDep) -> Response:
    """The regions of the overview, whenever they change."""

    async def look() -> Regions:
        return await _regions(request, viewer, store)

    stream = dashboard_of(request).broadcaster.stream(_scope(viewer), look, request.headers.get("last-event-id"))
    return EventSourceResponse(stream, ping=live.PING_EVERY_S)


async def _regions(request: Request, viewer: Viewer, store: Reach) -> Regions:
    """The parts of the page, the same for everybody who sees the same things, and looked at once a second at most."""

    async def look() -> Regions:
        async with store.reading() as session:
            view = await _view(session)
        return {name: markup(request, f"overview/{name}.html", viewer, v=view) for name in REGIONS}

    return await dashboard_of(request).overviews.get(_scope(viewer), look)


def _scope(viewer: Viewer) -> str:
    return f"{viewer.base} {viewer.tenant_gid}"


async def _view(session: AsyncSession) -> OverviewView:
    begin = now().replace(second=0, microsecond=0) - timedelta(minutes=WINDOW_MINUTES - 1)
    hour = await overview.minutes(session, begin)
    circuits = await overview.troubled(session, TROUBLED_AT_MOST)
    reasons = await overview.dead_letters_by_reason(session)
    waiting = await overview.waiting(session)
    attempts = sum(minute.delivered + minute.retried + minute.rejected for minute in hour)
    dead = sum(reasons.values())
    return OverviewView(
        troubles=_troubles(circuits, dead, waiting),
        accepted_a_minute=await overview.accepted_messages(session, timedelta(minutes=1)),
        attempts=attempts,
        success=sum(minute.delivered for minute in hour) / attempts if attempts else None,
        average_ms=sum(minute.duration_ms for minute in hour) / attempts if attempts else None,
        under_500=sum(minute.under_100 + minute.under_500 for minute in hour) / attempts if attempts else None,
        waiting=waiting,
        oldest=min(filter(None, (waiting.oldest_undispatched, waiting.oldest_parked)), default=None),
        traffic=traffic("Attempts a minute over the last hour", hour, begin, WINDOW_MINUTES),
        latency=latency("How long answers took over the last hour", hour),
        circuits=tuple(circuits),
        reasons=tuple(Reason(reason, REASONS[reason], count, count / dead) for reason, count in reasons.items()),
        dead_letters=dead,
        has_endpoints=await overview.has_endpoints(session),
    )


def _troubles(circuits: list[Listed], dead: int, waiting: Waiting) -> tuple[Trouble, ...]:
    failing = [each for each in circuits if each.circuit.hold is None]
    disabled = [each for each in circuits if each.circuit.hold == "disabled"]
    troubles: list[Trouble] = []
    if waiting.oldest_undispatched is not None and now() - waiting.oldest_undispatched > LONG_WAIT:
        count = text.count(waiting.undispatched, COUNT_AT_MOST)
        troubles.append(Trouble(f"{count} accepted, not started: is Temporal up?", "/deliveries?status=accepted"))
    if failing:
        troubles.append(
            Trouble(_number(len(failing), "circuit not closed", "circuits not closed"), "/endpoints?state=failing")
        )
    if disabled:
        troubles.append(
            Trouble(_number(len(disabled), "endpoint disabled", "endpoints disabled"), "/endpoints?state=disabled")
        )
    if dead:
        troubles.append(Trouble(_number(dead, "dead letter", "dead letters"), "/dead-letters", severe=False))
    return tuple(troubles)


def _number(number: int, one: str, many: str) -> str:
    return f"{text.count(number)} {one if number == 1 else many}"


SERIES = (("delivered", "ok"), ("to be retried", "warn"), ("rejected", "bad"))


def traffic(label: str, minutes: list[Minute], begin: datetime, steps: int, step_minutes: int = 1) -> Chart:
    """Attempts by their verdict, in `steps` columns of so many minutes."""
    return charts.columns(label, SERIES, stepped(minutes, begin, steps, step_minutes))


def stepped(minutes: list[Minute], begin: datetime, steps: int, step_minutes: int) -> list[Column]:
    counts = [[0, 0, 0] for _ in range(steps)]
    for each in minutes:
        at = int((each.minute - begin).total_seconds() // (60 * step_minutes))
        if 0 <= at < steps:
            for series, number in enumerate((each.delivered, each.retried, each.rejected)):
                counts[at][series] += number
    width = timedelta(minutes=step_minutes)
    return [Column(begin + at * width, tuple(count)) for at, count in enumerate(counts)]


def latency(label: str, minutes: list[Minute]) -> Chart:
    bands = (
        ("under 100 ms", "under_100", "band-1"),
        ("100 to 500 ms", "under_500", "band-2"),
        ("0.5 to 2 s", "under_2000", "band-3"),
        ("over 2 s", "slower", "band-4"),
    )
    return charts.shares(
        label, [Band(name, sum(getattr(minute, field) for minute in minutes), kind) for name, field, kind in bands]
    )
