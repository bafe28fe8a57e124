"""`everhook health`: unhealthy endpoints, and the reasons."""

from collections.abc import Mapping, Sequence
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from cli.command import Session, command
from cli.errors import UsageError
from cli.formatting import age, counted, seen
from cli.options import Tenant
from cli.output import Output, pairs
from cli.terminal_states import state
from cli.terminal_text import printable
from everhook.health.score import Level, Window
from everhook.visible import visible
from everhook_client import calls
from everhook_client.models import (
    AttemptStats,
    EndpointHealth,
    Overview,
    RaisedAlert,
    RecurringError,
    ScoreComponent,
    ScoredEndpoint,
)

app = typer.Typer()

STYLES: Mapping[str, str] = {
    Level.HEALTHY: "green",
    Level.DEGRADED: "yellow",
    Level.FAILING: "bold red",
    Level.IDLE: "dim",
}
BARS = "▁▂▃▄▅▆▇█"
NO_BAR = "·"


@command(app, "health", examples=["health", "health --tenant acme", "health ep_… --window 24h", "health --json"])
def health(
    session: Session,
    gid: Annotated[
        str | None, typer.Argument(help="An endpoint's gid (ep_…); all if not given.", show_default=False)
    ] = None,
    window: Annotated[Window | None, typer.Option(help="The period, for one endpoint; 24h if not given.")] = (None),
    tenant: Tenant = None,
    limit: Annotated[int, typer.Option(min=1, max=100, help="Maximum number of endpoints.")] = 20,
) -> None:
    """Show unhealthy endpoints, the worst first, and recurring errors. With a gid: one endpoint, and the reasons."""
    if gid is None:
        if window is not None:
            raise UsageError("--window is for one endpoint: everhook health ep_… --window 24h")
        overview = session.api.call(calls.get_health_overview(tenant=tenant, limit=limit))
        session.out.show(overview, lambda shown: _overview(session.out, shown))
        return
    if tenant is not None:
        raise UsageError("give a gid or --tenant: one of the two")
    one = session.api.call(calls.get_endpoint_health(gid, window=window.value if window is not None else None))
    session.out.show(one, lambda shown: _one(session.out, shown))


def _overview(out: Output, overview: Overview) -> RenderableType:
    if not overview["endpoints"]:
        return "Nothing was sent within a day, and no circuit is open."
    parts: list[RenderableType] = [_endpoints(out, overview["endpoints"])]
    if overview["errors"]:
        parts += ["", _errors(out, overview["errors"], across=True)]
    return Group(*parts)


def _endpoints(out: Output, endpoints: Sequence[ScoredEndpoint]) -> RenderableType:
    rows = out.table(
        "score", "state", "endpoint", "tenant", "success 1h", "alerts", "reason", "url", wide=["tenant", "url"]
    )
    for one in endpoints:
        rows.add(
            score=_score(one["score"], one["level"]),
            state=_state(one["status"], one["circuit"]["state"]),
            endpoint=one["endpointGid"],
            tenant=one["tenant"],
            success_1h=_rate(one["lastHour"]),
            alerts=", ".join(alert["alert"] for alert in one["alerts"]),
            reason=_worst_part(one["parts"]),
            url=one["url"] or visible(one["description"]),
        )
    return rows.table


def _one(out: Output, health: EndpointHealth) -> RenderableType:
    circuit = health["circuit"]
    attempts = [bucket["attempts"] for bucket in health["series"]]
    failures = [bucket["attempts"] - bucket["delivered"] for bucket in health["series"]]
    card = pairs(
        [
            ("endpoint", health["endpointGid"]),
            ("health", _score(health["score"], health["level"])),
            ("state", _state(health["status"], circuit["state"])),
            ("failing since", age(circuit["failingSince"])),
            ("alerts", "; ".join(map(_alert, health["alerts"]))),
            (
                f"success {health['window']}",
                f"{_rate(health['total'])} of {counted(health['total']['attempts'], 'attempt')}",
            ),
            ("attempts", bars(attempts, max(attempts, default=0))),
            ("failures", bars(failures, max(attempts, default=0))),
        ]
    )
    reasons = out.table("points", "of", "reason")
    for part in health["parts"]:
        reasons.add(points=f"{part['points']:g}", of=f"{part['outOf']:g}", reason=part["reason"])
    parts: list[RenderableType] = [card, "", reasons.table]
    if health["errors"]:
        parts += ["", _errors(out, health["errors"], across=False)]
    return Group(*parts)


def _errors(out: Output, errors: Sequence[RecurringError], *, across: bool) -> RenderableType:
    rows = out.table("error", "times", *(["endpoints"] if across else []), "since", "last seen")
    for error in errors:
        rows.add(
            error=error["error"],
            times=f"{error['count']:,}",
            endpoints=f"{error['endpoints']:,}",
            since=age(error["since"]),
            last_seen=seen(error["lastSeen"]),
        )
    return rows.table


def bars(counts: Sequence[int], top: int) -> str:
    """One character per count, its height relative to `top`; a dot for zero."""
    return "".join(BARS[(len(BARS) - 1) * count // top] if count else NO_BAR for count in counts)


def _alert(alert: RaisedAlert) -> str:
    return f"{alert['alert']} {alert['value']:g} since {age(alert['since'])}, limit {alert['threshold']:g}"


def _score(score: int, level: str) -> Text:
    return Text(f"{score:>3} {printable(level)}", style=STYLES.get(level, ""))


def _state(status: str, circuit: str) -> Text:
    return state(status) if status != "enabled" or circuit == "closed" else state(circuit)


def _rate(stats: AttemptStats) -> str:
    return f"{stats['successRate']:.1%}" if stats["successRate"] is not None else "no attempts"


def _worst_part(parts: Sequence[ScoreComponent]) -> str:
    """The reason of the part that lowers the score most."""
    lost = max(parts, key=lambda part: part["outOf"] - part["points"])
    return lost["reason"] if lost["outOf"] > lost["points"] else ""
