"""How well an endpoint works, from 0 to 100, and the reasons. Pure. `tests/health/test_score.py` has the specification.

Five components make up the score: the share of attempts that were delivered and the response times, each in the last
hour and in the last day, and the circuit. Each earns points out of a maximum; the score is the sum of the points in
percent of the sum of the maxima. A component with little evidence weighs less, one without any does not count.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from enum import StrEnum

from everhook.circuit.machine import CircuitState, Hold

HOUR, DAY = timedelta(hours=1), timedelta(days=1)

ENOUGH_ATTEMPTS = 10
"""With fewer attempts in its window a component weighs proportionally less: one failure of two attempts is no trend."""

GOOD_RATE, BAD_RATE = 0.995, 0.5
"""A success rate of at least the first earns all points, of at most the second none; linear in between."""

HEALTHY_FROM, DEGRADED_FROM = 90, 60


class Level(StrEnum):
    """The score in a word. `IDLE`: no attempts within a day, and nothing is known to be wrong."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    FAILING = "failing"
    IDLE = "idle"


class Window(StrEnum):
    """How far to look back. `bucket` is the length of a step in charts."""

    HOUR = "1h"
    DAY = "24h"
    WEEK = "7d"

    @property
    def length(self) -> timedelta:
        return {Window.HOUR: HOUR, Window.DAY: DAY, Window.WEEK: 7 * DAY}[self]

    @property
    def bucket(self) -> timedelta:
        minutes = {Window.HOUR: 1, Window.DAY: 15, Window.WEEK: 120}[self]
        return timedelta(minutes=minutes)


@dataclass(frozen=True)
class AttemptStats:
    """Outcomes of attempts: one roll-up, or the sum of many. See `EndpointMinute` for the fields."""

    delivered: int = 0
    retried: int = 0
    rejected: int = 0
    duration_ms: int = 0
    under_100: int = 0
    under_500: int = 0
    under_2000: int = 0
    slower: int = 0

    @property
    def attempts(self) -> int:
        return self.delivered + self.retried + self.rejected

    @property
    def responses(self) -> int:
        return self.under_100 + self.under_500 + self.under_2000 + self.slower

    @property
    def success_rate(self) -> float | None:
        return self.delivered / self.attempts if self.attempts else None

    @property
    def mean_ms(self) -> float | None:
        """The mean response time; None if there were no responses."""
        return self.duration_ms / self.responses if self.responses else None

    @classmethod
    def total(cls, stats_by_endpoint: Iterable["AttemptStats"]) -> "AttemptStats":
        rows = list(stats_by_endpoint)
        return cls(**{field.name: sum(getattr(row, field.name) for row in rows) for field in fields(cls)})


@dataclass(frozen=True)
class ScoreComponent:
    """One reason for a score: `points` earned of `out_of`. `reason` is for people."""

    name: str
    points: float
    out_of: float
    reason: str


@dataclass(frozen=True)
class Health:
    score: int
    level: Level
    parts: tuple[ScoreComponent, ...]


def score_endpoint(
    hour: AttemptStats, day: AttemptStats, state: CircuitState, hold: Hold | None = None, failures: int = 0
) -> Health:
    """The score of an endpoint. `hour` and `day` are its statistics of the last hour and day; `failures` are those
    in a row that its circuit counts now."""
    parts = (
        _success("success_1h", 40, hour, "hour"),
        _success("success_24h", 20, day, "24 hours"),
        _latency("latency_1h", 10, hour, "hour"),
        _latency("latency_24h", 5, day, "24 hours"),
        _circuit(25, state, hold, failures),
    )
    score = round(100 * sum(part.points for part in parts) / sum(part.out_of for part in parts))
    idle = not day.attempts and score == 100
    return Health(score, Level.IDLE if idle else _level(score), parts)


def _level(score: int) -> Level:
    if score >= HEALTHY_FROM:
        return Level.HEALTHY
    return Level.DEGRADED if score >= DEGRADED_FROM else Level.FAILING


def _success(name: str, out_of: float, stats: AttemptStats, span: str) -> ScoreComponent:
    if stats.success_rate is None:
        return ScoreComponent(name, 0.0, 0.0, f"nothing was tried in the last {span}")
    earned = min(1.0, max(0.0, (stats.success_rate - BAD_RATE) / (GOOD_RATE - BAD_RATE)))
    weighed = _weighed(out_of, stats.attempts)
    reason = f"{stats.delivered} of {stats.attempts} attempts delivered in the last {span}"
    return ScoreComponent(name, earned * weighed, weighed, reason + _note(weighed, out_of))


def _latency(name: str, out_of: float, stats: AttemptStats, span: str) -> ScoreComponent:
    """Responses within half a second earn all points, within two seconds half, later ones none."""
    if not stats.responses:
        return ScoreComponent(name, 0.0, 0.0, f"no responses in the last {span}")
    quick = stats.under_100 + stats.under_500
    earned = (quick + stats.under_2000 / 2) / stats.responses
    weighed = _weighed(out_of, stats.responses)
    reason = (
        f"of {stats.responses} responses in the last {span}, {quick} came within 0.5 s, {stats.under_2000} within 2 s, "
        f"{stats.slower} later"
    )
    return ScoreComponent(name, earned * weighed, weighed, reason + _note(weighed, out_of))


def _circuit(out_of: float, state: CircuitState, hold: Hold | None, failures: int) -> ScoreComponent:
    """The component of the circuit. A pause is an operator's decision and says nothing about the endpoint."""
    shares = {CircuitState.CLOSED: 1.0, CircuitState.HALF_OPEN: 0.4, CircuitState.OPEN: 0.0}
    share = 0.0 if hold is Hold.DISABLED else shares[state]
    reason = "the endpoint is disabled" if hold is Hold.DISABLED else f"the circuit is {state.value.replace('_', '-')}"
    return ScoreComponent(
        "circuit", share * out_of, out_of, f"{reason}, {failures} failures in a row" if failures else reason
    )


def _weighed(out_of: float, evidence: int) -> float:
    return out_of * min(1.0, evidence / ENOUGH_ATTEMPTS)


def _note(weighed: float, out_of: float) -> str:
    return "; weighted lower because there are few" if weighed < out_of else ""


QUIET = timedelta(minutes=15)
"""An error that recurs after a longer pause counts as a new one."""


@dataclass(frozen=True)
class ErrorInterval:
    """An error occurred `count` times between two moments."""

    first: datetime
    last: datetime
    count: int = 1


def ongoing_since(intervals: Iterable[ErrorInterval]) -> datetime:
    """When the latest of these intervals began, without a pause longer than `QUIET`."""
    latest_first = sorted(intervals, key=lambda interval: interval.last, reverse=True)
    since = latest_first[0].first
    for interval in latest_first[1:]:
        if since - interval.last > QUIET:
            break
        since = min(since, interval.first)
    return since
