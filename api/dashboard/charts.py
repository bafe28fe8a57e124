"""Charts as SVG, drawn here and styled by the stylesheet; each comes with the table it was drawn from. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from markupsafe import Markup

from api.dashboard import text
from everhook.delivery.policy import DeliveryPolicy

WIDTH, HEIGHT = 600, 96


@dataclass(frozen=True)
class Chart:
    """`rows` say in words and figures what `svg` shows; `labels` stand under it, from left to right."""

    svg: Markup
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    labels: tuple[str, ...] = ()
    top: str = ""


@dataclass(frozen=True)
class Column:
    """One step of time and what was counted in it, a number a series."""

    at: datetime
    counts: tuple[int, ...]

    @property
    def total(self) -> int:
        return sum(self.counts)


@dataclass(frozen=True)
class Band:
    """A part of a whole: `kind` is the class that colours it."""

    label: str
    count: int
    kind: str


def columns(label: str, series: Sequence[tuple[str, str]], steps: Sequence[Column]) -> Chart:
    """Stacked columns. `series`: name and class of each, the lowest first."""
    peak = _nice_peak(max((step.total for step in steps), default=0))
    width = WIDTH / max(len(steps), 1)
    gap = min(1.5, width / 5)
    parts: list[Markup] = []
    for index, (_, kind) in enumerate(series):
        path = "".join(_column(step, index, at, width, gap, peak) for at, step in enumerate(steps))
        if path:
            parts.append(Markup('<path class="{}" d="{}"/>').format(kind, path))
    names = [name for name, _ in series]
    for at, step in enumerate(steps):
        described = ", ".join(f"{count} {name}" for count, name in zip(step.counts, names, strict=True) if count)
        if described:
            parts.append(
                Markup('<rect class="hit" x="{}" width="{}" height="{}"><title>{} UTC: {}</title></rect>').format(
                    _n(at * width), _n(width), HEIGHT, f"{step.at:%H:%M}", described
                )
            )
    return Chart(
        svg=_svg(label, WIDTH, HEIGHT, parts, "columns"),
        headers=("Time (UTC)", *names),
        rows=tuple(
            (f"{step.at:%Y-%m-%d %H:%M}", *(text.count(count) for count in step.counts)) for step in steps if step.total
        ),
        labels=_time_labels(steps),
        top=text.count(peak),
    )


def _column(step: Column, series: int, at: int, width: float, gap: float, peak: int) -> str:
    count = step.counts[series]
    if not count:
        return ""
    height = max(count / peak * HEIGHT, 1)
    bottom = HEIGHT - sum(step.counts[:series]) / peak * HEIGHT
    return f"M{_n(at * width + gap / 2)} {_n(bottom)}v{_n(-height)}h{_n(width - gap)}v{_n(height)}z"


def _time_labels(steps: Sequence[Column]) -> tuple[str, ...]:
    if len(steps) < 3:
        return ()
    long = steps[-1].at - steps[0].at > timedelta(hours=24)
    shape = "%d %b %H:%M" if long else "%H:%M"
    first, middle, last = (f"{step.at:{shape}}" for step in (steps[0], steps[len(steps) // 2], steps[-1]))
    return (f"{first} UTC", middle, f"{last} UTC")


def sparkline(label: str, steps: Sequence[Column]) -> Markup:
    """Small columns for a row of a table: what went well, and on top of it what did not. Its words are its label."""
    peak = max((step.total for step in steps), default=0)
    width, height = 4, 20
    parts: list[Markup] = []
    for kind, index in (("ok", 0), ("bad", 1)):
        path = ""
        for at, step in enumerate(steps):
            if count := step.counts[index]:
                high = max(count / peak * height, 1.5)
                low = height - (step.counts[0] / peak * height if index else 0)
                path += f"M{at * width} {_n(low)}v{_n(-high)}h{width - 1}v{_n(high)}z"
        if path:
            parts.append(Markup('<path class="{}" d="{}"/>').format(kind, path))
    return _svg(label, width * len(steps), height, parts, "spark", stretch=False)


def shares(label: str, bands: Sequence[Band]) -> Chart:
    """A whole, as one bar in parts."""
    whole = sum(band.count for band in bands)
    parts: list[Markup] = []
    left = 0.0
    for band in bands:
        if band.count:
            wide = band.count / whole * WIDTH
            parts.append(
                Markup('<rect class="{}" x="{}" width="{}" height="12"><title>{}: {}</title></rect>').format(
                    band.kind, _n(left), _n(max(wide - 2, 1)), band.label, text.count(band.count)
                )
            )
            left += wide
    return Chart(
        svg=_svg(label, WIDTH, 12, parts, "shares"),
        headers=("Part", "Count", "Share"),
        rows=tuple((band.label, text.count(band.count), text.percent(band.count / whole)) for band in bands if whole),
    )


@dataclass(frozen=True)
class Span:
    """A state and since when it lasted."""

    state: str
    since: datetime
    kind: str


def states(label: str, spans: Sequence[Span], begin: datetime, end: datetime) -> Chart:
    """How long which state lasted, along time. `spans` are in order, and the first may begin before `begin`."""
    whole = (end - begin).total_seconds()
    parts: list[Markup] = []
    rows: list[tuple[str, ...]] = []
    for span, after in zip(spans, [*spans[1:], None], strict=True):
        since, until = max(span.since, begin), after.since if after is not None else end
        if until <= begin:
            continue
        lasted = until - since
        x = (since - begin).total_seconds() / whole * WIDTH
        parts.append(
            Markup('<rect class="{}" x="{}" width="{}" height="14"><title>{} from {} for {}</title></rect>').format(
                span.kind,
                _n(x),
                _n(max(lasted.total_seconds() / whole * WIDTH, 1.5)),
                span.state,
                text.clock(since),
                text.duration(lasted),
            )
        )
        rows.append((span.state, text.clock(since), text.duration(lasted)))
    shape = "%d %b %H:%M"
    return Chart(
        svg=_svg(label, WIDTH, 14, parts, "states"),
        headers=("State", "From", "For"),
        rows=tuple(rows),
        labels=(f"{begin:{shape}} UTC", f"{begin + (end - begin) / 2:{shape}}", "now"),
    )


def schedule(policy: DeliveryPolicy, width: int = 320) -> Chart:
    """When the attempts of a round are made, on a logarithmic scale: seconds and hours are both visible."""
    moments = [0.0]
    for delay in policy.delays:
        moments.append(moments[-1] + delay.total_seconds())
    longest = math.log1p(max(moments[-1], 1))
    places = [12 + math.log1p(moment) / longest * (width - 24) for moment in moments]
    parts = [Markup('<path class="axis" d="M{} 16H{}"/>').format(_n(places[0]), _n(places[-1]))]
    for number, (x, moment) in enumerate(zip(places, moments, strict=True), 1):
        parts.append(
            Markup('<circle class="due" cx="{}" cy="16" r="5"><title>Attempt {}: {}</title></circle>').format(
                _n(x), number, _offset(moment)
            )
        )
    parts += _schedule_labels(places, moments, width)
    return Chart(
        svg=_svg(_summary(policy, moments[-1]), width, 44, parts, "schedule", stretch=False),
        headers=("Attempt", "Earliest"),
        rows=tuple((str(number), _offset(moment)) for number, moment in enumerate(moments, 1)),
    )


def _schedule_labels(places: Sequence[float], moments: Sequence[float], width: int) -> list[Markup]:
    """As many labels as there is room for; the last one is always shown."""
    labels: list[Markup] = []
    last = len(places) - 1
    free_from = -math.inf
    for at, (x, moment) in enumerate(zip(places, moments, strict=True)):
        label = "at once" if not moment else f"+{text.duration(moment)}"
        wide = 6.4 * len(label)
        left = min(max(x - wide / 2, 0), width - wide)
        if left < free_from or (at < last and left + wide > width - 6.4 * len(text.duration(moments[-1])) - 20):
            continue
        labels.append(Markup('<text x="{}" y="38">{}</text>').format(_n(left), label))
        free_from = left + wide + 10
    return labels


def _summary(policy: DeliveryPolicy, last: float) -> str:
    if not policy.delays:
        return "One attempt"
    return f"{policy.attempts} attempts within {text.duration(last)}"


def _offset(seconds: float) -> str:
    return "at once" if not seconds else f"{text.duration(seconds)} after the first"


def _nice_peak(peak: int) -> int:
    """A round number that is no smaller, so that the scale does not jump with every message."""
    if peak <= 5:
        return 5
    power = 10 ** int(math.log10(peak))
    return int(next(step * power for step in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if step * power >= peak))


def _svg(
    label: str, width: float, height: float, parts: Sequence[Markup], kind: str, *, stretch: bool = True
) -> Markup:
    size = Markup(' preserveAspectRatio="none"') if stretch else Markup("")
    return Markup('<svg class="{}" viewBox="0 0 {} {}"{} role="img" aria-label="{}">{}</svg>').format(
        f"chart {kind}", _n(width), _n(height), size, label, Markup("").join(parts)
    )


def _n(number: float) -> str:
    """Short: a page may hold a thousand of them."""
    return f"{number:.1f}".removesuffix(".0")
