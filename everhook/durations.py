"""Durations as text for people: the one formatter of the dashboard, the portal and the command line. Pure."""

import math
from datetime import datetime, timedelta

UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
"""Seconds and symbol of each unit, largest first."""


def duration(span: timedelta | float) -> str:
    """The two largest units: `2 h 5 min`, `30 s`, `0.3 s`."""
    seconds = _seconds(span)
    if 0 < seconds < 1:
        return f"{seconds:.1g} s"
    left = round(seconds)
    parts: list[str] = []
    for size, unit in UNITS:
        if left >= size and len(parts) < 2:
            parts.append(f"{left // size} {unit}")
            left %= size
        elif parts:
            break
    return " ".join(parts) or "0 s"


def rough_duration(span: timedelta | float) -> str:
    """One unit, the largest of which there are two, rounded to the nearest: `12 s`, `90 min`, `24 h`, `3 d`. A negative
    duration is 0."""
    seconds = max(0.0, _seconds(span))
    size, unit = next(each for each in UNITS if seconds >= 2 * each[0] or each[0] == 1)
    return f"{math.floor(seconds / size + 0.5)} {unit}"


def age(moment: datetime, now: datetime) -> str:
    """`3 min ago`, `in 24 h`, `now`: a rough duration, which `api/dashboard/static/times.js` counts alike."""
    seconds = (now - moment).total_seconds()
    if abs(seconds) < 0.5:
        return "now"
    return f"{rough_duration(seconds)} ago" if seconds > 0 else f"in {rough_duration(-seconds)}"


def exact_duration(seconds: float) -> str:
    """The largest unit that has a whole number, so that nothing is lost: `90 min`, `36 h`, `0.5 s`."""
    for size, unit in UNITS:
        if seconds and seconds % size == 0:
            return f"{seconds / size:g} {unit}"
    return f"{seconds:g} s"


def _seconds(span: timedelta | float) -> float:
    return span.total_seconds() if isinstance(span, timedelta) else span
