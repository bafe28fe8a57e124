"""Alerts of one endpoint: raised at once, cleared after a quiet period, and not in between."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from everhook.circuit.machine import CircuitState
from everhook.health.endpoint_alerts import (
    AlertEvent,
    AlertLimits,
    AlertName,
    AlertState,
    Reading,
    evaluate,
    resolve,
)
from everhook.health.score import AttemptStats, Health, Level, score_endpoint
from everhook.notifications.events import EventKind
from tests.stores.factories import moment

LIMITS = AlertLimits(latency_above_ms=500)
MINUTE = timedelta(minutes=1)
WELL = score_endpoint(AttemptStats(delivered=100), AttemptStats(delivered=100), CircuitState.CLOSED)


def stats(delivered: int, failed: int, mean_ms: int = 100) -> AttemptStats:
    count = delivered + failed
    return AttemptStats(delivered=delivered, retried=failed, duration_ms=count * mean_ms, under_500=count)


def reading(
    delivered: int = 100, failed: int = 0, dead: int = 0, mean_ms: int = 100, health: Health = WELL, **more: Any
) -> Reading:
    return Reading(stats(delivered, failed, mean_ms), dead, health, **more)


class Watched:
    """An endpoint that is evaluated once a minute."""

    def __init__(self, limits: AlertLimits = LIMITS) -> None:
        self.state = AlertState()
        self.limits = limits
        self.minute = 0

    def see(self, seen: Reading, minutes: int = 1) -> list[AlertEvent]:
        events: list[AlertEvent] = []
        for _ in range(minutes):
            self.minute += 1
            at = moment(60 * self.minute)
            self.state, found = evaluate(self.state, seen, self.limits, at)
            assert evaluate(self.state, seen, self.limits, at) == (self.state, []), "the same again changes nothing"
            events += found
        return events


def shown(events: list[AlertEvent]) -> list[tuple[EventKind, str]]:
    return [(event.kind, event.data["alert"]) for event in events]


BAD = {
    AlertName.SUCCESS_RATE: reading(89, 11),
    AlertName.DEAD_LETTERS: reading(dead=101),
    AlertName.LATENCY: reading(mean_ms=501),
}
NEARLY = {
    AlertName.SUCCESS_RATE: reading(90, 10),
    AlertName.DEAD_LETTERS: reading(dead=100),
    AlertName.LATENCY: reading(mean_ms=500),
}


def test_a_healthy_endpoint_changes_nothing() -> None:
    watched = Watched()
    assert watched.see(reading(), 100) == [] and watched.state.is_default


@pytest.mark.parametrize("name", AlertName)
def test_an_alert_is_raised_once_and_cleared_after_a_quiet_period(name: AlertName) -> None:
    watched = Watched()
    assert watched.see(NEARLY[name], 3) == []
    assert shown(watched.see(BAD[name], 3)) == [(EventKind.ALERT_RAISED, name)]
    assert watched.see(NEARLY[name], 30) == [], "in between it stays as it is"
    assert watched.see(reading(), 10) == []
    assert shown(watched.see(reading())) == [(EventKind.ALERT_CLEARED, name)]
    assert watched.state.is_default


@pytest.mark.parametrize("name", AlertName)
def test_an_endpoint_that_alternates_raises_its_alert_once(name: AlertName) -> None:
    watched = Watched()
    events = [event for _ in range(20) for event in [*watched.see(BAD[name]), *watched.see(reading(), 9)]]
    assert shown(events) == [(EventKind.ALERT_RAISED, name)]


def test_events_say_what_was_measured() -> None:
    [raised] = Watched().see(reading(80, 20))
    assert raised.data == {"alert": "success_rate", "value": 0.8, "threshold": 0.9, "overMinutes": 10.0}


def test_few_attempts_raise_nothing() -> None:
    assert Watched().see(reading(0, 19, mean_ms=9_000), 5) == []


def test_few_attempts_clear_an_alert_only_while_the_circuit_is_closed() -> None:
    """An endpoint that gets probes alone is not well."""
    watched = Watched()
    watched.see(reading(0, 100))
    assert watched.see(reading(0, 1, is_open=True), 60) == []
    assert watched.see(reading(0, 0), 10) == []
    assert shown(watched.see(reading(0, 0))) == [(EventKind.ALERT_CLEARED, AlertName.SUCCESS_RATE)]


@pytest.mark.parametrize(
    "off", [{"successRateBelow": None}, {"deadLettersAbove": None}, {"latencyAboveMs": None}], ids=str
)
def test_an_alert_that_is_turned_off_is_not_raised_and_is_cleared(off: dict[str, None]) -> None:
    [name] = [name for name, key in KEYS.items() if key in off]
    watched = Watched(resolve(LIMITS, off))
    assert watched.see(BAD[name], 5) == []
    watched = Watched()
    watched.see(BAD[name])
    watched.limits = resolve(LIMITS, off)
    assert shown(watched.see(BAD[name])) == [(EventKind.ALERT_CLEARED, name)]


KEYS = {
    AlertName.SUCCESS_RATE: "successRateBelow",
    AlertName.DEAD_LETTERS: "deadLettersAbove",
    AlertName.LATENCY: "latencyAboveMs",
}


def test_limits_are_merged_key_by_key() -> None:
    tenant = {"successRateBelow": 0.5, "overMinutes": 5, "latencyAboveMs": 300}
    endpoint = {"successRateBelow": None, "minAttempts": 7, "deadLettersAbove": 0}
    expected = AlertLimits(None, 5 * MINUTE, 7, 0, 300)
    assert resolve(AlertLimits(), tenant, None, endpoint) == expected
    assert resolve(LIMITS, None, {}) == LIMITS


def health(level: Level) -> Reading:
    return reading(health=replace(WELL, level=level))


def changes(events: list[AlertEvent]) -> list[tuple[str, str]]:
    assert all(event.kind is EventKind.HEALTH_CHANGED for event in events)
    return [(event.data["from"], event.data["to"]) for event in events]


def test_a_worse_level_is_reported_at_once_and_a_better_one_after_a_quiet_period() -> None:
    watched = Watched()
    assert changes(watched.see(health(Level.DEGRADED), 2)) == [("healthy", "degraded")]
    assert changes(watched.see(health(Level.FAILING), 2)) == [("degraded", "failing")]
    assert changes(watched.see(health(Level.HEALTHY), 10)) == []
    assert changes(watched.see(health(Level.HEALTHY))) == [("failing", "healthy")]
    assert watched.state.is_default


def test_a_level_that_alternates_is_reported_once() -> None:
    watched = Watched()
    seen = [event for _ in range(30) for level in Level for event in watched.see(health(level))]
    assert changes(seen) == [("healthy", "degraded"), ("degraded", "failing")]


def test_an_endpoint_without_traffic_is_healthy() -> None:
    assert Watched().see(health(Level.IDLE), 5) == []


def test_the_event_has_the_score_and_its_components() -> None:
    failing = score_endpoint(AttemptStats(rejected=50), AttemptStats(rejected=50), CircuitState.OPEN, failures=9)
    [event] = Watched(replace(LIMITS, success_rate_below=None)).see(reading(health=failing))
    assert (event.data["from"], event.data["to"], event.data["score"]) == ("healthy", "failing", failing.score)
    assert event.data["components"][-1] == {
        "name": "circuit",
        "points": 0.0,
        "outOf": 25,
        "reason": "the circuit is open, 9 failures in a row",
    }
