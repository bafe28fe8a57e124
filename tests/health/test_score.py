"""The score of an endpoint: the table is its specification."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everhook.circuit.machine import CircuitState, Hold
from everhook.health.score import AttemptStats, Level, Window, score_endpoint

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN
NOTHING = AttemptStats()


def tried(
    delivered: int, retried: int = 0, rejected: int = 0, *, quick: int = 0, slowish: int = 0, slow: int = 0
) -> AttemptStats:
    """Without bands, all responses to delivered attempts count as quick."""
    if not quick + slowish + slow:
        quick = delivered
    return AttemptStats(delivered, retried, rejected, under_500=quick, under_2000=slowish, slower=slow)


@pytest.mark.parametrize(
    ("hour", "day", "state", "hold", "score", "level"),
    [
        # Nothing to go by but the circuit
        (NOTHING, NOTHING, CLOSED, None, 100, Level.IDLE),
        (NOTHING, NOTHING, CLOSED, Hold.PAUSED, 100, Level.IDLE),
        (NOTHING, NOTHING, HALF_OPEN, None, 40, Level.FAILING),
        (NOTHING, NOTHING, OPEN, None, 0, Level.FAILING),
        (NOTHING, NOTHING, CLOSED, Hold.DISABLED, 0, Level.FAILING),
        # All is well
        (tried(1), tried(1), CLOSED, None, 100, Level.HEALTHY),
        (tried(1000), tried(24_000), CLOSED, None, 100, Level.HEALTHY),
        (NOTHING, tried(500), CLOSED, None, 100, Level.HEALTHY),
        (tried(995, 5), tried(995, 5), CLOSED, None, 100, Level.HEALTHY),
        # Failures, of either kind
        (tried(98, 2), tried(98, 2), CLOSED, None, 98, Level.HEALTHY),
        (tried(90, 10), tried(90, 10), CLOSED, None, 88, Level.DEGRADED),
        (tried(90, 0, 10), tried(90, 0, 10), CLOSED, None, 88, Level.DEGRADED),
        (tried(90, 10), tried(9990, 10), CLOSED, None, 92, Level.HEALTHY),
        (tried(100), tried(9000, 1000), CLOSED, None, 96, Level.HEALTHY),
        (tried(50, 50), tried(50, 50), CLOSED, None, 40, Level.FAILING),
        (tried(0, 100), tried(0, 100), CLOSED, None, 29, Level.FAILING),
        (tried(0, 100), tried(9900, 100), OPEN, None, 28, Level.FAILING),
        (tried(0, 100), tried(0, 100), OPEN, None, 0, Level.FAILING),
        (tried(100), tried(100), OPEN, None, 75, Level.DEGRADED),
        (tried(100), tried(100), HALF_OPEN, None, 85, Level.DEGRADED),
        (tried(100), tried(100), CLOSED, Hold.DISABLED, 75, Level.DEGRADED),
        (tried(100), tried(100), CLOSED, Hold.PAUSED, 100, Level.HEALTHY),
        # One failure of two is no trend
        (tried(1, 1), tried(1, 1), CLOSED, None, 69, Level.DEGRADED),
        (tried(9, 1), tried(9, 1), CLOSED, None, 88, Level.DEGRADED),
        # Slow
        (tried(100, slowish=100), tried(100, slowish=100), CLOSED, None, 92, Level.HEALTHY),
        (tried(100, slow=100), tried(100, slow=100), CLOSED, None, 85, Level.DEGRADED),
        (tried(100, slow=100), tried(100), CLOSED, None, 90, Level.HEALTHY),
        (tried(100, quick=50, slow=50), tried(100, quick=50, slow=50), CLOSED, None, 92, Level.HEALTHY),
    ],
)  # fmt: skip
def test_the_score(
    hour: AttemptStats, day: AttemptStats, state: CircuitState, hold: Hold | None, score: int, level: Level
) -> None:
    health = score_endpoint(hour, day, state, hold)
    assert (health.score, health.level) == (score, level)


def test_every_part_is_explained() -> None:
    health = score_endpoint(tried(9, 1), tried(200, 2, 1, slowish=3, slow=4, quick=195), OPEN, None, failures=5)
    assert [(part.name, part.reason) for part in health.parts] == [
        ("success_1h", "9 of 10 attempts delivered in the last hour"),
        ("success_24h", "200 of 203 attempts delivered in the last 24 hours"),
        (
            "latency_1h",
            "of 9 responses in the last hour, 9 came within 0.5 s, 0 within 2 s, 0 later; "
            "weighted lower because there are few",
        ),
        ("latency_24h", "of 202 responses in the last 24 hours, 195 came within 0.5 s, 3 within 2 s, 4 later"),
        ("circuit", "the circuit is open, 5 failures in a row"),
    ]
    assert [part.out_of for part in health.parts] == [40, 20, 9, 5, 25]


def test_parts_of_the_score_without_attempts_do_not_count() -> None:
    success, _, latency, _, circuit = score_endpoint(NOTHING, NOTHING, CLOSED, Hold.DISABLED).parts
    assert (success.out_of, success.reason) == (0, "nothing was tried in the last hour")
    assert (latency.out_of, latency.reason) == (0, "no responses in the last hour")
    assert circuit.reason == "the endpoint is disabled"


counts = st.integers(0, 10_000)
stats_by_endpoint = st.builds(
    AttemptStats, counts, counts, counts, under_100=counts, under_500=counts, under_2000=counts, slower=counts
)
states, holds = st.sampled_from(CircuitState), st.sampled_from([None, *Hold])


@given(stats_by_endpoint, stats_by_endpoint, states, holds)
def test_a_score_is_what_its_parts_earn(
    hour: AttemptStats, day: AttemptStats, state: CircuitState, hold: Hold | None
) -> None:
    health = score_endpoint(hour, day, state, hold)
    assert 0 <= health.score <= 100
    assert all(0 <= part.points <= part.out_of for part in health.parts)
    earned = sum(part.points for part in health.parts) / sum(part.out_of for part in health.parts)
    assert health.score == round(100 * earned)


@given(st.integers(10, 1_000), st.integers(0, 999), states)
def test_a_failure_more_never_raises_the_score(attempts: int, failed: int, state: CircuitState) -> None:
    failed = min(failed, attempts - 1)
    fewer = tried(attempts - failed, failed, quick=attempts)
    more = tried(attempts - failed - 1, failed + 1, quick=attempts)
    assert score_endpoint(more, more, state).score <= score_endpoint(fewer, fewer, state).score


def test_a_sum_of_tallies_has_all_that_its_parts_have() -> None:
    total = AttemptStats.total([AttemptStats(1, 2, 3, 40, 5, 6, 7, 8), AttemptStats(1, 1, 1, 10, 1, 1, 1, 1)])
    assert total == AttemptStats(2, 3, 4, 50, 6, 7, 8, 9)
    assert (total.attempts, total.responses, total.success_rate, total.mean_ms) == (9, 30, 2 / 9, 50 / 30)
    assert (NOTHING.success_rate, NOTHING.mean_ms, AttemptStats.total([])) == (None, None, NOTHING)


@pytest.mark.parametrize("window", Window)
def test_a_chart_has_some_dozens_of_buckets(window: Window) -> None:
    count, rest = divmod(window.length, window.bucket)
    assert 60 <= count <= 100 and not rest
