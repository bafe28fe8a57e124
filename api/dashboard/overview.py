"""The first page: what is wrong, since when, and how much goes through."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from async_lru import alru_cache
from fastapi import APIRouter, FastAPI, Request, Response
from jinja2 import Environment
from markupsafe import Markup
from sse_starlette import EventSourceResponse

from api.dashboard import charts, live, states, text
from api.dashboard.charts import Band, Chart, Column
from api.dashboard.live import Regions
from api.dashboard.pages import PageRoute, Viewer, ViewerDep, dashboard_of, render
from api.dependencies import Services
from everhook.circuit.machine import CircuitState, Hold
from everhook.contracts import DeadLetterReason
from everhook.health.backlog_store import COUNT_AT_MOST, Backlog
from everhook.health.overview_store import Overview, ScoredEndpoint
from everhook.health.score import AttemptStats, Level
from everhook.health.store import Bucket, RecurringError

REGIONS = ("headline", "figures", "traffic", "circuits", "dead", "faults")
WORST_SHOWN, FAULTS_SHOWN = 10, 6
LONG_WAIT = timedelta(seconds=30)
"""A delivery that waits to be started for longer means that Temporal or its workers are down."""

RENDERED_FOR_S = 1.0
CACHED_SCOPES = 100

SERIES = (("delivered", "ok"), ("to be retried", "warn"), ("rejected", "bad"))
BANDS = (
    ("under 100 ms", "under_100", "band-1"),
    ("100 to 500 ms", "under_500", "band-2"),
    ("0.5 to 2 s", "under_2000", "band-3"),
    ("over 2 s", "slower", "band-4"),
)

router = APIRouter(route_class=PageRoute, include_in_schema=False)


@dataclass(frozen=True)
class Scope:
    """The tenant whose overview is shown (None: all tenants), and the path that its links begin with."""

    base: str
    tenant_gid: str | None

    @classmethod
    def of(cls, viewer: Viewer) -> "Scope":
        return cls(viewer.base, viewer.tenant_gid)


@dataclass(frozen=True)
class Trouble:
    """One thing that is wrong, and the page on which it can be fixed."""

    what: str
    path: str
    severe: bool = True


@dataclass(frozen=True)
class Reason:
    reason: DeadLetterReason
    label: str
    count: int
    share: float


@dataclass(frozen=True)
class OverviewView:
    """`hour` sums up the last hour. `oldest` is the longest wait of what is parked or not started."""

    troubles: tuple[Trouble, ...]
    accepted: int
    hour: AttemptStats
    under_500: float | None
    backlog: Backlog
    oldest: datetime | None
    traffic: Chart
    latency: Chart
    ailing: tuple[ScoredEndpoint, ...]
    faults: tuple[RecurringError, ...]
    reasons: tuple[Reason, ...]
    has_endpoints: bool


class Overviews:
    """The page's regions, shared by all viewers of the same scope: rendered once a second at most, from figures that
    the board reads every few seconds at most."""

    def __init__(self, app: FastAPI, templates: Environment) -> None:
        self._app = app
        self._templates = templates
        self._regions = alru_cache(maxsize=CACHED_SCOPES, ttl=RENDERED_FOR_S)(self._render)

    async def regions(self, scope: Scope) -> Regions:
        return await self._regions(scope)

    async def _render(self, scope: Scope) -> Regions:
        services: Services = self._app.state.services
        view = _view(await services.health.overview(services.scope_of(scope.tenant_gid)))
        return {
            region: self._templates.get_template(f"overview/{region}.html").render(
                v=view, base=scope.base, of_tenant=scope.tenant_gid is not None, now=datetime.now(UTC)
            )
            for region in REGIONS
        }


def install(app: FastAPI, templates: Environment) -> None:
    """Begin to keep the rendered regions. The routes are included with those of the other pages."""
    app.state.overviews = Overviews(app, templates)


def _overviews(request: Request) -> Overviews:
    overviews: Overviews = request.app.state.overviews
    return overviews


@router.get("/")
async def show(request: Request, viewer: ViewerDep) -> Response:
    regions = await _overviews(request).regions(Scope.of(viewer))
    shown = {name: Markup(html) for name, html in regions.items()}  # noqa: S704 - our own templates' markup
    return render(request, "overview.html", viewer, title="Overview", nav="overview", regions=shown)


@router.get("/live")
async def follow(request: Request, viewer: ViewerDep) -> Response:
    """The regions of the overview, whenever they change."""
    overviews, scope = _overviews(request), Scope.of(viewer)

    async def load() -> Regions:
        return await overviews.regions(scope)

    stream = dashboard_of(request).broadcaster.stream(str(scope), load, request.headers.get("last-event-id"))
    return EventSourceResponse(stream, ping=live.PING_EVERY_S)


def _view(board: Overview) -> OverviewView:
    hour, backlog = board.hour, board.backlog
    quick = hour.under_100 + hour.under_500
    waits = (backlog.undispatched.oldest, backlog.parked.oldest)
    dead = backlog.dead_letter_count
    return OverviewView(
        troubles=_troubles(backlog, board.at),
        accepted=board.accepted,
        hour=hour,
        under_500=quick / hour.responses if hour.responses else None,
        backlog=backlog,
        oldest=min((oldest for oldest in waits if oldest is not None), default=None),
        traffic=traffic("Attempts a minute over the last hour", board.series),
        latency=latency("Response time over the last hour", hour),
        ailing=tuple(each for each in board.worst if _is_ailing(each))[:WORST_SHOWN],
        faults=tuple(board.faults[:FAULTS_SHOWN]),
        reasons=tuple(
            Reason(reason, states.REASONS.get(reason, ""), count, count / dead)
            for reason, count in backlog.dead_letters.items()
        ),
        has_endpoints=bool(backlog.circuits),
    )


def _is_ailing(scored: ScoredEndpoint) -> bool:
    return (
        scored.health.level in (Level.FAILING, Level.DEGRADED)
        or scored.circuit.state is not CircuitState.CLOSED
        or scored.circuit.hold is not None
        or bool(scored.alerts)
    )


def _troubles(backlog: Backlog, moment: datetime) -> tuple[Trouble, ...]:
    waiting = backlog.undispatched
    failing = sum(backlog.circuits.get(state, 0) for state in (CircuitState.OPEN, CircuitState.HALF_OPEN))
    disabled = backlog.circuits.get(Hold.DISABLED, 0)
    troubles: list[Trouble] = []
    if waiting.oldest is not None and moment - waiting.oldest > LONG_WAIT:
        count = text.count(waiting.count, COUNT_AT_MOST)
        troubles.append(Trouble(f"{count} accepted, not started: is Temporal up?", "/deliveries?status=accepted"))
    elif backlog.overdue.count:
        what = _number(backlog.overdue.count, "delivery", "deliveries")
        troubles.append(Trouble(f"{what} overdue: does a worker run?", "/deliveries?status=retrying"))
    if failing:
        what = _number(failing, "circuit not closed", "circuits not closed")
        troubles.append(Trouble(what, "/endpoints?state=failing"))
    if disabled:
        what = _number(disabled, "endpoint disabled", "endpoints disabled")
        troubles.append(Trouble(what, "/endpoints?state=disabled"))
    if dead := backlog.dead_letter_count:
        troubles.append(Trouble(_number(dead, "dead letter", "dead letters"), "/dead-letters", severe=False))
    return tuple(troubles)


def _number(number: int, one: str, many: str) -> str:
    return f"{text.count(number, COUNT_AT_MOST)} {one if number == 1 else many}"


def traffic(label: str, series: Sequence[Bucket]) -> Chart:
    """Attempts by their verdict, along time."""
    steps = [Column(each.since, (each.stats.delivered, each.stats.retried, each.stats.rejected)) for each in series]
    return charts.columns(label, SERIES, steps)


def latency(label: str, stats: AttemptStats) -> Chart:
    return charts.shares(label, [Band(name, getattr(stats, field), kind) for name, field, kind in BANDS])
