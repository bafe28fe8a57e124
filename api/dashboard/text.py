"""How figures, durations and moments read. Pure; every moment is in UTC and says so."""

from datetime import datetime, timedelta

_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def count(number: int, at_most: int | None = None) -> str:
    """`12,345`; `10,000+` where counting stopped there."""
    return f"{number:,}+" if at_most is not None and number >= at_most else f"{number:,}"


def percent(share: float | None) -> str:
    """`99.5 %`. Nothing that failed rounds up to a hundred."""
    if share is None:
        return "—"
    shown = 100 * share
    if share < 1 and shown > 99.9:
        return "99.9 %"
    return f"{shown:.0f} %" if shown in (0, 100) else f"{shown:.1f} %"


def milliseconds(ms: float | None) -> str:
    """`84 ms`, `1.3 s`."""
    if ms is None:
        return "—"
    return f"{ms:.0f} ms" if ms < 1_000 else f"{ms / 1_000:.1f} s"


def duration(span: timedelta | float) -> str:
    """The two largest units: `2 h 5 min`, `30 s`, `0.3 s`."""
    seconds = span.total_seconds() if isinstance(span, timedelta) else span
    if 0 < seconds < 1:
        return f"{seconds:.1g} s"
    left = round(seconds)
    parts: list[str] = []
    for size, unit in _UNITS:
        if left >= size and len(parts) < 2:
            parts.append(f"{left // size} {unit}")
            left %= size
        elif parts:
            break
    return " ".join(parts) or "0 s"


def age(moment: datetime, now: datetime) -> str:
    """`3 min ago`, `in 2 h`, `now`: one unit, as `static/times.js` goes on to count it."""
    seconds = (now - moment).total_seconds()
    for size, unit in _UNITS:
        if abs(seconds) >= size:
            span = f"{int(abs(seconds) // size)} {unit}"
            return f"{span} ago" if seconds > 0 else f"in {span}"
    return "now"


def clock(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def exactly(seconds: float) -> str:
    """A length of time in its largest whole unit, so that nothing is lost: `90 min`, `36 h`, `0.5 s`."""
    for size, unit in _UNITS:
        if seconds and seconds % size == 0:
            return f"{seconds / size:g} {unit}"
    return f"{seconds:g} s"
