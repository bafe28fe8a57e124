"""Endpoints: the list of them, and all about one."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, get_args

import orjson
from fastapi import APIRouter, Request, Response
from markupsafe import Markup
from pydantic import ValidationError

from api.dashboard import alerts_form, charts, circuit_form, overview, policy_form, states
from api.dashboard.alerts_form import LimitLine
from api.dashboard.charts import Chart, Column, Span
from api.dashboard.endpoint_names import MODES, endpoint_title
from api.dashboard.forms import AUTH_FIELDS, Form, FormError
from api.dashboard.numbers import number, whole
from api.dashboard.pages import (
    FormDep,
    Pager,
    PageRoute,
    StoreDep,
    Viewer,
    ViewerDep,
    dashboard_of,
    query,
    render,
    render_form,
    see_other,
)
from api.dashboard.shown_once import carried_secret, carry_secret, forget_secret
from api.dashboard.states import CircuitEvent
from api.dependencies import Services, ServicesDep
from api.endpoints.schemas import (
    MAX_REQUESTS_IN_FLIGHT,
    EndpointAuthIn,
    EndpointIn,
    EndpointPatch,
    SecretRotation,
)
from api.problems import Problem, invalid
from api.schemas import Policy
from api.subscriptions.schemas import SubscriptionIn
from everhook.circuit.machine import CircuitPolicy
from everhook.contracts import DeliveryMode
from everhook.credentials.auth import AuthType, fields_of
from everhook.delivery.body_formats import BodyFormat
from everhook.delivery.policy import resolve
from everhook.endpoints.list_store import AttemptRow, EndpointFilter, EndpointRow, EndpointTraffic, Sort, State
from everhook.endpoints.service import EndpointCommand, EndpointList
from everhook.endpoints.store import EndpointView
from everhook.endpoints.subscriptions import NewSubscription
from everhook.errors import DomainError, NotFound
from everhook.health.endpoint_alerts import AlertName, RaisedAlert
from everhook.health.score import AttemptStats, Health, Window
from everhook.health.service import ListedHealth
from everhook.health.store import RecurringError
from everhook.inbox.tasks import defaults_of
from everhook.notifications.events import EventKind
from everhook.pulling.queue_store import QueueView
from everhook.settings import Settings
from everhook.signing.schemes import DEFAULT_SCHEMES, SignatureScheme
from everhook.storage.tables import OperationalEvent, Subscription, now
from everhook.storage.tenant_scope import TenantScope

PAGE = 50
SPARK_STEPS, SPARK_MINUTES = 20, 3
EVENTS_AT_MOST = 200
RECENT_DELIVERIES, RECENT_ATTEMPTS = 20, 15
FAULTS_SHOWN = 5
TYPES_SHOWN = 200

STATES = (("", "Any state"), ("failing", "Circuit open"), ("paused", "Paused"), ("disabled", "Disabled"),
          ("closed", "Circuit closed"))  # fmt: skip
WINDOWS = {Window.HOUR: "the last hour", Window.DAY: "the last 24 hours", Window.WEEK: "the last 7 days"}

HOUR_S = 3_600

GRACES = ((86_400, "a day"), (604_800, "a week"), (3_600, "an hour"), (0, "no time at all: it stops now"))
"""For how many seconds the old secret still signs."""

AS_IT_IS, NO_AUTH = "as-it-is", "none"
"""Values of the field `authType`: the authentication stays (so does it without this field), or there is none."""

AUTH_TYPES = {
    NO_AUTH: "Nothing but the signature",
    AuthType.BEARER.value: "Bearer token",
    AuthType.BASIC.value: "User name and password",
    AuthType.HEADER.value: "A header",
    AuthType.OAUTH2.value: "OAuth 2.0 client credentials",
}
KEPT = "\N{BULLET}" * 5
"""In the form: the value of a custom header that is not shown, and stays as it is."""

router = APIRouter(route_class=PageRoute, include_in_schema=False, prefix="/endpoints")


@dataclass(frozen=True)
class Line:
    """One endpoint of the list, with its last hour."""

    view: EndpointRow
    health: Health
    hour: AttemptStats
    spark: Markup
    dead_letters: int


@dataclass(frozen=True)
class ListView:
    lines: tuple[Line, ...]
    search: str
    state: str
    sort: Sort
    pager: Pager

    @property
    def is_filtered(self) -> bool:
        return bool(self.search or self.state)


@dataclass(frozen=True)
class EventLine:
    """`cause` is empty where the event has none but the operator who asked for it."""

    label: CircuitEvent
    event: OperationalEvent
    cause: str


@dataclass(frozen=True)
class DetailView:
    """`health` is of this moment; the charts and `total` are of the window. `types` are event types with examples, as
    options."""

    view: EndpointView
    health: Health
    window: Window
    total: AttemptStats
    traffic: Chart
    latency: Chart
    states: Chart
    events: tuple[EventLine, ...]
    faults: tuple[RecurringError, ...]
    recent: tuple[AttemptRow, ...]
    subscriptions: tuple[Subscription, ...]
    channels: tuple[str, ...]
    types: tuple[tuple[str, str], ...]
    schedule: Chart
    timeout: timedelta
    circuit_policy: CircuitPolicy
    alerts: Mapping[AlertName, RaisedAlert]
    limits: tuple[LimitLine, ...]
    dead_letters: int
    queue: QueueView | None
    secret: str | None

    @property
    def window_label(self) -> str:
        return WINDOWS[self.window]


@router.get("")
async def show_list(
    request: Request,
    viewer: ViewerDep,
    services: ServicesDep,
    store: StoreDep,
    search: str = "",
    state: str = "",
    sort: str = "newest",
    page: int = 1,
) -> Response:
    chosen = EndpointFilter(search[:200], _one_of(state, State))
    by: Sort = _one_of(sort, Sort) or "newest"
    page = min(max(page, 1), 10_000)
    since = _begin(SPARK_STEPS, SPARK_MINUTES)
    async with store.reading() as session:
        found = await services.endpoints.listed(session, chosen, by, since=since, skip=(page - 1) * PAGE, limit=PAGE)
        healths = await services.health.of_endpoints(session, [row.circuit for row in found.rows], since)
    at = {"search": search, "state": state, "sort": sort}
    view = ListView(
        lines=tuple(_line(row, found, healths[row.endpoint.gid], since) for row in found.rows),
        search=search,
        state=state,
        sort=by,
        pager=Pager(
            first=_address(at) if page > 1 else None,
            more=_address({**at, "page": page + 1}) if found.has_more else None,
        ),
    )
    return render(request, "endpoints.html", viewer, title="Endpoints", nav="endpoints", v=view, choices=STATES)


def _address(parts: Mapping[str, Any]) -> str:
    return "/endpoints" + query(parts)


def _one_of(given: str, options: Any) -> Any:
    return given if given in get_args(options) else None


def _begin(steps: int, minutes: int) -> datetime:
    """Where a window of so many columns begins: its last one is the one that is running."""
    newest = now().replace(second=0, microsecond=0)
    newest -= timedelta(minutes=(newest.hour * 60 + newest.minute) % minutes)
    return newest - timedelta(minutes=minutes * (steps - 1))


def _line(row: EndpointRow, found: EndpointList, health: ListedHealth, since: datetime) -> Line:
    gid = row.endpoint.gid
    return Line(
        view=row,
        health=health.health,
        hour=health.stats,
        spark=_spark(found.traffic.get(gid, ()), since),
        dead_letters=found.dead_letters.get(gid, 0),
    )


def _spark(traffic: Sequence[EndpointTraffic], since: datetime) -> Markup:
    counts = [[0, 0] for _ in range(SPARK_STEPS)]
    for each in traffic:
        at = int((each.minute - since).total_seconds() // (60 * SPARK_MINUTES))
        if 0 <= at < SPARK_STEPS:
            counts[at][0] += each.delivered
            counts[at][1] += each.failed
    delivered, failed = sum(count[0] for count in counts), sum(count[1] for count in counts)
    steps = [Column(since + timedelta(minutes=SPARK_MINUTES * at), tuple(count)) for at, count in enumerate(counts)]
    return charts.sparkline(f"{delivered} delivered, {failed} failed in the last hour", steps)


@router.get("/new")
async def ask_new(request: Request, viewer: ViewerDep, services: ServicesDep, store: StoreDep) -> Response:
    values = {"mode": DeliveryMode.HTTP.value, "format": BodyFormat.ENVELOPE.value, "schedule": "", "channel": ""}
    return await _form(request, viewer, services, store, values, [scheme.value for scheme in DEFAULT_SCHEMES])


@router.post("/new")
async def create(
    request: Request, viewer: ViewerDep, services: ServicesDep, store: StoreDep, form: FormDep
) -> Response:
    try:
        mode = form.get("mode", DeliveryMode.HTTP.value)
        paused = form.get("paused") == "on"
        body = EndpointIn(mode=mode, paused=paused, **_settings(form, mode, {}), **_first_subscription(form, viewer))
        checked = await services.endpoints.check(body.new(), viewer.tenant_gid)
        async with store.writing() as session:
            created = await services.endpoints.create(session, viewer.caller.actor, checked)
    except (ValidationError, Problem, DomainError) as error:
        return await _form(request, viewer, services, store, form.values, form.all("signatures"), error=error)
    response = see_other(viewer, f"/endpoints/{created.view.endpoint.gid}", "created")
    return carry_secret(request, viewer, response, created.secret)


@router.get("/{gid}")
async def show_one(
    gid: str,
    request: Request,
    viewer: ViewerDep,
    services: ServicesDep,
    store: StoreDep,
    window: str = Window.HOUR,
) -> Response:
    chosen = Window(window) if window in set(Window) else Window.HOUR
    view = await _detail(services, store, gid, chosen, carried_secret(request, viewer))
    response = render(
        request,
        "endpoint.html",
        viewer,
        title=endpoint_title(view.view.endpoint),
        nav="endpoints",
        v=view,
        windows=WINDOWS,
        graces=GRACES,
    )
    return forget_secret(request, response)


async def _detail(services: Services, store: TenantScope, gid: str, window: Window, secret: str | None) -> DetailView:
    moment = now()
    begin, label = moment - window.length, WINDOWS[window]
    async with store.reading() as session:
        scored = await services.health.endpoint(session, gid, window)
        view, found = scored.view, scored.health
        activity = await services.endpoints.activity(
            session, gid, begin, events=EVENTS_AT_MOST, deliveries=RECENT_DELIVERIES, attempts=RECENT_ATTEMPTS
        )
        names = await services.channels.names(session)
        types = await services.event_types.with_examples(session, TYPES_SHOWN)
        pulled = view.endpoint.mode.is_pulled
        circuit_policy = await services.endpoints.circuit_policy(session, gid)
        limits = await services.health.alert_limits(session, view.endpoint.tenant_gid, view.endpoint.alerts)
        queue = await services.pulls.view(session, await services.endpoints.pulled(session, gid)) if pulled else None
    events, policy = activity.circuit_events, resolve(view.endpoint.policy)
    return DetailView(
        view=view,
        health=found.health,
        window=window,
        total=found.total,
        traffic=overview.traffic(f"Attempts over {label}", found.series),
        latency=overview.latency(f"Response time over {label}", found.total),
        states=_states(view, events, begin, label),
        events=tuple(
            EventLine(states.CIRCUIT_EVENTS[EventKind(event.kind)], event, _cause(event, circuit_policy))
            for event in reversed(events)
            if event.created_at >= begin
        ),
        faults=tuple(found.faults[:FAULTS_SHOWN]),
        recent=tuple(activity.attempts),
        subscriptions=tuple(activity.subscriptions),
        channels=tuple(names),
        types=tuple((name, name) for name in types),
        schedule=charts.schedule(policy),
        timeout=policy.timeout,
        circuit_policy=circuit_policy,
        alerts=scored.alerts,
        limits=alerts_form.lines(limits),
        dead_letters=activity.dead_letters,
        queue=queue,
        secret=secret,
    )


def _cause(event: OperationalEvent, policy: CircuitPolicy) -> str:
    """Why a circuit opened or an endpoint was disabled. A circuit that an operator trips has not failed so often."""
    failures = event.data.get("failures", 0)
    if event.kind == EventKind.CIRCUIT_OPENED and failures >= policy.failure_threshold:
        return f"after {failures} failures in a row"
    reason: str = event.data.get("reason", "")
    return reason if event.kind == EventKind.ENDPOINT_DISABLED else ""


def _states(view: EndpointView, events: Sequence[OperationalEvent], begin: datetime, label: str) -> Chart:
    """From events to states: before the first it was closed, which is how every endpoint begins."""
    spans = [Span("closed", min(view.endpoint.created_at, begin), "ok")]
    for event in events:
        change = states.CIRCUIT_EVENTS[EventKind(event.kind)]
        spans.append(Span(change.state, event.created_at, change.tone))
    return charts.states(f"States of the circuit over {label}", spans, begin, now())


@router.post("/{gid}/test")
async def send_test(gid: str, viewer: ViewerDep, services: ServicesDep, store: StoreDep, form: FormDep) -> Response:
    sent = await services.endpoints.send_test(store, viewer.caller.actor, gid, form.get("type") or None)
    return see_other(viewer, f"/deliveries/{sent.delivery_gid}", "test")


@router.post("/{gid}/rotate-secret")
async def rotate_secret(
    gid: str, request: Request, viewer: ViewerDep, services: ServicesDep, store: StoreDep, form: FormDep
) -> Response:
    rotation = SecretRotation(grace_period_seconds=whole(form.get("grace", "0"), "grace"))
    grace = timedelta(seconds=rotation.grace_period_seconds)
    async with store.writing() as session:
        rotated = await services.endpoints.rotate_secret(session, viewer.caller.actor, gid, secret=None, grace=grace)
    return carry_secret(request, viewer, see_other(viewer, f"/endpoints/{gid}", "rotated"), rotated.secret)


@router.post("/{gid}/delete")
async def delete(gid: str, viewer: ViewerDep, services: ServicesDep, store: StoreDep, form: FormDep) -> Response:
    await services.endpoints.delete(store, viewer.caller.actor, gid)
    return see_other(viewer, "/endpoints", "deleted")


@router.get("/{gid}/edit")
async def ask_edit(gid: str, request: Request, viewer: ViewerDep, services: ServicesDep, store: StoreDep) -> Response:
    view = await _view(services, store, gid)
    endpoint = view.endpoint
    values = {
        "mode": endpoint.mode.value,
        "leaseSeconds": str(endpoint.options.get("leaseSeconds", "")),
        "maxInFlight": str(endpoint.options.get("maxInFlight", "")),
        **_fields_of_inbox(endpoint.options),
        "handler": _json(endpoint.options.get("handler")),
        "url": endpoint.url,
        "description": endpoint.description,
        "rateLimit": f"{endpoint.rate_limit:g}" if endpoint.rate_limit is not None else "",
        "format": endpoint.format.value,
        "headers": "\n".join(f"{name}: {KEPT}" for name in endpoint.headers),
        **_fields_of_auth(endpoint.auth),
        **policy_form.fields(endpoint.policy),
        **circuit_form.fields(endpoint.circuit),
        **alerts_form.fields(endpoint.alerts),
        "requestsInFlight": str(endpoint.max_in_flight or ""),
    }
    return await _form(request, viewer, services, store, values, endpoint.signatures, view)


@router.post("/{gid}/edit")
async def edit(
    gid: str, request: Request, viewer: ViewerDep, services: ServicesDep, store: StoreDep, form: FormDep
) -> Response:
    view = await _view(services, store, gid)
    before = view.endpoint
    try:
        changes = EndpointPatch(**_settings(form, before.mode.value, before.options, before.auth)).changes()
        await services.endpoints.change(store, viewer.caller.actor, gid, changes)
    except NotFound:
        raise
    except (ValidationError, Problem, DomainError) as error:
        return await _form(request, viewer, services, store, form.values, form.all("signatures"), view, error)
    return see_other(viewer, f"/endpoints/{gid}", "saved")


@router.post("/{gid}/subscriptions")
async def subscribe(gid: str, viewer: ViewerDep, services: ServicesDep, store: StoreDep, form: FormDep) -> Response:
    await _view(services, store, gid)
    body = SubscriptionIn(
        endpoint_gid=gid,
        channel=form.get("channel"),
        events=form.get("events").split(),
        include_payload="includePayload" in form,
    )
    async with store.writing() as session:
        await services.subscriptions.create(session, viewer.caller.actor, NewSubscription(**body.model_dump()))
    return see_other(viewer, f"/endpoints/{gid}", "saved")


@router.post("/{gid}/subscriptions/{subscription}/delete")
async def unsubscribe(
    gid: str, subscription: str, viewer: ViewerDep, services: ServicesDep, store: StoreDep, form: FormDep
) -> Response:
    async with store.writing() as session:
        await services.subscriptions.delete(session, viewer.caller.actor, subscription)
    return see_other(viewer, f"/endpoints/{gid}", "deleted")


@router.post("/{gid}/circuit/{command}")
async def command_circuit(
    gid: str,
    command: Literal["trip", "reset"],
    viewer: ViewerDep,
    services: ServicesDep,
    store: StoreDep,
    form: FormDep,
) -> Response:
    await services.endpoints.command(store, viewer.caller.actor, gid, EndpointCommand(command))
    return see_other(viewer, f"/endpoints/{gid}", command)


@router.post("/{gid}/{command}")
async def command_endpoint(
    gid: str,
    command: Literal["pause", "resume", "enable", "disable"],
    viewer: ViewerDep,
    services: ServicesDep,
    store: StoreDep,
    form: FormDep,
) -> Response:
    await services.endpoints.command(store, viewer.caller.actor, gid, EndpointCommand(command))
    return see_other(viewer, f"/endpoints/{gid}", command)


async def _view(services: Services, store: TenantScope, gid: str) -> EndpointView:
    """404 for an endpoint that does not exist, or is another tenant's."""
    async with store.reading() as session:
        return await services.endpoints.get(session, gid)


async def _form(
    request: Request,
    viewer: Viewer,
    services: Services,
    store: TenantScope,
    values: Mapping[str, str],
    signatures: Sequence[str],
    view: EndpointView | None = None,
    error: FormError | None = None,
) -> Response:
    async with store.reading() as session:
        names = await services.channels.names(session)
        tenant_gid = view.endpoint.tenant_gid if view is not None else viewer.tenant_gid
        inherited = await services.health.alert_limits(session, tenant_gid) if tenant_gid is not None else None
    return render_form(
        request,
        "endpoint_form.html",
        viewer,
        error,
        title="Edit endpoint" if view is not None else "New endpoint",
        nav="endpoints",
        v=view,
        values=values,
        signatures=signatures,
        channels=names,
        url_hint=_url_hint(dashboard_of(request).settings) if viewer.tenant_gid is None else PUBLIC_URL_HINT,
        schemes=[scheme.value for scheme in SignatureScheme],
        formats=[(each.value, each.value) for each in BodyFormat],
        schedules=policy_form.SCHEDULES,
        circuit_hint="Empty: as its channels or the environment say",
        alert_hints=alerts_form.hints(inherited),
        modes=[(mode.value, label) for mode, label in MODES.items()],
        auth_types=[
            *([(AS_IT_IS, "As it is")] if view is not None and view.endpoint.auth else []),
            *AUTH_TYPES.items(),
        ],
    )


PUBLIC_URL_HINT = "Where messages are sent: https, and an address that is public"
"""What the egress rules allow by default. Tenants read no more: the networks are the operator's."""


def _url_hint(settings: Settings) -> str:
    """What the egress rules allow, in a line."""
    allowed = ", ".join(str(network) for network in settings.egress_allow)
    if not allowed:
        return PUBLIC_URL_HINT
    inside = " (there also http)" if settings.egress_http else ""
    return f"{PUBLIC_URL_HINT}, or in {allowed}{inside}"


def _fields_of_inbox(options: Mapping[str, Any]) -> dict[str, str]:
    task = defaults_of(options)
    return {
        "inboxName": options.get("name", ""),
        "assignees": "\n".join(task.get("assignees", ())),
        "dueHours": f"{task['dueSeconds'] / HOUR_S:g}" if "dueSeconds" in task else "",
    }


def _options_of_inbox(form: Form, before: Mapping[str, Any]) -> dict[str, Any]:
    """Options of an inbox as the API takes them. What the form does not show stays as it was `before`."""
    if "inboxName" not in form:
        raise invalid("inboxName", "is required")
    hours = _number(form.get("dueHours"), "dueHours")
    if hours is not None and not 0 < hours * HOUR_S < math.inf:
        raise invalid("dueHours", "has to be a number above 0")
    shown = {
        "assignees": [line.strip() for line in form.get("assignees").splitlines() if line.strip()],
        "dueSeconds": round(hours * HOUR_S) if hours is not None else None,
    }
    task = {name: value for name, value in defaults_of(before).items() if name not in shown}
    return {**before, "name": form.get("inboxName"), "task": task | {n: value for n, value in shown.items() if value}}


def _settings(
    form: Form, mode: str, options_before: Mapping[str, Any], auth_before: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """What can be changed later, too, as the API takes it. What only webhooks have is ignored in other modes."""
    common = {"description": form.get("description"), "alerts": alerts_form.alerts(form)}
    if mode == DeliveryMode.INBOX:
        return {**common, "options": _options_of_inbox(form, options_before)}
    spec = policy_form.policy(form)
    if mode == DeliveryMode.INTERNAL:
        return {
            **common,
            "policy": Policy(**spec) if spec is not None else None,
            "circuit": circuit_form.circuit(form),
            "options": {"handler": _object(form.get("handler"), "options.handler")},
        }
    if mode != DeliveryMode.HTTP:
        options = {name: whole(form.get(name), name) for name in ("leaseSeconds", "maxInFlight") if name in form}
        return {
            **common,
            "policy": Policy(**spec) if spec is not None else None,
            "circuit": circuit_form.circuit(form),
            "options": options,
        }
    return {
        **common,
        "url": form.get("url"),
        "rateLimit": _number(form.get("rateLimit"), "rateLimit"),
        "signatures": form.all("signatures"),
        "format": form.get("format", BodyFormat.ENVELOPE.value),
        "headers": _headers(form.get("headers")),
        "policy": Policy(**spec) if spec is not None else None,
        "circuit": circuit_form.circuit(form),
        "maxInFlight": _requests_in_flight(form),
        **_auth(form, auth_before),
    }


def _fields_of_auth(auth: Mapping[str, str] | None) -> dict[str, str]:
    if auth is None:
        return {"authType": NO_AUTH}
    shown = {AUTH_FIELDS[name]: value for name, value in auth.items() if name in AUTH_FIELDS}
    return {**shown, "authType": AS_IT_IS}


def _auth(form: Form, before: Mapping[str, str] | None) -> dict[str, Any]:
    """`auth` as the API takes it; nothing if it stays as it is. The parts that the chosen type does not have are
    ignored: scripts that could hide their fields are not required."""
    kind = form.get("authType", AS_IT_IS)
    if kind == AS_IT_IS:
        shown = _fields_of_auth(before)
        if any(form.get(name) not in ("", shown.get(name)) for name in AUTH_FIELDS.values()):
            raise invalid("auth.type", "to change a part, choose the type and give the secret again")
        return {}
    if kind == NO_AUTH:
        return {"auth": None}
    if kind not in set(AuthType):
        raise invalid("auth.type", "is none of those")
    named = {name: form.get(AUTH_FIELDS[name]) for name in fields_of(AuthType(kind)) if AUTH_FIELDS[name] in form}
    return {"auth": EndpointAuthIn.model_validate({"type": kind, **named})}


def _object(written: str, field: str) -> Any:
    try:
        value = orjson.loads(written)
    except orjson.JSONDecodeError as error:
        raise invalid(field, "is not a JSON object") from error
    if not isinstance(value, dict):
        raise invalid(field, "is not a JSON object")
    return value


def _first_subscription(form: Form, viewer: Viewer) -> dict[str, Any]:
    """Tenants create endpoints of their own tenant only; the form cannot change that."""
    chosen: dict[str, Any] = {"tenant": form.get("tenant") or None} if viewer.tenant_gid is None else {}
    if "channel" in form:
        chosen |= {"channel": form.get("channel"), "events": form.get("events").split()}
    return chosen


def _json(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2).decode() if value is not None else ""


def _number(written: str, field: str) -> float | None:
    return number(written, field) if written else None


def _requests_in_flight(form: Form) -> int | None:
    requests = _number(form.get("requestsInFlight"), "requestsInFlight")
    if requests is not None and requests not in range(1, MAX_REQUESTS_IN_FLIGHT + 1):
        raise invalid("requestsInFlight", f"is a whole number from 1 to {MAX_REQUESTS_IN_FLIGHT:,}")
    return int(requests) if requests is not None else None


def _headers(written: str) -> dict[str, str | None]:
    """Headers as the API takes them: `KEPT` stands for a value that is not shown and stays as it is."""
    headers: dict[str, str | None] = {}
    for line in written.splitlines():
        name, colon, value = line.partition(":")
        if line.strip() and not colon:
            raise invalid("headers", "one a line, as `name: value`")
        if line.strip():
            headers[name.strip()] = value.strip() if value.strip() != KEPT else None
    return headers
