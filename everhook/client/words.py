"""Moments, states and answers as people read them."""

from datetime import UTC, datetime, timedelta

from rich.text import Text

from everhook.client.shapes import Attempt, Delivery
from everhook.terminal_text import printable, span

_STATES = {
    "accepted": ("• accepted", ""),
    "sending": ("• sending", ""),
    "retrying": ("↻ retrying", "yellow"),
    "parked": ("‖ parked", "yellow"),
    "dead_lettered": ("■ dead letter", "bold red"),
    "delivered": ("✓ delivered", "green"),
    "discarded": ("✗ discarded", "dim"),
    # of attempts
    "retry": ("↻ failed", "yellow"),
    "rejected": ("✗ rejected", "red"),
    # of endpoints and circuits
    "enabled": ("● enabled", "green"),
    "paused": ("‖ paused", "yellow"),
    "disabled": ("■ disabled", "bold red"),
    "closed": ("closed", ""),
    "open": ("◌ open", "bold yellow"),
    "half_open": ("◌ half-open", "yellow"),
}


def state(name: str) -> Text:
    shown, style = _STATES.get(name, (printable(name), ""))
    return Text(shown, style=style)


def parse_moment(moment: str) -> datetime:
    return datetime.fromisoformat(moment)


def age(moment: str | None) -> str:
    """`3 min ago`, `in 12 s`."""
    if moment is None:
        return ""
    passed = datetime.now(UTC) - parse_moment(moment)
    return f"{span(passed)} ago" if passed >= timedelta() else f"in {span(-passed)}"


def when(moment: str | None) -> str:
    """`2026-01-31 12:00:00 UTC (3 min ago)`, in the zone of this machine."""
    if moment is None:
        return ""
    return f"{parse_moment(moment).astimezone():%Y-%m-%d %H:%M:%S %Z} ({age(moment)})"


def clock(moment: str | None) -> str:
    at = parse_moment(moment) if moment is not None else datetime.now(UTC)
    return f"{at.astimezone():%H:%M:%S}"


def last_answer(delivery: Delivery) -> str:
    code = delivery["lastStatusCode"]
    return str(code) if code is not None else delivery["lastError"] or ""


def answer(attempt: Attempt) -> str:
    code = attempt["statusCode"]
    return str(code) if code is not None else attempt["error"] or "no answer"
