"""`everhook status`: one screen that shows whether everything is healthy."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import typer
from rich.text import Text

from cli.api_client.client import Api
from cli.api_client.errors import ApiError
from cli.command import Session, command
from cli.findings import Finding, conclude, draw, ok, warning, wrong
from cli.formatting import age, counted, parse_moment
from cli.terminal_text import printable
from everhook.visible import visible
from everhook_client import calls
from everhook_client.models import Bucket, DeadLetterReason, Endpoint, Overview, ScoredEndpoint, Waiting

app = typer.Typer()

AT_MOST = 500
"""How many entries are counted if there is no overview."""

LATE_S = 60
"""Deliveries start within milliseconds; the reconciler starts the rest within a quarter of a minute."""

GOOD_RATE, NAMED = 0.95, 5
NOT_FOUND = 404
FORBIDDEN = 403


@command(app, "status", examples=["status", "status --profile production", "status --json"])
def status(session: Session) -> None:
    """Show whether everything is healthy. Exit status 1 if something is wrong, 3 if the API cannot be reached."""
    session.out.print(Text(f"Everhook at {session.target.url} (from {session.target.source})", style="bold"))
    findings = []
    with session.out.busy("checking …"):
        for finding in _findings(session.api):
            findings.append(finding)
            session.out.print(draw(finding))
    conclude(session.out, findings, url=session.target.url)


def _findings(api: Api) -> Iterator[Finding]:
    yield _api(api)
    readiness = api.readiness()
    yield _dependency("database", readiness["database"], "nothing is accepted", "start it; see EVERHOOK_DATABASE_URL")
    fix = "start it; if it runs, `everhook doctor` shows what is missing"
    yield _dependency("Temporal", readiness["temporal"], "messages are accepted and wait", fix)
    if readiness["database"] == "down":
        return
    overview = _overview(api)
    if overview is not None:
        yield _success(overview)
        yield _undispatched(overview["undispatched"], readiness["temporal"])
        if "overdue" in overview:  # absent in older versions
            yield _overdue(overview["overdue"], overview["series"], readiness["temporal"])
        yield _parked(overview["parked"])
        yield _circuits_counted(overview)
        yield _dead_letters(overview["deadLetters"]["total"], overview["deadLetters"]["byReason"])
        return
    yield _circuits_listed(api)
    yield _dead_letters_listed(api)


def _api(api: Api) -> Finding:
    began = time.monotonic()
    version = api.call(calls.get_version())["version"]
    return ok("API", f"version {version}, responds in {(time.monotonic() - began) * 1_000:.0f} ms")


def _dependency(name: str, state: str, effect: str, fix: str) -> Finding:
    return ok(name, "responds") if state == "ok" else wrong(name, f"does not respond to the API: {effect}", fix)


def _overview(api: Api) -> Overview | None:
    """None if this version has none, or the key lacks the scope."""
    try:
        return api.call(calls.get_health_overview(limit=NAMED))
    except ApiError as error:
        if error.status_code in (NOT_FOUND, FORBIDDEN):
            return None
        raise


def _success(overview: Overview) -> Finding:
    hour = overview["lastHour"]
    if hour["successRate"] is None:
        return ok("success rate", "no attempts in the last hour")
    detail = f"{hour['successRate']:.1%} of {counted(hour['attempts'], 'attempt')} in the last hour"
    if hour["successRate"] >= GOOD_RATE:
        return ok("success rate", detail)
    errors = ", ".join(f"{fault['error']} ({fault['count']:,})" for fault in overview["errors"][:3])
    return warning("success rate", f"{detail}; {errors}", "everhook health")


def _undispatched(waiting: Waiting, temporal: str) -> Finding:
    name, oldest = "not yet started", waiting["oldestAcceptedAt"]
    detail = _deliveries(waiting) + (f", the oldest accepted {age(oldest)}" if oldest else "")
    if oldest and time.time() - parse_moment(oldest).timestamp() > LATE_S:
        return wrong(name, detail, _what_is_missing(temporal))
    return ok(name, detail)


def _deliveries(waiting: Waiting) -> str:
    return counted(waiting["count"], "delivery", "deliveries")


def _overdue(waiting: Waiting, series: Sequence[Bucket], temporal: str) -> Finding:
    if not waiting["count"]:
        return ok("overdue", "none")
    detail = f"{_deliveries(waiting)} should have continued more than a minute ago"
    if any(minute["attempts"] for minute in series[-3:]):
        return warning("overdue", f"{detail}; others are sent", "more workers, or a higher rateLimit, if that lasts")
    return wrong("overdue", f"{detail}, and nothing is sent", _what_is_missing(temporal))


def _what_is_missing(temporal: str) -> str:
    if temporal != "ok":
        return "they continue when Temporal is back"
    return "are workers running? run `everhook doctor` on their machine"


def _parked(waiting: Waiting) -> Finding:
    if not waiting["count"]:
        return ok("parked", "none")
    detail = f"{_deliveries(waiting)}, the oldest accepted {age(waiting['oldestAcceptedAt'])}"
    return warning("parked", detail, "everhook deliveries list --status parked")


def _circuits_counted(overview: Overview) -> Finding:
    counts = cast(Mapping[str, int], overview["circuits"])
    not_closed = {name: count for name, count in counts.items() if name != "closed" and count}
    bad = [one for one in overview["endpoints"] if one["status"] != "enabled" or one["circuit"]["state"] != "closed"]
    return _circuits(sum(counts.values()), not_closed, bad)


def _circuits_listed(api: Api) -> Finding:
    endpoints = list(api.items(calls.list_endpoints(), AT_MOST))
    bad = [one for one in endpoints if one["status"] != "enabled" or one["circuit"]["state"] != "closed"]
    counts = Counter(
        one["status"] if one["status"] != "enabled" else str(one["circuit"]["state"]).replace("half_open", "halfOpen")
        for one in bad
    )
    return _circuits(len(endpoints), counts, bad)


def _circuits(total: int, not_closed: dict[str, int], bad: Sequence[Endpoint | ScoredEndpoint]) -> Finding:
    if not not_closed:
        return ok("endpoints", f"{total:,}, all of them can receive")
    counts = ", ".join(f"{count:,} {_CIRCUITS.get(name, name)}" for name, count in not_closed.items())
    named = "; ".join(
        f"{one['endpointGid']} {one['url'] or visible(one['description'])}".strip() for one in bad[:NAMED]
    )
    look = f"everhook endpoints show {bad[0]['endpointGid']}" if bad else "everhook endpoints list"
    detail = f"{counts} of {total:,}"
    return warning("endpoints", f"{detail}: {printable(named)}" if named else detail, look)


_CIRCUITS = {"open": "with an open circuit", "halfOpen": "half-open"}


def _dead_letters_listed(api: Api) -> Finding:
    letters = list(api.items(calls.list_dead_letters(), AT_MOST))
    return _dead_letters(len(letters), Counter(str(letter["deadLetterReason"]) for letter in letters))


def _dead_letters(total: int, by_reason: Mapping[DeadLetterReason, int] | Mapping[str, int]) -> Finding:
    if not total:
        return ok("dead letters", "none")
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in by_reason.items() if count)
    return warning("dead letters", f"{total:,}: {reasons}", "everhook dead-letters list")
