"""Alerts of single endpoints: limits, and when an alert is raised and cleared. Pure.

An alert is raised as soon as its limit is crossed. It is cleared once the value has been well on the good side for a
whole quiet period, so that an endpoint that alternates does not raise it again and again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from everhook.health.score import AttemptStats, Health, Level
from everhook.notifications.events import EventKind

MAX_OVER = timedelta(hours=1)
MAX_DEAD_LETTERS = 10_000
CLEARED_BELOW = 0.8
"""The fraction of its limit at which an alert can be cleared, where large values are bad."""


class AlertName(StrEnum):
    """What an alert is about."""

    SUCCESS_RATE = "success_rate"
    DEAD_LETTERS = "dead_letters"
    LATENCY = "latency"


@dataclass(frozen=True)
class AlertLimits:
    """When alerts of an endpoint are raised. None: never.

    The success rate and the mean response time are those of the last `over`, if there were `min_attempts` attempts. An
    alert is cleared after a quiet period of the same length.
    """

    success_rate_below: float | None = 0.9
    over: timedelta = timedelta(minutes=10)
    min_attempts: int = 20
    dead_letters_above: int | None = 100
    latency_above_ms: float | None = None


def resolve(defaults: AlertLimits, *specs: Mapping[str, Any] | None) -> AlertLimits:
    """Merge limits as they are written in JSON; later ones override earlier ones key by key."""
    merged: dict[str, Any] = {}
    for spec in specs:
        merged |= spec or {}
    return AlertLimits(
        success_rate_below=merged.get("successRateBelow", defaults.success_rate_below),
        over=timedelta(minutes=merged["overMinutes"]) if "overMinutes" in merged else defaults.over,
        min_attempts=merged.get("minAttempts", defaults.min_attempts),
        dead_letters_above=merged.get("deadLettersAbove", defaults.dead_letters_above),
        latency_above_ms=merged.get("latencyAboveMs", defaults.latency_above_ms),
    )


class LimitSource(StrEnum):
    """Where a limit comes from. `DEFAULT` is the environment."""

    DEFAULT = "default"
    TENANT = "tenant"
    ENDPOINT = "endpoint"


@dataclass(frozen=True)
class AppliedLimits:
    """The limits that apply to an endpoint. `sources` are by the names that limits have in JSON; what is absent is a
    default."""

    limits: AlertLimits
    sources: Mapping[str, LimitSource]

    @classmethod
    def of(
        cls, defaults: AlertLimits, of_tenant: Mapping[str, Any] | None, of_endpoint: Mapping[str, Any] | None = None
    ) -> "AppliedLimits":
        return cls(
            resolve(defaults, of_tenant, of_endpoint),
            dict.fromkeys(of_tenant or (), LimitSource.TENANT) | dict.fromkeys(of_endpoint or (), LimitSource.ENDPOINT),
        )


@dataclass(frozen=True)
class Reading:
    """What is known of an endpoint now. `stats` are those of the last `AlertLimits.over`. `is_open`: its circuit is not
    closed, so that few attempts do not mean that it is well."""

    stats: AttemptStats
    dead_letters: int
    health: Health
    is_open: bool = False


@dataclass(frozen=True)
class RaisedAlert:
    """An alert that was raised at `since`. `quiet_since`: its value has been good since then."""

    since: datetime
    value: float
    threshold: float
    quiet_since: datetime | None = None


@dataclass(frozen=True)
class AlertState:
    """The last reported level of an endpoint, and its alerts. `better_since`: its level has been better since then."""

    level: Level = Level.HEALTHY
    better_since: datetime | None = None
    raised: Mapping[AlertName, RaisedAlert] = field(default_factory=dict)

    @property
    def is_default(self) -> bool:
        return self.level is Level.HEALTHY and not self.raised


@dataclass(frozen=True)
class AlertEvent:
    kind: EventKind
    data: dict[str, Any]


_RANKS = (Level.HEALTHY, Level.DEGRADED, Level.FAILING)


def evaluate(
    state: AlertState, reading: Reading, limits: AlertLimits, moment: datetime
) -> tuple[AlertState, Sequence[AlertEvent]]:
    """The next state, and the events that report the changes. Evaluating the same reading again changes nothing."""
    level, better_since = _level(state, reading.health, limits, moment)
    events: list[AlertEvent] = []
    if level is not state.level:
        events.append(_health_changed(state.level, level, reading.health))
    raised: dict[AlertName, RaisedAlert] = {}
    for name, value, threshold, good in _values(reading, limits):
        before = state.raised.get(name)
        after = _next(before, value, threshold, good, limits, moment)
        if after is not None:
            raised[name] = after
        if (before is None) != (after is None):
            kind = EventKind.ALERT_RAISED if after is not None else EventKind.ALERT_CLEARED
            data = {"alert": name.value, "value": value, "threshold": threshold, "overMinutes": _minutes(limits)}
            events.append(AlertEvent(kind, data))
    return AlertState(level, better_since, raised), events


def _level(state: AlertState, health: Health, limits: AlertLimits, moment: datetime) -> tuple[Level, datetime | None]:
    """A worse level counts at once, a better one after the quiet period."""
    level = Level.HEALTHY if health.level is Level.IDLE else health.level
    if level is state.level:
        return level, None
    if _RANKS.index(level) > _RANKS.index(state.level):
        return level, None
    since = state.better_since or moment
    return (level, None) if moment - since >= limits.over else (state.level, since)


def _health_changed(before: Level, after: Level, health: Health) -> AlertEvent:
    components = [
        {"name": part.name, "points": round(part.points, 1), "outOf": round(part.out_of, 1), "reason": part.reason}
        for part in health.parts
    ]
    data = {"from": before.value, "to": after.value, "score": health.score, "components": components}
    return AlertEvent(EventKind.HEALTH_CHANGED, data)


def _values(
    reading: Reading, limits: AlertLimits
) -> Sequence[tuple[AlertName, float | None, float | None, bool | None]]:
    """Of each alert its value, its threshold, and whether the value is good: False raises it, None is in between."""
    stats = reading.stats
    rate = stats.success_rate if stats.attempts >= limits.min_attempts else None
    mean_ms = stats.mean_ms if stats.responses >= limits.min_attempts else None
    dead, below = float(reading.dead_letters), limits.success_rate_below
    above, slow = limits.dead_letters_above, limits.latency_above_ms
    few = None if reading.is_open else True  # too few attempts to judge
    rate_is_good = few if rate is None or below is None else _is_good(-rate, -below, -(1 + below) / 2)
    return (
        (AlertName.SUCCESS_RATE, rate, below, rate_is_good),
        (AlertName.DEAD_LETTERS, dead, above, None if above is None else _is_good(dead, above, above * CLEARED_BELOW)),
        (
            AlertName.LATENCY,
            mean_ms,
            slow,
            few if mean_ms is None or slow is None else _is_good(mean_ms, slow, slow * CLEARED_BELOW),
        ),
    )


def _is_good(value: float, raise_above: float, clear_at: float) -> bool | None:
    if value > raise_above:
        return False
    return True if value <= clear_at else None


def _next(
    before: RaisedAlert | None,
    value: float | None,
    threshold: float | None,
    good: bool | None,
    limits: AlertLimits,
    moment: datetime,
) -> RaisedAlert | None:
    """The alert after this reading; None if it is not raised, or has been cleared."""
    if threshold is None:
        return None
    if before is None:
        return RaisedAlert(moment, value, threshold) if good is False and value is not None else None
    if not good:
        return replace(before, quiet_since=None)
    since = before.quiet_since or moment
    return None if moment - since >= limits.over else replace(before, quiet_since=since)


def _minutes(limits: AlertLimits) -> float:
    return limits.over / timedelta(minutes=1)
