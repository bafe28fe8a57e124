"""The terminal output of `everhook dev`: addresses, and deliveries as they happen."""

import logging
import shlex
import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.status import Status
from rich.table import Table
from rich.text import Text

from cli.dev.feed_store import AttemptNews, EventNews, News
from cli.terminal_states import ATTEMPTS, DELIVERIES, HOLDS, Shown
from cli.terminal_text import printable
from everhook import __version__
from everhook.circuit.machine import Hold
from everhook.contracts import DeliveryStatus, Verdict
from everhook.durations import rough_duration
from everhook.notifications.events import EventKind

TYPE_WIDTH, ENDPOINT_WIDTH, VERDICT_WIDTH = 16, 20, 14
SAME_ERROR_S = 30.0
"""Interval in seconds at which a repeated error is shown."""

_GAVE_UP = ("✗ failed", "red")
_EVENTS: Mapping[str, Shown | None] = {
    EventKind.DEAD_LETTERED: DELIVERIES[DeliveryStatus.DEAD_LETTERED],
    EventKind.CIRCUIT_OPENED: ("◌ circuit open", "bold yellow"),
    EventKind.CIRCUIT_CLOSED: ("● closed again", "bold green"),
    EventKind.ENDPOINT_DISABLED: HOLDS[Hold.DISABLED],
    EventKind.ENDPOINT_PAUSED: HOLDS[Hold.PAUSED],
    EventKind.ENDPOINT_RESUMED: ("▶ resumed", "green"),
    EventKind.ENDPOINT_ENABLED: ("▶ enabled", "green"),
    EventKind.UNCLAIMED: ("▲ no consumer", "yellow"),
    EventKind.HEALTH_CHANGED: ("♥ health", "yellow"),
    EventKind.ALERT_RAISED: ("▲ alert", "bold yellow"),
    EventKind.ALERT_CLEARED: ("● alert cleared", "green"),
    EventKind.DEAD_LETTERS: ("▲ dead letters", "yellow"),
    EventKind.SUCCESS_RATE: ("▲ success rate", "yellow"),
    EventKind.UNDISPATCHED: ("▲ not started", "yellow"),
    EventKind.LOG_DAMAGED: ("✗ log damaged", "bold red"),
    EventKind.TASK_OPENED: ("◌ task opened", "cyan"),
    EventKind.TASK_REMINDED: ("▲ reminded", "yellow"),
    EventKind.TASK_ESCALATED: ("▲ escalated", "yellow"),
    EventKind.TASK_DELEGATED: ("▶ delegated", "cyan"),
    EventKind.TASK_DECIDED: ("● decided", "green"),
    EventKind.TASK_EXPIRED: ("✗ task expired", "red"),
    EventKind.CHECKPOINT: None,
}
"""None: not shown. A checkpoint is signed twice a minute, and is not about a delivery."""


@dataclass(frozen=True)
class DevUrls:
    """Addresses and files of a running `everhook dev`."""

    api: str
    sign_in: str
    """Signs in to the dashboard once, within five minutes."""

    temporal_ui: str
    temporal: str
    data_dir: Path
    environment: Path | None
    """A file of variables for commands; None if commands in this directory need none."""

    api_key: str
    channel: str
    """The channel that the example publishes to."""

    @property
    def docs(self) -> str:
        return f"{self.api}/docs"


class Terminal:
    """Lines for people, with colours and a frame on a terminal only."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def busy(self, doing: str) -> AbstractContextManager[Status | None]:
        """A spinner while something takes long."""
        return self._console.status(doing)

    def note(self, line: str, style: str = "cyan") -> None:
        self._line([_clock(datetime.now(UTC)), (line, style)])

    def welcome(self, urls: DevUrls, *, has_endpoints: bool) -> None:
        table = _table(urls)
        framed: RenderableType = table
        if self._console.is_terminal:
            framed = Panel(table, title=f"[bold]Everhook {__version__}[/]", title_align="left", expand=False)
        else:
            framed = Group(Text(f"Everhook {__version__}"), table)
        self._console.print(framed, soft_wrap=not self._console.is_terminal, highlight=False)
        self._console.print()
        self._console.print(Text("Dashboard, signed in (one use, within five minutes)", style="bold"))
        self._console.print(Text(urls.sign_in, style=f"cyan link {urls.sign_in}"), soft_wrap=True)
        for title, command in _examples(urls, has_endpoints=has_endpoints):
            self._console.print()
            self._console.print(Text(title, style="bold"))
            # Neither framed nor wrapped nor padded, so that it can be copied: a space after a backslash breaks it.
            self._console.print(Text(command, style="cyan"), soft_wrap=True)
        self._console.print()
        self._console.print(Text("Deliveries as they happen (Ctrl-C stops; the next start continues)", style="bold"))

    def news(self, news: News) -> None:
        lines = [(attempt.started_at + _duration(attempt), _attempt_line(attempt)) for attempt in news.attempts]
        lines += [(event.created_at, _event_line(event)) for event in news.events if _is_shown(event)]
        for _, line in sorted(lines, key=lambda pair: pair[0]):
            self._line(line)
        if news.skipped:
            self.note(f"… and {news.skipped:,} more attempts", "dim")

    def _line(self, parts: Iterable[tuple[str, str]]) -> None:
        self._console.print(Text.assemble(*parts), soft_wrap=True, highlight=False)


class TerminalErrors(logging.Handler):
    """Shows errors of Everhook in one line each; the log has the details."""

    def __init__(self, terminal: Terminal) -> None:
        super().__init__(logging.ERROR)
        self._terminal = terminal
        self._shown: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        event = record.msg.get("event") if isinstance(record.msg, dict) else record.getMessage()
        text = str(event).partition("\n")[0]
        moment = time.monotonic()
        if moment - self._shown.get(text, float("-inf")) < SAME_ERROR_S:
            return
        self._shown[text] = moment
        self._terminal.note(f"error: {text} (see everhook.log)", "red")


def _table(urls: DevUrls) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in [
        ("API", urls.api),
        ("Dashboard", f"{urls.api}/"),
        ("API docs", urls.docs),
        ("API key", urls.api_key),
        ("Temporal UI", urls.temporal_ui),
        ("Temporal", urls.temporal),
        ("Data and logs", str(urls.data_dir)),
        *([("For other shells", f". {shlex.quote(str(urls.environment))}")] if urls.environment else []),
    ]:
        table.add_row(name, Text(value, style=f"bold link {value}" if value.startswith("http") else "bold"))
    return table


def _examples(urls: DevUrls, *, has_endpoints: bool) -> list[tuple[str, str]]:
    publish = _curl(
        urls,
        f"/v1/channels/{urls.channel}/messages",
        '{"type": "order.created", "payload": {"orderId": 1042, "amount": 99.5}}',
    )
    if has_endpoints:
        return [("Publish a message", publish)]
    endpoint = _curl(urls, "/v1/endpoints", '{"url": "http://127.0.0.1:9000/webhooks", "events": ["order.*"]}')
    return [("Create an endpoint (its secret is shown only once)", endpoint), ("Publish a message to it", publish)]


def _curl(urls: DevUrls, path: str, body: str) -> str:
    lines = [
        f"curl {urls.api}{path}",
        f"-H 'Authorization: Bearer {urls.api_key}'",
        "-H 'Content-Type: application/json'",
        f"-d '{body}'",
    ]
    return " \\\n  ".join(lines)


def _attempt_line(attempt: AttemptNews) -> list[tuple[str, str]]:
    gave_up = attempt.verdict is Verdict.RETRY and attempt.next_attempt_at is None
    verdict, style = _GAVE_UP if gave_up else ATTEMPTS[attempt.verdict]
    ended_at = attempt.started_at + _duration(attempt)
    response = str(attempt.status_code) if attempt.status_code is not None else attempt.error or ""
    return [
        _clock(ended_at),
        *_subject(attempt.event_type, attempt.description or urlsplit(attempt.url).netloc),
        (_fit(verdict, VERDICT_WIDTH), style),
        (f"{response:<6} ", style),
        (f"{attempt.duration_ms:>6,} ms", "dim"),
        (_sequel(attempt, ended_at), "dim"),
    ]


def _sequel(attempt: AttemptNews, ended_at: datetime) -> str:
    if attempt.next_attempt_at is not None:
        return f"  attempt {attempt.number}, next in {rough_duration(attempt.next_attempt_at - ended_at)}"
    return f"  attempt {attempt.number}" if attempt.number > 1 else ""


def _is_shown(event: EventNews) -> bool:
    return _EVENTS.get(event.kind, _unknown(event)) is not None


def _unknown(event: EventNews) -> Shown:
    return printable(event.kind), "cyan"


def _event_line(event: EventNews) -> list[tuple[str, str]]:
    """One line per event. Without a message or an endpoint, the columns name the subject of the event."""
    shown, style = _EVENTS.get(event.kind) or _unknown(event)
    about = event.kind.partition(".")[0].replace("_", " ")
    endpoint = event.description or urlsplit(event.url or "").netloc or "all endpoints"
    return [
        _clock(event.created_at),
        *_subject(event.event_type or about, endpoint),
        (_fit(shown, VERDICT_WIDTH), style),
        (printable(_reason(event)), style),
    ]


def _reason(event: EventNews) -> str:
    data = event.data
    if "taskGid" in data:
        return f"{data.get('title', '')}  {data['taskGid']}"
    if event.delivery_gid is not None:
        return f"{data.get('reason', '')}  {event.delivery_gid}"
    if event.kind == EventKind.CIRCUIT_OPENED:
        failures = data.get("failures", 0)  # fewer than open a circuit, if it was tripped
        return f"its messages wait; failures in a row: {failures}"
    if event.kind == EventKind.HEALTH_CHANGED:
        return f"{data.get('from', '')} → {data.get('to', '')}, score {data.get('score', '')}"
    if "threshold" in data:
        about = str(data.get("alert") or data.get("state", "")).replace("_", " ")
        return f"{about}: {_number(data.get('value'))}, the threshold is {_number(data['threshold'])}"
    return str(data.get("reason") or data.get("damage") or "")


def _number(value: Any) -> str:
    """At most three decimals: `0.409`, `1,200`."""
    return f"{value:,.3f}".rstrip("0").rstrip(".") if isinstance(value, int | float) else "unknown"


def _subject(event_type: str, endpoint: str) -> list[tuple[str, str]]:
    return [(_fit(printable(event_type), TYPE_WIDTH), "bold"), (_fit(printable(endpoint), ENDPOINT_WIDTH), "")]


def _fit(text: str, width: int) -> str:
    """Exactly `width` characters, and two of space."""
    return f"{text if len(text) <= width else text[: width - 1] + '…':<{width}}  "


def _clock(moment: datetime) -> tuple[str, str]:
    return (f"{moment.astimezone():%H:%M:%S}  ", "dim")


def _duration(attempt: AttemptNews) -> timedelta:
    return timedelta(milliseconds=attempt.duration_ms)
