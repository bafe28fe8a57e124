"""Format times and responses for people."""

from datetime import UTC, datetime, timedelta

from everhook import durations
from everhook_client.models import Attempt, Delivery, DeliveryDetail


def parse_moment(moment: str) -> datetime:
    return datetime.fromisoformat(moment)


def age(moment: str | None) -> str:
    """`3 min ago`, `in 12 s`."""
    if moment is None:
        return ""
    return durations.age(parse_moment(moment), datetime.now(UTC))


def seen(minute: str) -> str:
    """`within a minute`, `3 min ago`: for something that is counted by the minute. `minute` is the start of the minute,
    so the seconds since then mean nothing."""
    minutes = (datetime.now(UTC) - parse_moment(minute)) // timedelta(minutes=1)
    if minutes < 1:
        return "within a minute"
    return f"{minutes} min ago" if minutes < 90 else age(minute)


def when(moment: str | None) -> str:
    """`2026-01-31 12:00:00 UTC (3 min ago)`, in this machine's time zone."""
    if moment is None:
        return ""
    return f"{parse_moment(moment).astimezone():%Y-%m-%d %H:%M:%S %Z} ({age(moment)})"


def clock(moment: str | None) -> str:
    at = parse_moment(moment) if moment is not None else datetime.now(UTC)
    return f"{at.astimezone():%H:%M:%S}"


def counted(count: int, one: str, many: str | None = None) -> str:
    """`1 dead letter`, `1,200 dead letters`. `many` is the plural, by default with an s."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def last_response(delivery: Delivery | DeliveryDetail) -> str:
    code = delivery["lastStatusCode"]
    return str(code) if code is not None else delivery["lastError"] or ""


def response(attempt: Attempt) -> str:
    code = attempt["statusCode"]
    return str(code) if code is not None else attempt["error"] or "no response"
